"""What experiments cost a process that has nothing to do with them: the neighbour's throughput with and without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.bench.causal_coz import TURNS, lines_from_guest
from workbench.bench.causal_neighbour_guest import Beside
from workbench.bench.result import BenchResult, Check, Row

__all__ = ("DESCRIPTION", "run", "summarise")

DESCRIPTION = "a process out of scope beside experiments and beside none, in a guest (minutes)"
LIMIT = 2.0  # % by which its throughput may change

#: (neighbour, target): one that computes and one that sleeps, beside one thread and beside two processes in turns.
PAIRS = (("serial", "serial"), ("serial", "pipe"), ("timer", "serial"), ("timer", "pipe"))
_KNOBS = (70_000, 50_000, 0, 8_400_000, 0)
_PROGRAM = "causal_shapes"
_IN_GUEST = f"/tmp/{_PROGRAM}"
_REPEATS, _SECONDS, _SLOWEST = 3, 1.5, 60.0


def run(
    mode: str = "deterministic", repeats: int = _REPEATS, seconds: float = _SECONDS
) -> BenchResult:
    """Boot a guest and measure both ways in turns.

    Parameters
    ----------
    mode : str
        Of the guest: ``deterministic`` (one CPU, which the neighbour shares with the target: what counts is the work it
        does in its own CPU time) or ``parallel`` (a CPU for each: the work it does in a second; on a quiet machine).
    repeats : int
    seconds : float
        Of each measurement, on the guest's clock.

    Raises
    ------
    MissingCapability
        No guest is prepared.
    RunFailed
        The guest's part failed.
    """
    from workbench.lab.vm import lab
    from workbench.native.build import workload

    knobs = [one * TURNS[mode] for one in _KNOBS[:3]] + list(_KNOBS[3:])
    spec = {
        "program": _IN_GUEST,
        "pairs": PAIRS,
        "knobs": knobs,
        "seconds": seconds,
        "repeats": repeats,
    }
    total = 2 * len(PAIRS) * repeats
    with lab(mode) as vm:
        vm.copy_in(workload(_PROGRAM), _IN_GUEST)
        lines = lines_from_guest(
            vm,
            "workbench.bench.causal_neighbour_guest",
            spec,
            total,
            total * (seconds + 2) * _SLOWEST,
        )
    return summarise([Beside(**line) for line in lines], "wall" if mode == "parallel" else "cpu")


def summarise(found: Sequence[Beside], clock: str) -> BenchResult:
    """Both medians by pair on a clock, ``wall`` or ``cpu``, and a check of each: the change of throughput, %."""
    rows, checks = [], []
    for neighbour, target in dict.fromkeys((one.neighbour, one.target) for one in found):
        name = f"{neighbour} beside {target}"
        alone, beside = (
            np.median(
                [
                    getattr(one, clock) / 1e6
                    for one in found
                    if (one.neighbour, one.target, one.experiments) == (neighbour, target, way)
                ]
            )
            for way in (False, True)
        )
        rows.append(Row(f"{name}: no experiments", float(alone), f"ms ({clock}) a round"))
        rows.append(
            Row(
                f"{name}: experiments",
                float(beside),
                f"ms ({clock}) a round",
                "none",
                float(beside / alone),
            )
        )
        change = 100 * float(alone / beside - 1)
        checks.append(Check.at_most(f"{name}: throughput changes by, %", abs(change), LIMIT))
    return BenchResult("causal-neighbour", tuple(rows), tuple(checks))
