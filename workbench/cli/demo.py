"""`workbench demo`: run the tour and say where its results are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from workbench.errors import BadSpec, RunFailed

__all__ = ("configure", "execute")

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "tour.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", default="out/demo", help="folder of the results (out/demo)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--live", action="store_true", help="record, and fail where this machine cannot"
    )
    where.add_argument("--replay", action="store_true", help="use the recording in datasets/")
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Run experiments/tour.yaml; live where the machine can, else replayed."""
    from workbench.runs.experiment import load_experiment
    from workbench.runs.run import run
    from workbench.runs.source import resolve

    if not EXPERIMENT.exists():
        raise BadSpec(
            "the demo needs a checkout of the project", "clone it and run `make demo` there"
        )
    experiment = load_experiment(EXPERIMENT)
    asked = "live" if arguments.live else "replay" if arguments.replay else "auto"
    source, why = resolve(asked, experiment.needs)
    if source == "replay":
        print(
            f"replaying datasets/tour{': this machine cannot record (' + why + ')' if why else ''}"
        )
    result = run(experiment, source=source, output=Path(arguments.output), force=True)
    if not result.ok:
        raise RunFailed(
            "the tour did not run to its end",
            f"read the executed notebook under {arguments.output}",
        )
    folder = result.points[0].folder
    recording = (
        folder / "recording"
        if source == "live"
        else (EXPERIMENT.parent / "../datasets/tour").resolve()
    )
    paths = {
        "figure": folder / "flamegraph.png",
        "timeline": folder / "timeline.png",
        "notebook": result.points[0].notebook,
        "html": result.points[0].html,
        "recording": recording,
    }
    if arguments.json:
        print(json.dumps({"source": source} | {name: str(path) for name, path in paths.items()}))
    else:
        for name, path in paths.items():
            print(f"{name:9}  {path}")
    return 0
