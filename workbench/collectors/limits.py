"""One open file per thread and per probe: raise the soft limit of open files while anything is recorded.

The limit is the process's, so it is borrowed: the first recorder raises it, the last one puts it back, and commands
that are started meanwhile get the limit that was there before.
"""

from __future__ import annotations

import contextlib
import resource
import threading

__all__ = ("borrow_limit", "own_limits", "return_limit")

_lock = threading.Lock()
_borrowers = 0
_before: tuple[int, int] | None = None


def borrow_limit() -> None:
    """Raise the soft limit to the hard one; every call needs a `return_limit`."""
    global _borrowers, _before
    with _lock:
        _borrowers += 1
        if _borrowers == 1:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                _before = (soft, hard)


def return_limit() -> None:
    """Put the limit back when nobody needs it any more."""
    global _borrowers, _before
    with _lock:
        _borrowers -= 1
        if not _borrowers and _before is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, _before)
            _before = None


def own_limits(pid: int) -> None:
    """Give a child the limit that this process has when nothing is recorded."""
    if _before is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _before)
