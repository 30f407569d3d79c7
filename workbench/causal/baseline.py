"""Whether the program runs under SchedCoz, with nothing sped up, as it runs under the kernel's own scheduler.

A prediction is one for the program as it is scheduled while it is measured. If that is another schedule than it has
otherwise (a queue for all CPUs in place of one for each, say), it may wait for other things. So the period of a
progress point at 0 % is measured under both in turn.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from workbench.causal.drift import effects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from workbench.causal.controller import Engine
    from workbench.causal.target import Target

__all__ = ("TOLERANCE", "Baseline", "measure_baseline")

TOLERANCE = 3.0
"""Points that the periods may differ, beyond twice the standard error."""
_FEWEST = 5  # passes of the rarest point in an experiment


@dataclass(frozen=True)
class Baseline:
    """The period at 0 % against that under the kernel's own scheduler.

    `difference` and `error`: points, the standard error among them, of the progress point `point` that differs most;
    `pairs`: how often both were measured; `comparable` unless the difference is more than 3 points and twice the error.
    """

    difference: float
    error: float
    point: str
    pairs: int
    comparable: bool

    def to_json(self) -> dict[str, Any]:
        """Its fields, for a manifest."""
        return asdict(self)

    def __str__(self) -> str:
        slower = "longer" if self.difference >= 0 else "shorter"
        return (
            f"at 0 % {self.point} takes {abs(self.difference):.1f} % {slower} than under the kernel's own scheduler "
            f"(+- {2 * self.error:.1f})"
        )


def measure_baseline(
    engine: Engine,
    lent: Callable[[], AbstractContextManager[None]],
    target: Target,
    points: Sequence[str],
    *,
    pairs: int = 6,
    seconds: float = 0.4,
    settle: float = 0.1,
    seed: int = 1,
) -> Baseline | None:
    """Measure both in turn.

    Parameters
    ----------
    engine : Engine
        In charge of the target.
    lent : callable
        Gives a context in which the target is under the kernel's own scheduler.
    target : Target
    points : sequence of str
        Names of the throughput points, which come first in what the engine gives.
    pairs : int
    seconds, settle : float
        Of an experiment, and before each.
    seed : int

    Returns
    -------
    Baseline or None
        None: the target ended, or progress was too rare to say.
    """
    random = Random(seed)
    seen: list[list[tuple[float, float, bool]]] = [[] for _ in points]
    for _ in range(pairs):
        for plain in random.sample((False, True), 2):
            with lent() if plain else nullcontext():
                alive = target.wait(settle)
                engine.begin(0.0)
                alive = alive and target.wait(seconds)
                measured = engine.end()
            if not alive or not all(one.valid for one in measured):
                return None
            for own, one in zip(seen, measured, strict=False):
                if one.count >= _FEWEST and one.real_period > 0:
                    own.append((float(len(own)), math.log(one.real_period), plain))
    found = []
    for name, own in zip(points, seen, strict=True):
        times, values, plains = zip(*own, strict=True) if own else ((), (), ())
        if plains.count(True) >= 2 and plains.count(False) >= 2:
            difference, error = effects(times, values, plains).difference(False, True)
            found.append((100 * math.expm1(difference), 100 * error, name))
    if not found:
        return None
    difference, error, name = max(found, key=lambda one: abs(one[0]))
    comparable = abs(difference) <= max(TOLERANCE, 2 * error)
    return Baseline(difference, error, name, pairs, comparable)
