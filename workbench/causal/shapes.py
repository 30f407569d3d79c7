"""The workload of known gains, `causal_shapes`: its shapes, and one of them running, with its work in our hands.

What a prediction is worth is measured with it: its regions are register-bound work whose amount is read anew every
round, so that "this region really is half as long" is one more condition of the same process.
"""

from __future__ import annotations

import mmap
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from workbench.errors import RunFailed

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("ONE_CPU", "SHAPES", "Running", "Shape", "scale")

_PASSED, _PASSED_AT, _NUMBERS = 8, 9, 512  # of causal_shapes.c
_TURN = 45.0  # ns in a parallel guest
_KNOB = {"region_a": 0, "region_b": 1, "region_c": 2}


@dataclass(frozen=True)
class Shape:
    """One shape with the amounts of its work.

    `work` has the first knobs of causal_shapes.c: turns of region_a, region_b and region_c, ns of a long and of a short
    wait; `regions` whose gain is not zero, `null` those that nobody waits for; `processes` how many it is made of;
    `settle` seconds that its buffers may take to fill or to drain when a region becomes faster; `seconds` that an
    experiment with it lasts at least: where threads pass in bunches, one pass more or less is much of a short one.
    """

    name: str
    work: tuple[int, ...]
    regions: tuple[str, ...]
    null: tuple[str, ...] = ()
    processes: int = 1
    settle: float = 0.06
    seconds: float = 0.0

    def scaled(self, factor: float) -> Shape:
        """The same with `factor` times the work; waits stay as they are."""
        turns = tuple(round(amount * factor) for amount in self.work[:3])
        return replace(self, work=(*turns, *self.work[3:]))

    @property
    def all_regions(self) -> tuple[str, ...]:
        """The regions that matter, then those that do not."""
        return (*self.regions, *self.null)


#: Rounds of some ten milliseconds. A region lasts for several sample periods (of 1 ms) at a time, and the speed-ups
#: that are tried (25, 50, 75 %) keep a millisecond away from where another part becomes the longer one: there, the
#: truth is a matter of noise.
SHAPES: dict[str, Shape] = {
    one.name: one
    for one in (
        Shape("serial", (100_000, 100_000, 0, 0, 0), ("region_a",)),
        Shape("join", (200_000, 120_000, 0, 0, 0), ("region_a",)),
        Shape("timer", (200_000, 0, 0, 6_000_000, 0), ("region_a",)),
        Shape("barrier", (200_000, 120_000, 5_000, 0, 0), ("region_a",), ("region_b",)),
        Shape("lock", (200_000, 0, 300_000, 0, 0), ("region_a",), seconds=0.48),
        Shape("queue", (90_000, 200_000, 0, 0, 0), ("region_b",), ("region_a",), settle=0.12, seconds=0.32),
        Shape("pipe", (100_000, 100_000, 0, 0, 0), ("region_a",), processes=2),
        Shape("hidden", (60_000, 100_000, 0, 5_000_000, 1_000_000), (), ("region_a",)),
        Shape("apart", (200_000, 200_000, 0, 0, 0), ("region_a",), ("region_b",)),
    )
}


#: The same for a machine of one CPU, where what is beside the critical path competes with it.
ONE_CPU: dict[str, Shape] = {
    one.name: one
    for one in (
        Shape("serial", (190_000, 135_000, 0, 0, 0), ("region_a",)),
        Shape("join", (190_000, 135_000, 0, 0, 0), ("region_b",)),
        Shape("timer", (190_000, 0, 0, 8_400_000, 0), (), ("region_a",)),
        Shape("barrier", (190_000, 135_000, 14_000, 0, 0), ("region_a",)),
        Shape("lock", (54_000, 0, 135_000, 0, 0), ("region_a",)),
        Shape("queue", (190_000, 135_000, 0, 0, 0), ("region_a",)),
        Shape("pipe", (190_000, 135_000, 0, 0, 0), ("region_b",), processes=2),
        Shape("hidden", (54_000, 54_000, 0, 14_000_000, 8_000_000), (), ("region_a",)),
    )
}


@dataclass
class Running:
    """A process that runs a shape; a context manager that ends it.

    Parameters
    ----------
    shape : Shape
    program : path, optional
        A build of causal_shapes.c; by default the package's own.
    before : sequence of str
        Words that the command begins with: a profiler that starts the program.
    environment : mapping of str, optional
        Of the command; by default this process's.
    errors : binary file, optional
        Takes what the command prints on standard error.

    Raises
    ------
    RunFailed
        It does not begin to make rounds.
    """

    shape: Shape
    program: str | Path = ""
    before: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    errors: IO[bytes] | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        from workbench.native.build import workload

        with tempfile.NamedTemporaryFile(prefix="knobs-") as file:
            file.truncate(8 * _NUMBERS)
            self._numbers = np.frombuffer(mmap.mmap(file.fileno(), 8 * _NUMBERS), np.uint64)
            self.work()
            program = str(self.program or workload("causal_shapes"))
            words = [*self.before, program, self.shape.name, file.name]
            self.process = subprocess.Popen(words, env=self.environment, stderr=self.errors)
            try:
                self._wait_for_rounds(words)
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, with what it forked."""
        self.process.kill()
        self.process.wait()

    def _wait_for_rounds(self, words: Sequence[str]) -> None:
        limit = time.monotonic() + 60
        while self.rounds()[0] < 2:
            if self.process.poll() is not None or time.monotonic() > limit:
                raise RunFailed(f"{' '.join(words)} makes no rounds (status {self.process.poll()})")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def pids(self) -> list[int]:
        """The process and what it forked."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return [own, *map(int, children)]

    @property
    def threads(self) -> list[int]:
        """Threads of all its processes, by thread id."""
        return [int(one.name) for pid in self.pids for one in Path(f"/proc/{pid}/task").iterdir()]

    def work(self, shorter: Mapping[str, float] | None = None) -> None:
        """From the next round on, do the shape's work, with regions shortened by fractions."""
        less = {_KNOB[region]: by for region, by in (shorter or {}).items()}
        for number, amount in enumerate(self.shape.work):
            self._numbers[number] = round(amount * (1 - less.get(number, 0.0)))

    def rounds(self) -> tuple[int, int]:
        """Rounds so far by the program's own count, and ns of CLOCK_MONOTONIC when the last ended."""
        while True:
            before, at = int(self._numbers[_PASSED]), int(self._numbers[_PASSED_AT])
            if int(self._numbers[_PASSED]) == before:
                return before, at

    def period(self, begin: tuple[int, int]) -> float:
        """Mean ns of a round since `begin`, what `rounds` gave then; NaN if there was none."""
        count, at = self.rounds()
        return (at - begin[1]) / (count - begin[0]) if count > begin[0] else float("nan")


def scale(seconds: float = 0.3) -> float:
    """What to scale the shapes by, so that their rounds last as long here as they do in a parallel guest.

    A turn takes 45 ns there, 120 ns of the deterministic guest's clock, and some 15 ns on a processor.
    """
    shape = SHAPES["serial"]
    with Running(shape) as running:
        rounds, at = running.rounds()
        time.sleep(seconds)
        while (later := running.rounds())[0] < rounds + 5:
            time.sleep(0.01)
    per_turn = (later[1] - at) / (later[0] - rounds) / sum(shape.work[:3])
    return _TURN / per_turn
