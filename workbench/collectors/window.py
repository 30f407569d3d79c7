"""The one stretch of time that all collectors of a recording cover (bpf/window.h).

Attaching takes hundreds of milliseconds and detaching as well, one collector after the other. Programs that are
loaded for a recording are therefore paused; `open` lets all of them go at once, `close` pauses them again before the
first is detached. What is loaded in between joins the state of the others.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Window",)

_FLAG = "paused"


class Window:
    """When programs record: always, unless `hold` was called.

    Attributes
    ----------
    start, end : int
        CLOCK_MONOTONIC in ns; 0 before the window was opened or closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: list[Any] = []
        self._tasks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._paused = False
        self.start = self.end = 0

    def hold(self) -> None:
        """Programs that join are paused until `open`."""
        with self._lock:
            self._paused = True

    def join(self, loaded: Any) -> None:
        """A loaded object of either backend; one without the flag records as soon as it is attached."""
        with self._lock:
            if _FLAG in loaded.globals:
                loaded.globals[_FLAG][()] = self._paused
                if loaded not in self._loaded:
                    self._loaded.append(loaded)

    def tell(self, opened: Callable[[], None], closed: Callable[[], None]) -> None:
        """Have something done right after all were let go, and right after all were paused."""
        with self._lock:
            self._tasks.append((opened, closed))
            if not self._paused:
                opened()

    def _set(self, paused: bool) -> None:
        self._paused = paused
        for loaded in self._loaded:
            # An object that was closed has no variables any more.
            if (flag := loaded.globals.get(_FLAG)) is not None:
                flag[()] = paused

    @property
    def loaded(self) -> list[Any]:
        """What has joined, also what was closed since."""
        return list(self._loaded)

    def open(self, now: int) -> None:
        """Let all programs go; the time is `now`."""
        with self._lock:
            self.start = now
            self._set(False)
            for opened, _ in self._tasks:
                opened()

    def close(self, now: int) -> None:
        """Pause all programs; the time is `now`."""
        with self._lock:
            if self.end:
                return
            self._set(True)
            self.end = now
            for _, closed in self._tasks:
                closed()
