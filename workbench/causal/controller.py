"""Run experiments one after the other and say what each of them gave."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from workbench.causal.plan import ENOUGH, Choice, Length, Plan, choices
from workbench.causal.regions import Finder
from workbench.errors import UnknownSymbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from workbench.causal.regions import Pieces, Region
    from workbench.causal.target import Target
    from workbench.sched.measured import Located, Measured

__all__ = ("NOT_SAMPLED", "Engine", "Experiment", "Places", "Sampler", "State", "experiments")

_LATE, _LATER = (
    1.5,
    1.0,
)  # an experiment may last this many times its length, and this many seconds more


_STILL, _SHORT = 0.05, 2e7  # of an experiment without a sample, and ns that never matter


class Engine(Protocol):
    """What carries an experiment out; `workbench.sched.schedcoz.SchedCoz` is one."""

    @property
    def why_ended(self) -> str:
        """Why it can carry out no more experiments; empty if it can, or says nothing."""

    @property
    def stood_still(self) -> int:
        """The longest time in the last experiment in which a CPU took no sample, ns."""

    def select(self, places: Mapping[int, Pieces]) -> None:
        """Make these pieces of code the region of each process."""

    def begin(self, speedup: float) -> None:
        """Start an experiment."""

    def count_anew(self) -> None:
        """Forget the progress that was made in it so far: it has settled."""

    def end(self) -> Sequence[Measured]:
        """End it; what it gave by progress point."""


@runtime_checkable
class Sampler(Protocol):
    """An engine that also says where samples were; `workbench.sched.schedcoz.SchedCoz` is one."""

    def limit(self, places: Mapping[int, Pieces]) -> None:
        """A sample belongs to its innermost frame in these pieces of code, or in the region."""

    def locations(self) -> Sequence[Located]:
        """Where samples were since the engine was made."""


class Places(Protocol):
    """Where a region lies in each process; `Finder` is one."""

    def places(self, pids: Iterable[int], region: Region) -> dict[int, Pieces]:
        """Pieces by process."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment as it went.

    Attributes
    ----------
    number : int
    region : str
    speedup : float
        A fraction.
    start, duration : int
        ns of CLOCK_MONOTONIC, with the time in which it settled.
    settled : int
        ns of it that passed before progress was counted.
    reason : str
        Why it does not count; empty: it does.
    measured : tuple of Measured
        By progress point; empty if nothing could be measured.
    """

    number: int
    region: str
    speedup: float
    start: int
    duration: int
    settled: int
    reason: str
    measured: tuple[Measured, ...]

    @property
    def valid(self) -> bool:
        """It counts."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class State:
    """How far the experiments are: `done` and how many of these were `dropped`; seconds `elapsed` and `planned` (0:
    until the target ends, or until there were `total` experiments); what is running.
    """

    done: int
    dropped: int
    elapsed: float
    planned: float
    length: float
    choice: Choice
    total: int = 0

    @property
    def remaining(self) -> float | None:
        """Seconds that are left, as far as they are known."""
        known = [max(self.planned - self.elapsed, 0.0)] if self.planned else []
        if self.total:
            each = self.elapsed / self.done if self.done else self.length
            known.append(max(each * (self.total - self.done), 0.0))
        return min(known, default=None)

    def __str__(self) -> str:
        remaining = self.remaining
        left = "" if remaining is None else f", {remaining:.0f} s left"
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        return (
            f"experiment {self.done + 1}: {self.choice.region.spec} {self.choice.speedup:.0%} faster for "
            f"{self.length:.2g} s ({self.done} done{dropped}{left})"
        )


def experiments(
    engine: Engine,
    target: Target,
    plan: Plan,
    points: Sequence[str],
    *,
    finder: Places | None = None,
    progress: Callable[[State], None] | None = None,
    before: Callable[[list[int]], None] | None = None,
) -> Iterator[Experiment]:
    """Run experiments until the plan is done or the target ends.

    In each, progress is counted once it has settled (`Plan.settle`); samples and payments are counted throughout.

    An experiment is given out even when it does not count, with the reason: progress that was made too rarely, a target
    that ended, a scheduler that the kernel took away (after which there are no more), time in which the machine stood
    still, a region that no process has, one that was not found at work while it should have been faster. After Ctrl-C
    the one that was running is given out as interrupted, and then KeyboardInterrupt is raised.

    Parameters
    ----------
    engine : Engine
    target : Target
    plan : Plan
    points : sequence of str
        Names of the engine's progress points, in its order.
    finder : Places, optional
    progress : callable, optional
        Called before each experiment.
    before : callable, optional
        Called before each experiment with the processes of the target.
    """
    finder = finder or Finder()
    random, length = Random(plan.seed), Length(plan.shortest)
    total = plan.rounds * len(plan.regions) * len({0.0, *plan.speedups})
    began = time.monotonic()
    dropped = 0
    missing: dict[str, int] = {}
    for done, choice in enumerate(choices(plan, random)):
        elapsed = time.monotonic() - began
        whole = length.seconds * (1 + plan.settle)
        if plan.seconds and elapsed + whole > plan.seconds and done:
            return
        if before is not None:
            before(target.pids())
        if progress is not None:
            progress(State(done, dropped, elapsed, plan.seconds, whole, choice, total))
        settle = plan.settle * length.seconds
        one, stop = _one(engine, target, choice, length, settle, points, finder, done + 1)
        dropped += not one.valid
        yield one
        if stop is not None:
            raise stop
        if one.reason == target.ended or one.reason.startswith(_LEFT):
            return
        missing[one.region] = (
            missing.get(one.region, 0) + 1 if one.reason and not one.measured else 0
        )
        if all(missing.get(region.spec, 0) >= _GIVE_UP for region in plan.regions):
            return
        if not target.wait(plan.pause):
            return


NOT_SAMPLED = "no sample was in the region, so nothing was made faster"
"""Why an experiment does not count whose region the program was not found in."""
_LEFT = "the kernel took the scheduler away"
_GIVE_UP = 3  # times in a row that a region was found in no process


def _one(
    engine: Engine,
    target: Target,
    choice: Choice,
    length: Length,
    settle: float,
    points: Sequence[str],
    finder: Places,
    number: int,
) -> tuple[Experiment, KeyboardInterrupt | None]:
    start, settled = time.monotonic_ns(), 0
    measured: tuple[Measured, ...] = ()
    stop: KeyboardInterrupt | None = None
    reason = ""
    try:
        engine.select(finder.places(target.pids(), choice.region))
        start = time.monotonic_ns()
        engine.begin(choice.speedup)
        alive = True
        try:
            if settle:
                alive = target.wait(settle)
                engine.count_anew()
                settled = time.monotonic_ns() - start
            alive = alive and target.wait(length.seconds)
        except KeyboardInterrupt as interrupt:
            stop = interrupt
        measured = tuple(engine.end())
        reason = "interrupted" if stop else "" if alive else target.ended
    except UnknownSymbol as error:
        reason = error.message if target.wait(0) else target.ended
    except KeyboardInterrupt as interrupt:
        stop, reason = interrupt, "interrupted"
        with contextlib.suppress(KeyboardInterrupt):
            engine.end()
    duration = time.monotonic_ns() - start
    if measured and not reason:
        reason = _judge(
            measured, points, duration / 1e9, settle + length.seconds, choice.speedup
        )
        if reason == _LEFT and (why := engine.why_ended):
            reason += f": {why}"
        if not reason and engine.stood_still > max(_STILL * duration, _SHORT):
            reason = f"for {engine.stood_still / 1e6:.0f} ms nothing was sampled: the machine stood still"
        if all(one.valid for one in measured):
            length.learn(min(map(_passes, measured)))
    return (
        Experiment(
            number, choice.region.spec, choice.speedup, start, duration, settled, reason, measured
        ),
        stop,
    )


def _passes(one: Measured) -> int:
    return one.count if one.departures is None else min(one.count, one.departures)


def _judge(
    measured: Sequence[Measured],
    points: Sequence[str],
    took: float,
    length: float,
    speedup: float,
) -> str:
    """Why an experiment does not count; empty if it does."""
    if not all(one.valid for one in measured):
        return _LEFT
    if took > _LATE * length + _LATER:
        return f"it took {took:.1f} s instead of {length:.2g}: the machine stood still"
    fewest = min(range(len(measured)), key=lambda index: _passes(measured[index]))
    count = _passes(measured[fewest])
    if not count:
        return f"no progress at {points[fewest]}"
    if count < ENOUGH:
        return f"{points[fewest]} was passed {count} times, which is too few"
    if speedup and not measured[0].hits:
        return NOT_SAMPLED
    for point, one in zip(points, measured, strict=False):
        if one.departures is not None and not one.period >= 0:
            return f"how many were inside {point} could not be counted"
    return ""
