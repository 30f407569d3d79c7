"""What SchedCoz costs where it changes nothing: workloads with it at 0 % against the kernel's own scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from workbench.bench.causal_coz import CASES, TURNS, WAITS, lines_from_guest
from workbench.bench.causal_overhead_guest import PROGRAMS, Cost, Shape
from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import BadSpec

__all__ = ("DESCRIPTION", "run", "summarise")

DESCRIPTION = "SchedCoz at 0 % against the kernel's own scheduler: 8 shapes and 4 real programs in a guest (minutes)"
LIMIT = 5.0  # % that a workload may take longer

_PROGRAM = "causal_shapes"
_IN_GUEST = f"/tmp/{_PROGRAM}"
_REPEATS = 3
_SECONDS, _SLOWEST = (
    8.0,
    60.0,
)  # of the guest's clock for a workload and repeat; times that a busy host is slower


def run(mode: str = "deterministic", shapes: str = "", repeats: int = _REPEATS) -> BenchResult:
    """Boot a guest and measure both ways in turns.

    Parameters
    ----------
    mode : str
        Of the guest: ``deterministic`` or ``parallel``.
    shapes : str
        Names between commas; ``none`` measures the real programs alone; by default all.
    repeats : int

    Raises
    ------
    BadSpec
        There is no such shape.
    MissingCapability
        No guest is prepared.
    RunFailed
        The guest's part failed.
    """
    from workbench.lab.vm import lab
    from workbench.native.build import workload

    wanted = _shapes(mode, shapes)
    count = len(wanted) + len(PROGRAMS)
    spec = {"program": _IN_GUEST, "shapes": [asdict(one) for one in wanted], "repeats": repeats}
    with lab(mode) as vm:
        vm.copy_in(workload(_PROGRAM), _IN_GUEST)
        _, *lines = lines_from_guest(
            vm, "workbench.bench.causal_overhead_guest", spec, 2 * count * repeats,
            count * repeats * _SECONDS * _SLOWEST,
        )  # fmt: skip
    return summarise([Cost(**line) for line in lines])


def _shapes(mode: str, names: str) -> list[Shape]:
    known = {
        shape: tuple(size * TURNS[mode] for size in knobs[:3])
        + tuple(round(size * WAITS[mode]) for size in knobs[3:])
        for shape, knobs, _ in CASES
    }
    chosen = [] if names == "none" else [one for one in names.split(",") if one] or list(known)
    if strange := [one for one in chosen if one not in known]:
        raise BadSpec(
            f"there is no shape {strange[0]!r}", f"there are: {', '.join(known)}, or none"
        )
    return [Shape(one, known[one]) for one in chosen]


def summarise(costs: Sequence[Cost]) -> BenchResult:
    """Rows of both medians by workload, and a check of each: how much longer it takes, in %."""
    rows, checks = [], []
    for name in dict.fromkeys(one.workload for one in costs):
        alone, loaded = (
            np.array(
                [one.value for one in costs if (one.workload, one.with_schedcoz) == (name, way)]
            )
            for way in (False, True)
        )
        without = float(np.median(alone)) / 1e6 if len(alone) else float("nan")
        having = float(np.median(loaded)) / 1e6 if len(loaded) else float("nan")
        rows.append(Row(f"{name}: the kernel's own scheduler", without, "ms"))
        rows.append(
            Row(f"{name}: SchedCoz at 0 %", having, "ms", "the kernel's own", having / without)
        )
        checks.append(Check.at_most(f"{name}: overhead, %", 100 * (having / without - 1), LIMIT))
    return BenchResult("causal-overhead", tuple(rows), tuple(checks))
