"""The guest's part of `workbench bench causal-coz`: one shape measured plainly, by SchedCoz and by Coz, in turns.

Prints one JSON object per measurement. All three see the same program, with the same debug information.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from workbench.causal.coz_log import CozExperiment, coz_experiments, pooled_period
from workbench.causal.shapes import Running, Shape
from workbench.errors import RunFailed

if TYPE_CHECKING:
    from workbench.causal.calibration import Calibration
    from workbench.sched.schedcoz import Parameters, SchedCoz

__all__ = (
    "Measurement",
    "Setup",
    "children",
    "measure",
    "scheduler",
    "undisturbed",
)

_SETTLE, _CHANGE = 0.4, 0.12  # s after a start, and after a change of the work
_COZ_SHORTEST, _COZ_PAUSE = (
    0.5,
    0.01,
)  # s of an experiment of Coz, and between two (libcoz/profiler.h)
_LIMIT = 60.0  # s until Coz has done what takes it a second
_QUIET = 4.0  # s after a boot


@dataclass(frozen=True)
class Setup:
    """What to measure.

    `knobs` are the sizes of the work; `line` is where the code of `region` comes from.
    An experiment takes `seconds`; Coz's take half a second each, and as many are made as there is time for.
    """

    shape: str
    knobs: tuple[int, ...]
    region: str
    line: str
    program: str
    coz: str
    speedups: tuple[float, ...] = (0.25, 0.5, 0.75)
    seconds: float = 0.5

    @property
    def conditions(self) -> list[float]:
        """Nothing faster, then each speed-up."""
        return [0.0, *self.speedups]

    def running(self, **more: Any) -> Running:
        """The program, once the context is entered; `more` as `Running` has it."""
        return Running(Shape(self.shape, self.knobs, (self.region,)), self.program, **more)

    def shorter(self, by: float) -> dict[str, float]:
        """What `Running.work` needs to shorten the region by a fraction."""
        return {self.region: by}


@dataclass(frozen=True)
class Measurement:
    """One experiment, or a stretch of the plain program.

    Attributes
    ----------
    by : str
        ``plain``, ``schedcoz`` or ``coz``.
    really : bool
        The work was shortened by `speedup`; else it was sped up virtually.
    period : float
        ns between two rounds, on the profiler's clock; that of the machine if there is no profiler.
    real_period : float
        ns between two rounds by the program's own count.
    hits : int
        Samples in the region.
    """

    shape: str
    region: str
    by: str
    speedup: float
    really: bool
    repeat: int
    period: float
    real_period: float
    hits: int = 0
    note: str = ""


def measure(
    setups: Sequence[Setup],
    repeats: int,
    folder: Path,
    parameters: Parameters | None = None,
    seed: int = 1,
) -> Iterator[Measurement]:
    """Measure every setup `repeats` times, each time in another order; `parameters` are those of SchedCoz."""
    random = Random(seed)
    kinds: list[Callable[[Setup, Random, Path], Iterator[Measurement]]]
    kinds = [_plain, partial(_schedcoz, parameters), _coz]
    for repeat in range(repeats):
        for setup in random.sample(setups, len(setups)):
            for kind in random.sample(kinds, len(kinds)):
                for one in kind(setup, random, folder):
                    yield replace(one, repeat=repeat)


def _measured(setup: Setup, by: str, speedup: float, really: bool, **found: Any) -> Measurement:
    return Measurement(setup.shape, setup.region, by, speedup, really, 0, **found)


def _plain(setup: Setup, random: Random, folder: Path) -> Iterator[Measurement]:
    """The kernel's own scheduler, nothing attached: what is true."""
    with setup.running() as running:
        time.sleep(_SETTLE)
        for speedup in random.sample(setup.conditions, len(setup.conditions)):
            running.work(setup.shorter(speedup))
            time.sleep(_CHANGE)
            begin = running.rounds()
            time.sleep(setup.seconds)
            real = running.period(begin)
            yield _measured(setup, "plain", speedup, True, period=real, real_period=real)


def _schedcoz(
    parameters: Parameters | None, setup: Setup, random: Random, folder: Path
) -> Iterator[Measurement]:
    from workbench.causal.regions import Finder, Region

    conditions = [(speedup, False) for speedup in setup.conditions]
    conditions += [(speedup, True) for speedup in setup.speedups]
    random.shuffle(conditions)
    finder, region = Finder(), Region(setup.region)
    with setup.running() as running:
        time.sleep(_SETTLE)
        with scheduler(running.pid, "progress", parameters) as coz:
            time.sleep(_SETTLE)
            for speedup, really in conditions:
                running.work(setup.shorter(speedup if really else 0.0))
                coz.select(finder.places(running.pids, region))
                coz.begin(0.0 if really else speedup)
                # A faster consumer empties its queue first, virtually as well as really.
                time.sleep(_CHANGE)
                coz.count_anew()
                begin = running.rounds()
                time.sleep(setup.seconds)
                found = coz.end()[0]
                real = running.period(begin)
                if not found.valid:
                    raise RunFailed(f"the kernel took SchedCoz away: {coz.scheduler.exit}")
                yield _measured(
                    setup, "schedcoz", speedup, really,
                    period=found.period, real_period=real, hits=found.hits,
                )  # fmt: skip


@contextmanager
def scheduler(pid: int, point: str, parameters: Parameters | None = None) -> Iterator[SchedCoz]:
    """SchedCoz in charge of a process and its children, as `workbench causal` has it."""
    from workbench.causal.points import resolve_points
    from workbench.collectors.modules import Modules
    from workbench.objects.model import builtin
    from workbench.sched.schedcoz import SchedCoz

    points = resolve_points(Modules(pid), [point])
    places = [(one.path, one.offset, one.semaphore) for one in points]
    with SchedCoz(builtin("schedcoz"), places, parameters) as coz:
        for one in (pid, *children(pid)):
            coz.take(one)
        yield coz


def children(pid: int) -> list[int]:
    """What a process forked."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _coz(setup: Setup, random: Random, folder: Path) -> Iterator[Measurement]:
    """Coz runs a process of its own for each speed-up; its first experiment there is left out, as its settling."""
    wanted = max(round(setup.seconds / _COZ_SHORTEST), 1) + 1
    for speedup in random.sample(setup.conditions, len(setup.conditions)):
        log, errors = folder / "profile.coz", folder / "coz.err"
        log.unlink(missing_ok=True)
        before = [
            f"{setup.coz}/usr/bin/coz", "run", "-o", str(log), "--fixed-line", setup.line,
            "--fixed-speedup", str(round(100 * speedup)), "---",
        ]  # fmt: skip
        libraries = ":".join(str(path) for path in Path(setup.coz, "usr/lib").glob("*-linux-*"))
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}
        try:
            with (
                errors.open("wb") as complaints,
                setup.running(before=before, environment=environment, errors=complaints) as running,
            ):
                time.sleep(_CHANGE)
                begin = running.rounds()
                time.sleep(wanted * (_COZ_SHORTEST + _COZ_PAUSE))
                found = _experiments(log, wanted, running)
                real = running.period(begin)
        except RunFailed as failure:
            said = errors.read_text(errors="replace").strip().splitlines()[-3:]
            raise RunFailed(f"{failure.message}: {' '.join(said)}") from failure
        yield _measured(
            setup, "coz", speedup, False,
            period=pooled_period(found, "progress"), real_period=real, hits=sum(one.hits for one in found),
        )  # fmt: skip


def _experiments(log: Path, wanted: int, running: Running) -> list[CozExperiment]:
    limit = time.monotonic() + _LIMIT
    while True:
        text = log.read_text(errors="replace") if log.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        found = coz_experiments(whole.splitlines())
        if len(found) >= wanted:
            return found[1:]
        if (status := running.process.poll()) is not None:
            raise RunFailed(f"the workload ended with status {status}")
        if time.monotonic() > limit:
            raise RunFailed(f"after {_LIMIT:g} s it made {len(found)} of {wanted} experiments")
        time.sleep(0.05)


def undisturbed() -> None:
    """No garbage collection from here on: on one CPU, its time is taken from the workload."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _calibrated() -> tuple[Parameters, Calibration]:
    """What a stop costs on this machine, and whether it is quiet enough; on one CPU nothing is stopped from another."""
    from workbench.causal.calibration import calibrate
    from workbench.causal.shapes import SHAPES, scale

    with (
        Running(SHAPES["barrier"].scaled(scale())) as running,
        scheduler(running.process.pid, "progress") as coz,
    ):
        found = calibrate(coz, running)
        return coz.parameters, found


def main(path: str) -> None:
    """Measure what the file says; print each measurement when it is there."""
    wanted = json.loads(Path(path).read_text())
    setups = [
        Setup(**{**one, "knobs": tuple(one["knobs"]), "speedups": tuple(one["speedups"])})
        for one in wanted["setups"]
    ]
    undisturbed()
    time.sleep(_QUIET)  # the first seconds are disturbed
    parameters, found = _calibrated() if os.cpu_count() != 1 else (None, None)
    about = {"begin": len(setups), "calibration": asdict(found) if found else None}
    print(json.dumps(about), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(setups, int(wanted["repeats"]), Path(folder), parameters):
            print(json.dumps(asdict(one)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
