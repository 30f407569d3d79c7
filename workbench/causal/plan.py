"""Which experiment comes next, and how long it lasts.

Draw and length are Coz's (Curtsinger and Berger, SOSP 2015, and libcoz/profiler.cpp of coz-profiler): a speed-up is 0 %
in 8 of 28 draws and each of 5, 10 ... 100 % in one; an experiment in which some progress point was passed fewer than
five times makes the next ones twice as long, one with more than ten makes them half as long again.

Coz counts from the beginning of an experiment. But what happens then does not last: a consumer that has become faster
first eats what was queued before it ("Stock" in bpf/schedcoz_rules.h). So counting begins when a part of the length
(`Plan.settle`) has passed. It is a part of the length because that grows with the time between two passes, and so does
the time in which a queue fills or drains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from workbench.causal.regions import Region

__all__ = ("ENOUGH", "SETTLE", "Choice", "Length", "Plan", "choices", "draw_speedup")

ENOUGH = 5
"""Passes of every progress point that an experiment needs to count."""
SETTLE = 0.3
"""Part of an experiment's length that passes before progress is counted: of the shortest one by default, 0.15 s."""
_PLENTY = 10
_LONGEST = 16  # times the minimum
_DIVISIONS, _ZEROS = 20, 7


def draw_speedup(random: Random) -> float:
    """A speed-up as Coz draws it: 0 with probability 8/28, each of 0.05, 0.10 ... 1.00 with 1/28."""
    drawn = random.randint(0, _DIVISIONS + _ZEROS)
    return 0.0 if drawn <= _ZEROS else (drawn - _ZEROS) / _DIVISIONS


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes
    ----------
    regions : tuple of Region
    weights : tuple of float
        How often each is chosen, when speed-ups are drawn; empty: equally often.
    speedups : tuple of float
        Fractions; every region gets each of them in turn, in an order that is shuffled each time, and 0 with them.
        Empty: drawn as Coz does.
    shortest : float
        Seconds of the shortest experiment.
    settle : float
        Part of an experiment's length that passes in it before progress is counted.
    pause : float
        Seconds between two experiments, in which payments that are due are made.
    seconds : float
        Begin no experiment after this time; 0: until the target ends.
    rounds : int
        With `speedups`: end after so many times all of them; 0: no limit.
    seed : int
    """

    regions: tuple[Region, ...]
    weights: tuple[float, ...] = ()
    speedups: tuple[float, ...] = ()
    shortest: float = 0.5
    settle: float = SETTLE
    pause: float = 0.02
    seconds: float = 0.0
    rounds: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        bad = [speedup for speedup in self.speedups if not 0 <= speedup <= 1]
        if bad:
            raise BadSpec(f"a speed-up of {bad[0]:g}", "fractions from 0 to 1, as in 0,0.25,0.5,1")
        if self.weights and len(self.weights) != len(self.regions):
            raise BadSpec("as many weights as regions, or none")
        if not self.regions:
            raise BadSpec("no region to speed up", "--region FUNCTION, or let sampling choose")
        if not 0 < self.shortest <= 3600 or self.pause < 0 or self.seconds < 0 or self.rounds < 0:
            raise BadSpec("lengths of experiments are positive seconds")
        if not 0 <= self.settle <= 10:
            raise BadSpec(
                f"experiments settle for {self.settle:g} of their length", "0 to 10; 0.3, say"
            )
        if self.rounds and not self.speedups:
            raise BadSpec("rounds are of given speed-ups", "give --speedups with --rounds")


@dataclass(frozen=True, slots=True)
class Choice:
    """The next experiment: in `region`, at `speedup` (a fraction)."""

    region: Region
    speedup: float


def choices(plan: Plan, random: Random) -> Iterator[Choice]:
    """Experiments one after the other, for ever unless the plan counts rounds."""
    if not plan.speedups:
        while True:
            region = random.choices(plan.regions, plan.weights or None)[0]
            yield Choice(region, draw_speedup(random))
    speedups: Sequence[float] = sorted({0.0, *plan.speedups})
    done = 0
    while not plan.rounds or done < plan.rounds:
        turn = [Choice(region, speedup) for region in plan.regions for speedup in speedups]
        random.shuffle(turn)
        yield from turn
        done += 1


class Length:
    """Seconds that the next experiment takes, by how often progress was made in the last ones."""

    def __init__(self, shortest: float) -> None:
        self.shortest = self.seconds = shortest

    def learn(self, fewest: int) -> None:
        """Adapt to the passes of the progress point that was passed least in an experiment."""
        if fewest < ENOUGH:
            self.seconds = min(2 * self.seconds, _LONGEST * self.shortest)
        elif fewest > _PLENTY:
            self.seconds = max(self.seconds / 2, self.shortest)
