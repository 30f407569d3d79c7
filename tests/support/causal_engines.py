"""An engine of causal profiling without a scheduler: a program with known gains, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random

from workbench.causal.regions import Pieces, Region
from workbench.errors import UnknownSymbol
from workbench.sched.schedcoz import Measured


class Synthetic:
    """A program of two serial parts, `share` of its period in the region; `noise` is relative.

    `counts` are the passes of each point in every experiment, and `valid` says until which experiment the scheduler is
    there; `latencies` points more are latencies, whose mean number inside is 0.8.
    """

    def __init__(
        self, *, share: float = 0.6, noise: float = 0.0, counts: Sequence[int] = (50,), valid: int = 10**9,
        latencies: int = 0,
    ) -> None:
        self.share, self.noise, self.counts, self.valid = share, noise, counts, valid
        self.pairs, self.hits = latencies, 60
        self.begun: list[float] = []
        self.settled = 0
        self.selected: list[Mapping[int, Pieces]] = []
        self.random = Random(1)

    why_ended, stood_still = "", 0

    def select(self, places: Mapping[int, Pieces]) -> None:
        self.selected.append(places)

    def begin(self, speedup: float) -> None:
        self.begun.append(speedup)

    def count_anew(self) -> None:
        self.settled += 1

    def end(self) -> list[Measured]:
        period = 1e7 * (1 - self.share * self.begun[-1]) * (1 + self.random.gauss(0, self.noise))
        whole = (5, 6, 100, self.hits, 60_000_000, 1, 2, 0, 0, len(self.begun) <= self.valid)
        passed = [Measured(count, period if count > 1 else float("nan"), 1e7, *whole) for count in self.counts]
        pair = Measured(49, 0.8 * period, float("nan"), *whole, departures=48, inside=0.8)
        return passed + [pair] * self.pairs


class Program:
    """A target that lives for a number of waits, none of which takes time."""

    pid, ended = 1, "the target ended"

    def __init__(self, waits: int = 10**9, interrupted: int = 0) -> None:
        self.waits, self.interrupted = waits, interrupted
        self.slept: list[float] = []

    def pids(self) -> list[int]:
        return [1, 2]

    def wait(self, seconds: float) -> bool:
        if seconds:
            self.slept.append(seconds)
        if self.interrupted and len(self.slept) == self.interrupted:
            raise KeyboardInterrupt
        return len(self.slept) < self.waits

    def close(self) -> None:
        pass


class Known:
    """Every region at the same place of every process, but those that are missing."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        self.missing = missing

    def places(self, pids: Iterable[int], region: Region) -> dict[int, Pieces]:
        if region.spec in self.missing:
            raise UnknownSymbol(f"no function {region.spec!r}")
        return {pid: ((0x1000, 0x2000),) for pid in pids}
