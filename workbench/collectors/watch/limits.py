"""When a watchpoint is armed: the hit budget, the rate, and turns over the addresses of a range.

Pure arithmetic on times, so that it can be tested without a clock.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.collectors.watch.slots import Place

__all__ = ("UNLIMITED", "Limits", "Turns", "Window")

UNLIMITED = 1 << 62
_WINDOW = 100_000_000  # ns


@dataclass(slots=True)
class Limits:
    """How many hits may be recorded, in all and per second.

    Parameters
    ----------
    hits : int
        Budget in all, 0 for none.
    rate : int
        Hits per second, 0 for no limit: the first `rate / 10` of every tenth of a second (or one in every
        `1 / rate` seconds).
    """

    hits: int
    rate: int
    _next: int = 0

    @property
    def budget(self) -> int:
        """Hits in all."""
        return self.hits or UNLIMITED

    @property
    def window(self) -> int:
        """Length of a rate window in ns."""
        return max(_WINDOW, 1_000_000_000 // self.rate) if self.rate else 0

    @property
    def share(self) -> int:
        """Hits of one rate window."""
        return self.rate * self.window // 1_000_000_000 if self.rate else UNLIMITED

    def begin(self, now: int) -> None:
        """The first window begins."""
        self._next = now + self.window

    def renew(self, now: int) -> bool:
        """True when a new window has begun since the last call."""
        if not self.rate or now < self._next:
            return False
        self._next = now + self.window
        return True


@dataclass(slots=True)
class Turns:
    """Which places the slots watch next: every place once per round, in a new random order each round.

    A random order, because a program that is periodic would meet a fixed order always at the same places.
    """

    places: Sequence[Place]
    seed: int = 0
    _random: random.Random = field(init=False)
    _queue: list[Place] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def take(self, count: int) -> list[Place]:
        """The next `count` places, all different."""
        chosen: list[Place] = []
        put_off: list[Place] = []
        while len(chosen) < count:
            if not self._queue:
                self._queue = list(self.places)
                self._random.shuffle(self._queue)
            place = self._queue.pop()
            (put_off if place in chosen else chosen).append(place)
        self._queue += reversed(put_off)
        return chosen


@dataclass(slots=True)
class Window:
    """One stretch of time in which a slot watched one place."""

    place: Place
    start: int
    armed: int = 0
    """Nanoseconds armed so far, without the current stretch."""
    since: int = -1
    """When it was last armed; -1 while it is not."""

    def arm(self, now: int) -> None:
        """Armed from now on."""
        if self.since < 0:
            self.since = now

    def disarm(self, now: int) -> None:
        """No longer armed."""
        if self.since >= 0:
            self.armed += now - self.since
            self.since = -1
