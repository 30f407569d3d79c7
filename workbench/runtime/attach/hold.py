"""One workbench in a process at a time: a lock on a file beside the namespaces, which the kernel frees when we die."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

from workbench.errors import NotPermitted

__all__ = ("Hold", "sweep")

_held: weakref.WeakSet[Hold] = weakref.WeakSet()


class Hold:
    """The right to change a process's code.

    Parameters
    ----------
    pid : int
    patience : float
        Seconds to wait for another workbench, which may just clean up after a third.

    Raises
    ------
    NotPermitted
        Another workbench has it.
    """

    def __init__(self, pid: int, patience: float = 0.0) -> None:
        self.path = _folder() / f"{pid}.held"
        end = time.monotonic() + patience
        while True:
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(self._fd, 32, 0).decode(errors="replace") or "?"
                os.close(self._fd)
                if time.monotonic() < end:
                    time.sleep(0.02)
                    continue
                raise NotPermitted(
                    f"process {pid} is being recorded or probed in user space already, by process {owner}",
                    "let that one end first, or record both things at once; the kernel's probes do not mind",
                ) from None
            if _is(self._fd, self.path):
                break
            os.close(self._fd)  # whoever had it took the file away meanwhile
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        _held.add(self)

    def close(self) -> None:
        """Give it up; harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(fd)

    def forget(self) -> None:
        """In the child of a fork, where it is the parent's: a shared descriptor would outlive the parent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _folder() -> Path:
    from workbench.runtime.maps.space import root

    return root()


def _after_fork() -> None:
    for one in list(_held):
        one.forget()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


def sweep() -> None:
    """Take away the files that dead workbenches left."""
    for path in _folder().glob("*.held"):
        with contextlib.suppress(NotPermitted, OSError, ValueError):
            if not Path(f"/proc/{int(path.read_text() or 0)}").exists():
                Hold(int(path.stem)).close()
