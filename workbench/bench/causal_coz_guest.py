"""The guest's part of `workbench bench causal-coz`: one shape measured plainly, by SchedCoz and by Coz, in turns.

Prints one JSON object per measurement. All three see the same program, with the same debug information.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import subprocess
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

import numpy as np

from workbench.causal.coz_log import CozExperiment, coz_experiments, pooled_period
from workbench.errors import RunFailed

if TYPE_CHECKING:
    from workbench.causal.calibration import Calibration
    from workbench.sched.schedcoz import Parameters, SchedCoz

__all__ = (
    "Measurement",
    "Program",
    "Rounds",
    "Setup",
    "children",
    "measure",
    "scheduler",
    "undisturbed",
)

_PASSED, _PASSED_AT, _KNOBS = 8, 9, 512  # of causal_shapes.c
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

    `knobs` are the sizes of the work, `knob` which of them is that of `region`; `line` is where its code comes from.
    An experiment takes `seconds`; Coz's take half a second each, and as many are made as there is time for.
    """

    shape: str
    knobs: tuple[int, ...]
    region: str
    knob: int
    line: str
    program: str
    coz: str
    speedups: tuple[float, ...] = (0.25, 0.5, 0.75)
    seconds: float = 0.5

    @property
    def conditions(self) -> list[float]:
        """Nothing faster, then each speed-up."""
        return [0.0, *self.speedups]


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


class Rounds:
    """The knobs of a running workload, and the rounds that it counts itself."""

    def __init__(self, path: Path, knobs: tuple[int, ...]) -> None:
        start = np.zeros(_KNOBS, np.uint64)
        start[: len(knobs)] = knobs
        start.tofile(path)
        self.path, self._base = path, knobs
        with path.open("r+b") as file:
            self._view = np.frombuffer(mmap.mmap(file.fileno(), 8 * _KNOBS), np.uint64)

    def work(self, knob: int = 0, without: float = 0.0) -> None:
        """Give the work its sizes, one of them shorter by a fraction."""
        for number, size in enumerate(self._base):
            self._view[number] = round(size * (1 - without)) if number == knob else size

    def read(self) -> tuple[int, int]:
        """Rounds so far, and ns when the last ended."""
        while True:
            before = int(self._view[_PASSED])
            at = int(self._view[_PASSED_AT])
            if int(self._view[_PASSED]) == before:
                return before, at

    def period(self, begin: tuple[int, int]) -> float:
        """Mean ns of a round since `begin`; NaN if there was none."""
        count, at = self.read()
        return (at - begin[1]) / (count - begin[0]) if count > begin[0] else float("nan")


class Program:
    """A process that runs the workload; ended with the context."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def pids(self) -> list[int]:
        """The process and what it forked."""
        return [self.pid, *children(self.pid)]

    def alive(self, limit: float, otherwise: str) -> None:
        """Raise RunFailed if it has ended, or if it is later than `limit`."""
        if self.process.poll() is not None:
            raise RunFailed(f"the workload ended with status {self.process.returncode}")
        if time.monotonic() > limit:
            raise RunFailed(f"after {_LIMIT:g} s {otherwise}")


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
    rounds = Rounds(folder / "knobs", setup.knobs)
    with Program(subprocess.Popen([setup.program, setup.shape, rounds.path])):
        time.sleep(_SETTLE)
        for speedup in random.sample(setup.conditions, len(setup.conditions)):
            rounds.work(setup.knob, speedup)
            time.sleep(_CHANGE)
            begin = rounds.read()
            time.sleep(setup.seconds)
            real = rounds.period(begin)
            yield _measured(setup, "plain", speedup, True, period=real, real_period=real)


def _schedcoz(
    parameters: Parameters | None, setup: Setup, random: Random, folder: Path
) -> Iterator[Measurement]:
    from workbench.causal.regions import Finder, Region

    rounds = Rounds(folder / "knobs", setup.knobs)
    conditions = [(speedup, False) for speedup in setup.conditions]
    conditions += [(speedup, True) for speedup in setup.speedups]
    random.shuffle(conditions)
    finder, region = Finder(), Region(setup.region)
    with Program(subprocess.Popen([setup.program, setup.shape, rounds.path])) as program:
        time.sleep(_SETTLE)
        with scheduler(program.pid, "progress", parameters) as coz:
            time.sleep(_SETTLE)
            for speedup, really in conditions:
                rounds.work(setup.knob, speedup if really else 0.0)
                coz.select(finder.places(program.pids, region))
                time.sleep(_CHANGE)
                begin = rounds.read()
                coz.begin(0.0 if really else speedup)
                time.sleep(setup.seconds)
                found = coz.end()[0]
                real = rounds.period(begin)
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
        rounds = Rounds(folder / "knobs", setup.knobs)
        log, errors = folder / "profile.coz", folder / "coz.err"
        log.unlink(missing_ok=True)
        command = [
            f"{setup.coz}/usr/bin/coz", "run", "-o", str(log), "--fixed-line", setup.line,
            "--fixed-speedup", str(round(100 * speedup)), "---", setup.program, setup.shape, str(rounds.path),
        ]  # fmt: skip
        libraries = ":".join(str(path) for path in Path(setup.coz, "usr/lib").glob("*-linux-*"))
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}
        with (
            errors.open("wb") as complaints,
            Program(subprocess.Popen(command, env=environment, stderr=complaints)) as program,
        ):
            try:
                begin = _rounds_begun(rounds, program)
                time.sleep(wanted * (_COZ_SHORTEST + _COZ_PAUSE))
                found = _experiments(log, wanted, program)
            except RunFailed as failure:
                said = errors.read_text(errors="replace").strip().splitlines()[-3:]
                raise RunFailed(f"{failure.message}: {' '.join(said)}") from failure
            real = rounds.period(begin)
        yield _measured(
            setup, "coz", speedup, False,
            period=pooled_period(found, "progress"), real_period=real, hits=sum(one.hits for one in found),
        )  # fmt: skip


def _rounds_begun(rounds: Rounds, program: Program) -> tuple[int, int]:
    """Wait for the first round, then a while."""
    limit = time.monotonic() + _LIMIT
    while not rounds.read()[0]:
        program.alive(limit, "it made no round")
        time.sleep(0.02)
    time.sleep(_CHANGE)
    return rounds.read()


def _experiments(log: Path, wanted: int, program: Program) -> list[CozExperiment]:
    limit = time.monotonic() + _LIMIT
    while True:
        text = log.read_text(errors="replace") if log.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        found = coz_experiments(whole.splitlines())
        if len(found) >= wanted:
            return found[1:]
        program.alive(limit, f"it made {len(found)} of {wanted} experiments")
        time.sleep(0.05)


def undisturbed() -> None:
    """No garbage collection from here on: on one CPU, its time is taken from the workload."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _calibrated() -> tuple[Parameters, Calibration]:
    """What a stop costs on this machine, and whether it is quiet enough; on one CPU nothing is stopped from another."""
    from workbench.causal.calibration import calibrate
    from workbench.causal.shapes import SHAPES, Running, scale

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
