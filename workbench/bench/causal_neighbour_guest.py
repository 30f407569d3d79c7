"""The guest's part of `workbench bench causal-neighbour`: a process out of scope beside experiments, and beside none.

Prints one JSON object per measurement.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from workbench.bench.causal_coz_guest import scheduler
from workbench.causal.regions import Finder, Region
from workbench.causal.shapes import Running, Shape
from workbench.errors import RunFailed

__all__ = ("Beside", "measure")

_SETTLE, _QUIET = 0.4, 4.0  # s: after a change, after a boot
_SPEEDUP = 0.5
_SCHEDULED = 2  # CPUCLOCK_SCHED of include/linux/posix-timers_types.h


@dataclass(frozen=True)
class Beside:
    """One measurement of the neighbour.

    Attributes
    ----------
    neighbour, target : str
        Shapes of causal_shapes.c.
    experiments : bool
        Experiments at 50 % run on the target meanwhile; else nothing is loaded.
    repeat : int
    wall, cpu : float
        ns of the clock, and of the neighbour's own CPU time, for one of its rounds.
    payments : int
        Times that the target was withheld meanwhile.
    """

    neighbour: str
    target: str
    experiments: bool
    repeat: int
    wall: float
    cpu: float
    payments: int


def measure(
    program: str,
    pairs: Sequence[tuple[str, str]],
    knobs: Sequence[int],
    seconds: float,
    repeats: int,
) -> Iterator[Beside]:
    """Every pair (neighbour, target) `repeats` times with and without experiments, in shuffled order."""
    random = Random(1)
    for repeat in range(repeats):
        for neighbour, target in random.sample(pairs, len(pairs)):
            work = tuple(knobs)
            with (
                Running(Shape(neighbour, work, ()), program) as beside,
                Running(Shape(target, work, ()), program) as other,
            ):
                time.sleep(_SETTLE)
                for experiments in random.sample((False, True), 2):
                    with ExitStack() as stack:
                        if experiments:
                            coz = stack.enter_context(scheduler(other.pid, "progress"))
                            coz.select(Finder().places(other.pids, Region("region_a")))
                            coz.begin(_SPEEDUP)
                        time.sleep(_SETTLE)
                        begin, used, since = (
                            beside.rounds(),
                            _used(beside.pid),
                            time.monotonic_ns(),
                        )
                        time.sleep(seconds)
                        share = (_used(beside.pid) - used) / (time.monotonic_ns() - since)
                        end = beside.rounds()
                        payments = 0
                        if experiments:
                            payments = int(coz.loaded.globals["counters"]["payments"])
                            if not coz.end()[0].valid:
                                raise RunFailed(
                                    f"the kernel took SchedCoz away: {coz.scheduler.exit}"
                                )
                    done = end[0] - begin[0]
                    if not done:
                        raise RunFailed(f"the neighbour {neighbour} did no round in {seconds:g} s")
                    wall = (end[1] - begin[1]) / done
                    yield Beside(
                        neighbour, target, experiments, repeat, wall, wall * share, payments
                    )


def _used(pid: int) -> int:
    """CPU time of a process, threads that have ended included, ns (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | _SCHEDULED)


def main(path: str) -> None:
    """Measure what the file says; print each measurement when it is there."""
    wanted = json.loads(Path(path).read_text())
    pairs = [(one, other) for one, other in wanted["pairs"]]
    print(json.dumps({"begin": len(pairs)}), flush=True)
    time.sleep(_QUIET)
    for one in measure(
        wanted["program"], pairs, wanted["knobs"], wanted["seconds"], wanted["repeats"]
    ):
        print(json.dumps(asdict(one)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
