"""The calling thread as a participant of a namespace: its struct wb_run, made on first use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from typing import TYPE_CHECKING

from workbench.runtime.maps.core import core, map_error

if TYPE_CHECKING:
    from workbench.runtime.maps.space import Space

__all__ = ("current_run", "leave")

_HINTS = {
    38: "the process may not call membarrier(2): allow it in the process's seccomp filter",
    87: "more than 4,095 threads use this namespace: use several namespaces",
    95: "the C library's robust list has a layout that is not known here",
}


class _Run:
    """A run of this thread; leaves when the thread ends or the space is closed."""

    def __init__(self, space: Space) -> None:
        error = ctypes.c_int64()
        self._free = core().wb_run_free
        address = core().wb_run_new(space.handle, ctypes.byref(error))
        if not address:
            refused = map_error(f"joining namespace {space.name!r}", error.value)
            refused.hint = _HINTS.get(-error.value, refused.hint)
            raise refused
        self.address: int = address
        self._space = (
            space  # its memory holds an element of this thread's list: it must outlive the run
        )

    def leave(self) -> None:
        if self.address and not self._free(self.address):
            self.address = 0

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # interpreter shutdown
            self.leave()


class _Runs(threading.local):
    def __init__(self) -> None:
        self.by_space: dict[int, _Run] = {}


_runs = _Runs()


def _after_fork() -> None:
    """The child's copies are wiped (MADV_WIPEONFORK) and must not be freed: they were never its own."""
    for run in _runs.by_space.values():
        run.address = 0
    _runs.by_space = {}


os.register_at_fork(after_in_child=_after_fork)


def current_run(space: Space) -> int:
    """Address of the calling thread's `struct wb_run` in `space`; the thread joins on its first call.

    Raises
    ------
    MapError
        The thread cannot join: every participant number is taken (errno EUSERS), or the process is denied
        membarrier(2) (ENOSYS).
    """
    run = _runs.by_space.get(id(space))
    if run is None or not run.address:
        run = _runs.by_space[id(space)] = _Run(space)
    return run.address


def leave(space: Space) -> None:
    """The calling thread leaves `space`."""
    run = _runs.by_space.pop(id(space), None)
    if run is not None:
        run.leave()
