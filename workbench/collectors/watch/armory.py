"""Keeps breakpoints armed as budget, rate and turns allow, and records for how long."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.watch.limits import Limits, Turns, Window
from workbench.collectors.watch.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workbench.collectors import window as recording_window
    from workbench.collectors.base import Sink
    from workbench.collectors.watch.backend import Backend
    from workbench.collectors.watch.slots import Breakpoints, Place

__all__ = ("Armory", "now")


def now() -> int:
    """Nanoseconds of CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def _read(pid: int, place: Place) -> int | None:
    with (
        contextlib.suppress(OSError, ValueError, OverflowError),
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
    ):
        memory.seek(place.address)
        data = memory.read(place.size)
        if len(data) == place.size:
            return int.from_bytes(data, "little")
    return None


class Armory:
    """The armed places of one watch.

    Parameters
    ----------
    label : str
        The watch as it was asked for.
    backend : Backend
    breakpoints : Breakpoints
    limits : Limits
    turns : Turns or None
        Places that take turns, None when every place has a slot of its own.
    interval : float
        Seconds of a turn.
    values : bool
        Tell the backend what is at a place when it is armed.
    """

    def __init__(
        self,
        label: str,
        backend: Backend,
        breakpoints: Breakpoints,
        limits: Limits,
        turns: Turns | None,
        interval: float,
        *,
        values: bool,
    ) -> None:
        self._label, self._backend, self._breakpoints = label, backend, breakpoints
        self._limits, self._turns, self._values = limits, turns, values
        self._interval = interval
        self._timer: Timer | None = None
        self._windows: list[Window] = []
        self._held, self._paused_at = True, 0
        self._lock = threading.RLock()  # the window may close while turns are taken
        self._rows: list[tuple[int, int, int, int, int, int, int]] = []
        self.closed = False
        self.trapped = 0
        """Hits as the kernel counted them, known once closed."""

    def begin(
        self, pids: Iterable[int], places: list[Place], recording: recording_window.Window
    ) -> None:
        """Open events on every thread of `pids`, and arm them while the recording's window is open.

        Raises
        ------
        OutOfSlots, TargetGone, NotPermitted, MissingCapability
            As `Breakpoints.arm`.
        """
        self._breakpoints.arm(pids, places)
        for slot, place in enumerate(places):
            self._backend.watch(slot, place)
        self._backend.allow(self._limits.budget, self._limits.share)
        if self._turns is not None:
            self._timer = Timer(self._interval)
        recording.tell(lambda: self._start(pids, places), self._pause)

    def _start(self, pids: Iterable[int], places: list[Place]) -> None:
        start = now()
        self._windows = [Window(place, start) for place in places]
        self._limits.begin(start)
        self._held = False
        self._arm(pids)

    def _pause(self) -> None:
        """Disarm; what is left of `close` takes longer."""
        with self._lock:
            if not self._held and not self.closed:
                self._held = True
                self._disarm()
                self._paused_at = now()

    def _arm(self, pids: Iterable[int]) -> None:
        if self._values:
            self._remember(pids, self._breakpoints.places)
        start = now()
        self._breakpoints.enable()
        for window in self._windows:
            window.arm(start)

    def _remember(self, pids: Iterable[int], places: list[Place]) -> None:
        for pid in sorted(pids):
            for place in places:
                value = _read(pid, place)
                if value is not None:
                    self._backend.remember(pid, place, value)

    def _disarm(self) -> None:
        self._breakpoints.disable()
        end = now()
        for window in self._windows:
            window.disarm(end)

    def wake_fds(self) -> tuple[int, ...]:
        """The timer of the turns."""
        return (self._timer.fd,) if self._timer is not None and not self.closed else ()

    def tend(self, pids: Iterable[int]) -> None:
        """Disarm what has spent its budget or its rate, arm again what may be, take turns."""
        with self._lock:
            self._tend(pids)

    def _tend(self, pids: Iterable[int]) -> None:
        if self.closed or self._held:
            return
        armed = self._breakpoints.enabled
        turn = self._timer is not None and self._timer.expired()
        if self._backend.spent:
            if armed:
                self._disarm()
            return
        renewed = self._limits.renew(now())
        if renewed:
            self._backend.renew(self._limits.share)
        if armed and not renewed and self._backend.paused:
            self._disarm()
            armed = False
        if turn and self._turns is not None:
            self._rotate(pids)
        if renewed and not armed:
            self._arm(pids)

    def _rotate(self, pids: Iterable[int]) -> None:
        assert self._turns is not None
        places = self._turns.take(len(self._windows))
        # A place that stays keeps its slot: two slots must never watch one place.
        staying = [window.place for window in self._windows if window.place in places]
        coming = [place for place in places if place not in staying]
        for slot, window in enumerate(self._windows):
            if window.place in staying or not coming:
                continue
            place = coming.pop()
            if self._values:
                self._remember(pids, [place])
            self._backend.watch(slot, place)
            self._windows[slot] = coming_up = Window(place, now())
            if self._breakpoints.enabled:
                coming_up.arm(coming_up.start)
            self._breakpoints.move(slot, place)
            # Counted once the slot is aimed elsewhere: no hit can come in between.
            self._end(window)

    def _end(self, window: Window) -> None:
        end = self._paused_at or now()
        window.disarm(end)
        place = window.place
        hits, recorded = self._backend.count(place)
        self._rows.append(
            (place.address, place.size, window.start, end, window.armed, hits, recorded)
        )

    def flush(self, sink: Sink) -> None:
        """Append the windows that have ended to frame `watch_windows`."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        names = ("address", "size", "start", "end", "armed", "hits", "recorded")
        types = (np.uint64, np.int8, *[np.int64] * 5)
        columns = zip(names, types, zip(*rows, strict=True), strict=True)
        sink.append(
            "watch_windows",
            {"watch": [self._label] * len(rows)}
            | {name: np.array(column, dtype) for name, dtype, column in columns},
        )

    def close(self) -> None:
        """Disarm for good and free the slots; safe to call twice."""
        if self.closed:
            return
        self.closed = True
        if self._windows:
            self._disarm()
            for window in self._windows:
                self._end(window)
            self.trapped = self._breakpoints.hits()
        self._breakpoints.close()
        if self._timer is not None:
            self._timer.close()
