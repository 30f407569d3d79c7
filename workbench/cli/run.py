"""`workbench run EXPERIMENT.yaml`: execute an experiment's notebook, live or from its recordings."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from workbench.errors import BadSpec

HELP = "execute an experiment: its notebook, once per point of its parameter grid"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="the experiment (see docs/experiments.md)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--live", dest="source", action="store_const", const="live", help="record on this machine, or fail"
    )
    where.add_argument(
        "--replay", dest="source", action="store_const", const="replay", help="use the experiment's recordings"
    )
    parser.set_defaults(source="auto")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the outputs (default: out/runs)")
    parser.add_argument(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a parameter of the notebook; VALUE is YAML, as in the file; one of the grid gets this value only",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="notebooks to run at a time (default: one per CPU)")
    parser.add_argument("--force", action="store_true", help="execute also what has not changed since it completed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(args: argparse.Namespace) -> int:
    """Run; 0 if every notebook completed."""
    from workbench.runs.experiment import load_experiment
    from workbench.runs.result import Interrupted
    from workbench.runs.run import run

    experiment = load_experiment(args.experiment)
    if args.parameter:
        experiment = experiment.with_parameters(dict(map(_parameter, args.parameter)))
    try:
        result = run(experiment, args.source, args.output, force=args.force, workers=args.workers)
    except Interrupted as stop:
        _show(stop.result, args.json)
        print("interrupted; the same command goes on where this one ended", file=sys.stderr)
        return stop.exit_status
    _show(result, args.json)
    return 0 if result.completed else 1


def _parameter(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise BadSpec(f"-p {text!r} is not NAME=VALUE", "as in -p seconds=5 or -p 'sizes=[1, 2]'")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _show(result: Any, as_json: bool) -> None:
    from workbench.runs.reproduce import table

    if as_json:
        print(json.dumps(result.as_json(), indent=1))
        return
    for point in result.points:
        state = "cached" if point.cached else point.status
        print(f"{point.title}: {state}, {point.source}{': ' + point.error if point.error else ''}")
        if point.notebook.exists():
            print(f"  notebook  {point.notebook}")
        if point.html.exists():
            print(f"  page      {point.html}")
        if point.log.exists():
            print(f"  log       {point.log}")
    if result.verdicts:
        print()
        print(table(result.verdicts))
