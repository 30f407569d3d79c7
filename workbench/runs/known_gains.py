"""Predicted gains beside the truth, where the truth is known. Behind notebook 04.

The workload is `causal_shapes`, whose regions can really be shortened while it runs: each prediction and its truth
come from the same process. Measured in a guest of the lab; in the deterministic mode on any machine alike. What many
boots of a parallel guest gave (`workbench bench causal-guest`), and what the simulator gives, become the same frame.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from workbench.causal.shapes import ONE_CPU, SHAPES, Shape, scale
from workbench.errors import BadSpec
from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd

    from workbench.frames.recording import Recording
    from workbench.frames.view import RecordingView

__all__ = (
    "CASES",
    "CURVE",
    "Case",
    "beside",
    "keep_boots",
    "keep_simulated",
    "measure_boots",
    "measure_gains",
    "measure_here",
    "profile_curve",
    "simulate",
    "summary",
)

SPEEDUPS = (0.25, 0.5, 0.75)
_COLUMNS = (
    "origin", "run", "accepted", "cpus", "label", "region", "null", "speedup", "predicted", "true", "uncertainty",
    "period", "overhead",
)  # fmt: skip
_WORK = 0.37  # of ONE_CPU, whose amounts are for turns of 45 ns: they take 120 ns of that clock
_LIMIT = 2400.0  # s of wall time; a guest on a busy host is many times slower than on an idle one


@dataclass(frozen=True)
class Case:
    """A shape of the workload under a `label`, and the speed-ups to predict."""

    label: str
    shape: Shape
    speedups: tuple[float, ...] = SPEEDUPS


#: Rounds of some 12 ms of a deterministic guest's clock. On its one CPU, work beside other work takes time from it, so
#: nobody waits for a region only where a timer is what is waited for.
CASES = tuple(Case(name, shape.scaled(_WORK)) for name, shape in ONE_CPU.items())
#: A computation of 10 ms beside a wait of 6 ms: its gain ends where the wait is what is waited for.
CURVE = Case(
    "timer, 6 ms",
    Shape("timer", (100_000, 0, 0, 6_000_000, 0), ("region_a",)),
    (0.2, 0.4, 0.6, 0.8),
)


def measure_gains(
    output: str | Path,
    cases: Sequence[Case] = CASES,
    *,
    rounds: int = 3,
    seconds: float = 0.3,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Recording:
    """Predict the gains of shapes of the workload, and measure them, in one boot of a deterministic guest.

    Parameters
    ----------
    output : path
        Folder of the recording.
    cases : sequence of Case
    rounds : int
        Experiments per condition.
    seconds : float
        Of an experiment.
    overwrite : bool
        Replace the recording.
    progress : callable, optional
        Called with a line of text for each prediction.

    Returns
    -------
    Recording
        With frame `causal_gains`.

    Raises
    ------
    MissingCapability
        No guest can boot: `workbench lab prepare` was not run.
    RunFailed
        The guest's part failed.
    """
    from workbench.lab.vm import lab

    todo = {
        "cases": [asdict(one) for one in cases], "rounds": rounds, "seconds": seconds,
        "settle": 4.0, "seed": 1,
    }  # fmt: skip
    say = progress or (lambda text: None)
    rows: list[dict[str, Any]] = []
    rest = b""

    def show(stream: int, data: bytes) -> None:
        nonlocal rest
        if stream != 1:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            rows.append(json.loads(line))
            say(_line(rows[-1]))

    with lab("deterministic", progress=say) as vm:
        words = ["python3", "-m", "workbench.runs.known_gains_guest", json.dumps(todo)]
        vm.run(words, limit=_LIMIT, check=True, show=show)
        about = vm.about
    own = {"run": 0, "accepted": True, "cpus": about["cpus"]}
    return _keep(output, [own | one for one in rows], {"guest": about}, overwrite=overwrite)


def profile_curve(
    output: str | Path, *, rounds: int = 3, overwrite: bool = False, quiet: bool = False
) -> Recording:
    """A causal profile of `CURVE` in a deterministic guest, as `workbench causal run --lab` makes it.

    Parameters
    ----------
    output : path
    rounds : int
        Experiments at each of ten speed-ups.
    overwrite, quiet : bool
        See `workbench.causal.api.causal`.
    """
    import tempfile

    import numpy as np

    from workbench.causal.api import causal
    from workbench.native.build import workload

    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        amounts = Path(folder) / "amounts"
        numbers = np.zeros(512, np.uint64)
        numbers[: len(CURVE.shape.work)] = CURVE.shape.work
        numbers.tofile(amounts)
        return causal(
            "progress", CURVE.shape.regions, lab=True, files=[str(amounts)],
            command=[str(workload("causal_shapes")), CURVE.shape.name, str(amounts)],
            speedups=[number / 10 for number in range(10)], rounds=rounds, shortest=0.3, min_debt=100,
            output=output, overwrite=overwrite, quiet=quiet, limit=_LIMIT,
        )  # fmt: skip


def measure_here(
    output: str | Path,
    *,
    rounds: int = 12,
    seconds: float = 0.16,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Recording:
    """Predict gains with the userspace runtime on this machine, whatever its kernel; it should do nothing else.

    Parameters
    ----------
    output : path
    rounds : int
        Experiments per condition.
    seconds : float
        Of an experiment.
    overwrite : bool
    progress : callable, optional
        Called with a line of text for each prediction.

    Returns
    -------
    Recording
        With frame `causal_gains`: shapes of one process, with amounts of work for several CPUs.
    """
    import os

    from workbench.runs.known_gains_guest import predictions

    factor, random, rows = scale(), Random(1), []
    for shape in SHAPES.values():
        if shape.processes > 1:
            continue
        found = predictions(
            shape.scaled(factor), SPEEDUPS, "userspace",
            rounds=rounds, seconds=seconds, random=random, drifting=True,
        )  # fmt: skip
        for one in found:
            rows.append(
                {"label": shape.name, "run": 0, "accepted": True, "cpus": os.cpu_count(), **one}
            )
            if progress:
                progress(_line(rows[-1]))
    return _keep(output, rows, {}, overwrite=overwrite)


def _line(one: dict[str, Any]) -> str:
    return (
        f"{one['origin']}: {one['label']} {one['region']} {one['speedup']:.0%} faster: predicted "
        f"{one['predicted']:+.2f} %, true {one['true']:+.2f} %"
    )


def keep_boots(output: str | Path, lines: Iterable[str], *, overwrite: bool = False) -> Recording:
    """What boots of guests said (`workbench bench causal-guest`), as a recording.

    Parameters
    ----------
    output : path
    lines : iterable of str
        Of the file that the benchmark appends to: JSON, each with the number of its ``boot``. Of ``kind`` calibration:
        one per parallel boot, whose ``accepted`` is the gate's word. Of ``kind`` prediction: one per shape, region and
        speed-up. A parallel boot without calibration counts as refused.
    overwrite : bool

    Returns
    -------
    Recording
        With frames `causal_gains` (``origin`` is "scheduler", ``run`` the boot) and `causal_boots`.

    Raises
    ------
    BadSpec
        No prediction among the lines, or a line of no boot.
    """
    found = [json.loads(line) for line in lines if line.strip()]
    if strange := next((one for one in found if "boot" not in one), None):
        raise BadSpec(f"this line is of no boot: {json.dumps(strange)[:80]}", 'add "boot": NUMBER')
    guests = {one["boot"]: one for one in found if one["kind"] == "guest"}
    checked = {one["boot"]: one for one in found if one["kind"] == "calibration"}
    rows, boots = [], []
    for one in found:
        own = checked.get(one["boot"], {"accepted": one.get("mode") == "deterministic"})
        if one["kind"] == "prediction":
            rows.append(
                {**one, "origin": "scheduler", "run": one["boot"], "label": one["shape"]}
                | {"cpus": guests.get(one["boot"], {}).get("cpus", 0), "accepted": own["accepted"]}
            )
    for number in sorted({one["boot"] for one in found}):
        own = checked.get(number, {"accepted": False, "reasons": ["it did not measure itself"]})
        numbers = {name: float(own.get(name, math.nan)) for name in _GATE}
        reason = "; ".join(own.get("reasons", ()))
        boots.append({"boot": number, "accepted": own["accepted"], "reason": reason, **numbers})
    about = {"guests": [guests[number] for number in sorted(guests)]}
    return _keep(output, rows, about, overwrite=overwrite, boots=boots if checked else ())


_GATE = (
    "stop_cost", "stop_cost_error", "predicted", "true", "null_predicted", "null_true", "period_difference",
    "uncertainty", "noise", "drift",
)  # fmt: skip


def measure_boots(output: str | Path, boots: int = 2, *, overwrite: bool = False) -> Recording:
    """Boot parallel guests and keep what `workbench bench causal-guest` measures in each; two minutes a boot."""
    import tempfile

    from workbench.bench.causal_guest import run

    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        lines = Path(folder) / "boots.jsonl"
        run(boots=boots, output=str(lines))
        return keep_boots(output, lines.read_text().splitlines(), overwrite=overwrite)


def simulate(output: str | Path, programs: int = 60, *, overwrite: bool = False) -> Recording:
    """Predict gains of random programs in the simulator and keep them; about a second a program."""
    from workbench.sched.fidelity import campaign

    return keep_simulated(output, campaign(range(programs), workers=1), overwrite=overwrite)


def keep_simulated(
    output: str | Path, campaign: pd.DataFrame, *, overwrite: bool = False
) -> Recording:
    """A campaign of the simulator (`workbench.sched.fidelity.campaign`) as a recording.

    Gains are kept to hundredths of a point. ``run`` is the seed of the simulated program.
    """
    from workbench.sched.fidelity import ZERO

    rows = [
        {
            "origin": "simulator", "run": one["seed"], "accepted": True, "cpus": one["cpus"], "label": one["shape"],
            "region": "region", "null": abs(one["true"]) < ZERO, "speedup": one["speedup"],
            "predicted": round(one["predicted"], 2), "true": round(one["true"], 2),
        }
        for one in campaign.to_dict("records")
    ]  # fmt: skip
    return _keep(output, rows, {}, overwrite=overwrite)


def _keep(
    output: str | Path,
    rows: Sequence[dict[str, Any]],
    options: dict[str, Any],
    *,
    overwrite: bool,
    boots: Sequence[dict[str, Any]] = (),
) -> Recording:
    if not rows:
        raise BadSpec("there is no prediction to keep")
    with RecordingWriter(output, command=(), options=options, overwrite=overwrite) as writer:
        columns = {name: [row.get(name, math.nan) for row in rows] for name in _COLUMNS}
        writer.append("causal_gains", columns)
        if boots:
            writer.append("causal_boots", {name: [one[name] for one in boots] for name in boots[0]})
    return writer.finish()


def summary(frame: pd.DataFrame, by: str = "origin") -> pd.DataFrame:
    """Errors (predicted minus true, in points) of a frame `causal_gains`, for each value of `by`.

    Returns
    -------
    DataFrame
        ``predictions``, ``median`` and ``percentile_95`` of the absolute error, ``rms``, ``largest``, and
        ``largest_null``: that where the true gain is nothing; NaN without such.
    """
    import numpy as np
    import pandas as pd

    error = (frame["predicted"] - frame["true"]).abs()
    found = {}
    for value, size in error.groupby(frame[by].to_numpy(), sort=False):
        null = frame["null"].loc[size.index].astype(bool)
        found[value] = {
            "predictions": len(size),
            "median": size.median(),
            "percentile_95": size.quantile(0.95),
            "rms": np.sqrt((size**2).mean()),
            "largest": size.max(),
            "largest_null": size[null].max() if null.any() else math.nan,
        }
    table = pd.DataFrame.from_dict(found, orient="index").astype({"predictions": int})
    return table.rename_axis(by)


def beside(profile: RecordingView, gains: RecordingView, label: str = CURVE.label) -> pd.DataFrame:
    """What a profile predicts beside what really shortening gave, where both were measured.

    Parameters
    ----------
    profile : Recording
        With frame `causal_profile`.
    gains : Recording
        With frame `causal_gains`.
    label : str
        Of the program.

    Returns
    -------
    DataFrame
        ``region``, ``speedup``, ``predicted``, ``low``, ``high``, ``true`` (%), ``error`` (points).
    """
    frame = gains.frame("causal_gains").astype({"label": str, "origin": str, "region": str})
    true = frame[(frame["label"] == label) & (frame["origin"] == "scheduler")]
    made = profile.frame("causal_profile").astype({"region": str})
    columns = ["region", "speedup", "change", "low", "high"]
    both = (
        made[columns]
        .round({"speedup": 6})
        .merge(true[["region", "speedup", "true"]].round({"speedup": 6}), on=["region", "speedup"])
    )
    both = both.rename(columns={"change": "predicted"})
    return both.assign(error=both["predicted"] - both["true"])


def main(words: Sequence[str]) -> None:
    """``python -m workbench.runs.known_gains WHAT OUTPUT [LINES]``: make one recording.

    WHAT is profile, shapes, userspace, simulated (2,000 programs) or boots (of a file that `workbench bench
    causal-guest` made with `--output`; without it two boots are measured).
    """
    what, output, *rest = words
    lines = Path(rest[0]).read_text().splitlines() if rest else None
    made = {
        "profile": lambda: profile_curve(output, quiet=True),
        "shapes": lambda: measure_gains(output, [*CASES, CURVE], progress=print),
        "userspace": lambda: measure_here(output, progress=print),
        "simulated": lambda: simulate(output, 2000),
        "boots": lambda: measure_boots(output) if lines is None else keep_boots(output, lines),
    }
    if what not in made:
        raise BadSpec(f"there is no {what!r}", f"there are: {', '.join(made)}")
    print(made[what]())


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
