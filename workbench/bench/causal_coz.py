"""Coz and SchedCoz on the same program in the same guest, beside what really shortening the work gives.

Everything is measured in one boot, in turns and in an order that is drawn anew each time: the program alone under the
kernel's own scheduler with its work as it is and really shortened (the truth), under SchedCoz with both, and under Coz
(Debian's coz-profiler), which gets a process of its own for each speed-up as its options ask for.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.bench.causal_coz_guest import Measurement, Setup
from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from workbench.lab.vm import Vm

__all__ = (
    "DESCRIPTION",
    "Comparison",
    "Prediction",
    "lines_from_guest",
    "overheads",
    "predictions",
    "run",
    "setups",
    "summarise",
)

DESCRIPTION = "SchedCoz and Coz itself in one guest: errors against the truth, spread, overheads (half an hour)"

#: Shape, sizes of its work (see causal_shapes.c), region, which size is the region's.
CASES: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("serial", (70_000, 50_000, 0, 0, 0), "region_a"),
    ("join", (70_000, 50_000, 0, 0, 0), "region_b"),
    ("timer", (70_000, 0, 0, 8_400_000, 0), "region_a"),
    ("barrier", (70_000, 50_000, 5_000, 0, 0), "region_a"),
    ("lock", (20_000, 0, 50_000, 0, 0), "region_a"),
    ("queue", (70_000, 50_000, 0, 0, 0), "region_a"),
    ("pipe", (70_000, 50_000, 0, 0, 0), "region_b"),
    ("pipe", (70_000, 50_000, 0, 0, 0), "region_a"),
    ("hidden", (20_000, 20_000, 0, 14_000_000, 8_000_000), "region_a"),
)
#: Coz sees the threads of the process that it was loaded into. This one's region runs in another.
OTHER_PROCESS = {"pipe"}
#: A turn is faster where time is the host's than where it is counted in instructions.
TURNS, WAITS = {"deterministic": 1, "parallel": 3}, {"deterministic": 1.0, "parallel": 1.5}
PROGRAM = "causal_shapes_coz"
_IN_GUEST = "/tmp"
_REPEATS = 3
_SLOWEST = 60.0  # a guest on a busy host is this much slower than its clock says
_SECONDS = 20.0  # of the guest's clock, for each case and repeat


@dataclass(frozen=True, slots=True)
class Prediction:
    """Gains are changes of the time of a round in %, negative: faster; errors and spreads in points.

    Attributes
    ----------
    truth : float
        What really shortening the work gives under the kernel's own scheduler.
    truth_schedcoz : float
        The same under SchedCoz.
    schedcoz, coz : float
        Predicted, from the medians of all repeats.
    schedcoz_spread, coz_spread : float
        Standard deviation of the gain over repeats; NaN with one.
    coz_hits : int
        Samples that Coz had in the region.
    comparable : bool
        Coz can see the region, and what waits for it.
    """

    shape: str
    region: str
    speedup: float
    truth: float
    truth_schedcoz: float
    schedcoz: float
    coz: float
    schedcoz_spread: float
    coz_spread: float
    coz_hits: int
    comparable: bool

    @property
    def schedcoz_error(self) -> float:
        """Points that SchedCoz is off."""
        return self.schedcoz - self.truth

    @property
    def coz_error(self) -> float:
        """Points that Coz is off."""
        return self.coz - self.truth


@dataclass(frozen=True, slots=True)
class Comparison(BenchResult):
    """All predictions beside rows and checks; `guest` says where they were made."""

    predictions: tuple[Prediction, ...] = ()
    guest: str = ""

    def to_json(self) -> dict[str, Any]:
        """See `BenchResult.to_json`; with ``predictions`` and ``guest``."""
        listed = [
            {
                key: None if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in (
                    asdict(one) | {"schedcoz_error": one.schedcoz_error, "coz_error": one.coz_error}
                ).items()
            }
            for one in self.predictions
        ]
        return BenchResult.to_json(self) | {"guest": self.guest, "predictions": listed}

    def __str__(self) -> str:
        lines = [f"{self.guest}", _HEAD]
        lines += [
            f"{one.shape:9s}{one.region:10s}{one.speedup:6.0%}{one.truth:+9.1f}{one.schedcoz_error:+10.1f}"
            f"{one.coz_error:+8.1f}{one.schedcoz_spread:10.2f}{one.coz_spread:8.2f}"
            + ("" if one.comparable else "   (two processes: not for Coz)")
            for one in self.predictions
        ]
        return "\n".join([*lines, BenchResult.__str__(self)])


_HEAD = (
    "shape    region    faster    truth  SchedCoz     Coz  SchedCoz     Coz\n"
    "                             gain %    error   error    spread  spread  (points)"
)


def setups(mode: str, shapes: Sequence[str], line: dict[str, int]) -> list[Setup]:
    """What to measure; `line` is that of each region in causal_shapes.c.

    Raises
    ------
    BadSpec
        There is no such shape.
    """
    known = dict.fromkeys(shape for shape, *_ in CASES)
    if strange := [one for one in shapes if one not in known]:
        raise BadSpec(f"there is no shape {strange[0]!r}", f"there are: {', '.join(known)}")
    return [
        Setup(
            shape,
            tuple(size * TURNS[mode] for size in knobs[:3])
            + tuple(round(size * WAITS[mode]) for size in knobs[3:]),
            region,
            f"causal_shapes.c:{line[region]}",
            f"{_IN_GUEST}/{PROGRAM}",
            f"{_IN_GUEST}/coz",
        )
        for shape, knobs, region in CASES
        if not shapes or shape in shapes
    ]


def predictions(measured: Sequence[Measurement]) -> list[Prediction]:
    """Gains, errors and spreads by shape, region and speed-up, in the order in which they were measured first."""
    found = []
    for shape, region in dict.fromkeys((one.shape, one.region) for one in measured):
        here = [one for one in measured if (one.shape, one.region) == (shape, region)]
        for speedup in sorted({one.speedup for one in here} - {0.0}):
            truth = _gain(here, "plain", speedup, really=True)[0]
            own = _gain(here, "schedcoz", speedup, really=True)[0]
            ours, ours_spread = _gain(here, "schedcoz", speedup)
            theirs, theirs_spread = _gain(here, "coz", speedup)
            hits = sum(one.hits for one in here if one.by == "coz" and one.speedup == speedup)
            found.append(
                Prediction(
                    shape, region, speedup, truth, own, ours, theirs, ours_spread, theirs_spread, hits,
                    shape not in OTHER_PROCESS,
                )
            )  # fmt: skip
    return found


def _gain(
    here: Iterable[Measurement], by: str, speedup: float, *, really: bool = False
) -> tuple[float, float]:
    """Change in % of the median period, and the standard deviation of each repeat's own."""
    base: dict[int, float] = {}
    faster: dict[int, float] = {}
    for one in here:
        if one.by != by:
            continue
        if one.speedup == 0:
            base[one.repeat] = one.period
        elif one.speedup == speedup and one.really == really:
            faster[one.repeat] = one.period
    both = sorted(base.keys() & faster.keys())
    if not both:
        return float("nan"), float("nan")
    under = np.array([base[repeat] for repeat in both])
    over = np.array([faster[repeat] for repeat in both])
    gain = 100 * float(np.median(over) / np.median(under) - 1)
    spread = float(np.std(100 * (over / under - 1), ddof=1)) if len(both) > 1 else float("nan")
    return gain, spread


def overheads(measured: Sequence[Measurement]) -> dict[str, tuple[float, float]]:
    """By shape: how much longer a round takes at 0 % under SchedCoz and under Coz than without a profiler, in %."""
    found = {}
    for shape in dict.fromkeys(one.shape for one in measured):
        periods = {
            by: [
                one.real_period
                for one in measured
                if (one.shape, one.by, one.speedup) == (shape, by, 0.0)
            ]
            for by in ("plain", "schedcoz", "coz")
        }
        alone = np.median(periods["plain"]) if periods["plain"] else np.nan
        ours, theirs = (
            100 * float(np.median(periods[by]) / alone - 1) if periods[by] else float("nan")
            for by in ("schedcoz", "coz")
        )
        found[shape] = (ours, theirs)
    return found


def summarise(
    measured: Sequence[Measurement], guest: str = "", calibration: dict[str, Any] | None = None
) -> Comparison:
    """The result of what was measured; `calibration` is that of the boot, see `workbench.causal.calibration`."""
    made = predictions(measured)
    fair = [one for one in made if one.comparable]
    rows = []
    for one in made:
        name = f"{one.shape} {one.region} {one.speedup:.0%}"
        rows += [
            Row(f"{name}: true gain", one.truth, "%"),
            Row(f"{name}: true gain under SchedCoz", one.truth_schedcoz, "%"),
            Row(f"{name}: error of SchedCoz", one.schedcoz_error, "points"),
            Row(f"{name}: error of Coz", one.coz_error, "points"),
            Row(f"{name}: spread of SchedCoz", one.schedcoz_spread, "points"),
            Row(f"{name}: spread of Coz", one.coz_spread, "points"),
        ]
    cost = overheads(measured)
    for shape, (ours, theirs) in cost.items():
        rows.append(Row(f"{shape}: overhead of SchedCoz at 0 %", ours, "%"))
        rows.append(Row(f"{shape}: overhead of Coz at 0 %", theirs, "%"))
    for name, errors in (
        ("SchedCoz", [one.schedcoz_error for one in fair]),
        ("Coz", [one.coz_error for one in fair]),
    ):
        values = np.array(errors, np.float64)
        rows.append(Row(f"root mean square error of {name}", _rms(values), "points"))
        rows.append(Row(f"largest error of {name}", _largest(values), "points"))
    closer = [abs(one.schedcoz_error) < abs(one.coz_error) for one in fair]
    steadier = [one.schedcoz_spread < one.coz_spread for one in fair]
    rows.append(Row("SchedCoz closer to the truth", sum(closer), f"of {len(fair)}"))
    rows.append(Row("SchedCoz with the smaller spread", sum(steadier), f"of {len(fair)}"))
    worst = max((ours for ours, _ in cost.values()), default=float("nan"))
    checks: tuple[Check, ...] = (
        Check.at_least("predictions in which SchedCoz is closer, %", _share(closer), 50),
        Check.at_least("predictions in which SchedCoz spreads less, %", _share(steadier), 50),
        Check.at_most("largest overhead of SchedCoz at 0 %, %", worst, 5),
    )
    if calibration is not None:
        rows.append(Row("cost of a stop, as measured", calibration["stop_cost"] / 1000, "us"))
        refused = "; ".join(calibration["reasons"])
        checks += (Check.at_most("reasons to refuse this machine", len(calibration["reasons"]), 0),)
        guest += f" (refused: {refused})" if refused else ""
    return Comparison("causal-coz", tuple(rows), checks, tuple(made), guest)


def _rms(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")


def _largest(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(np.max(np.abs(values))) if len(values) else float("nan")


def _share(found: Sequence[bool]) -> float:
    return 100 * sum(found) / len(found) if found else float("nan")


def run(mode: str = "deterministic", shapes: str = "", repeats: int = _REPEATS) -> Comparison:
    """Boot a guest and measure.

    Parameters
    ----------
    mode : str
        Of the guest: ``deterministic`` or ``parallel``.
    shapes : str
        Names between commas; by default all.
    repeats : int

    Raises
    ------
    MissingCapability
        No guest, or no Coz: `workbench lab prepare --with coz`.
    RunFailed
        The guest's part failed.
    """
    from workbench.lab.extras import extra
    from workbench.lab.vm import lab
    from workbench.native.build import workload

    coz, program = extra("coz"), workload(PROGRAM)
    source = program.with_name("causal_shapes.c").read_text().splitlines()
    line = {
        text[7:-1]: number for number, text in enumerate(source, 1) if text.startswith("REGION(")
    }
    wanted = setups(mode, [one for one in shapes.split(",") if one], line)
    with lab(mode) as vm:
        vm.copy_in(program, f"{_IN_GUEST}/{PROGRAM}")
        vm.copy_in(coz, f"{_IN_GUEST}/coz")
        about = ", ".join(f"{name} {value}" for name, value in vm.about.items())
        begin, found = _in_guest(vm, wanted, repeats)
        return summarise(found, about, begin["calibration"])


def _in_guest(
    vm: Vm, wanted: Sequence[Setup], repeats: int
) -> tuple[dict[str, Any], list[Measurement]]:
    spec = {"setups": [asdict(one) for one in wanted], "repeats": repeats}
    total = repeats * sum(4 * len(one.speedups) + 3 for one in wanted)
    limit = len(wanted) * repeats * _SECONDS * _SLOWEST
    begin, *lines = lines_from_guest(vm, "workbench.bench.causal_coz_guest", spec, total, limit)
    return begin, [Measurement(**line) for line in lines]


def lines_from_guest(
    vm: Vm, module: str, spec: dict[str, Any], total: int, limit: float
) -> list[dict[str, Any]]:
    """Run a module with a file in a guest; what it printed, of the last boot should it have needed two.

    Parameters
    ----------
    vm : Vm
    module : str
        It prints an object with ``begin``, then one for each measurement.
    spec : dict
        Becomes the file.
    total : int
        Measurements to come, for the line that tells of progress.
    limit : float
        Seconds of wall time.
    """
    seen = 0

    def show(stream: int, data: bytes) -> None:
        nonlocal seen
        if stream == 1 and sys.stderr.isatty():
            seen += data.count(b"\n")
            print(f"\r{seen} of {total} measurements", end="", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measure.json"
        file.write_text(json.dumps(spec))
        vm.copy_in(file)
        command = ["python3", "-m", module, f"{_IN_GUEST}/{file.name}"]
        result = vm.run(command, limit=limit, show=show, check=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    found = [json.loads(line) for line in result.text.splitlines()]
    last = max((number for number, line in enumerate(found) if "begin" in line), default=-1)
    return found[last:]
