"""Locks between processes: measurements of one machine must not overlap, nor two runs into one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.errors import RunFailed

__all__ = ("Cancelled", "exclusive_folder", "measurement")

LOCK_VARIABLE = "WORKBENCH_LIVE_LOCK"
_POLL = 0.1  # seconds between two tries; flock itself cannot be cancelled from another thread


class Cancelled(Exception):
    """The wait for a lock was given up because the user stopped the run."""


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Be the only run that writes into `folder` (which must exist).

    Raises
    ------
    RunFailed
        Another run writes there.
    """
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "?"
            raise RunFailed(
                f"another run (pid {holder}) writes into {folder}", "wait for it, or choose another folder with -o"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def measurement(cancelled: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only live run of this machine, whoever else runs one; waits for its turn.

    Parameters
    ----------
    cancelled : threading.Event
        Set to give up the wait.
    say : callable
        Told once that there is something to wait for.

    Raises
    ------
    Cancelled
        `cancelled` was set.
    """
    handle = _open_shared(Path(os.environ.get(LOCK_VARIABLE) or "/tmp/workbench-live.lock"))
    try:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say("waiting for another live run on this machine to end: measurements must not overlap")
                    told = True
            if cancelled.wait(_POLL):
                raise Cancelled
        yield
    finally:
        os.close(handle)


def _open_shared(path: Path) -> int:
    """Open a lock file that every user of the machine can lock."""
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        # Without O_CREAT first: Linux refuses to "create" another user's file in a sticky folder (protected_regular).
        return os.open(path, flags)
    except FileNotFoundError:
        handle = os.open(path, flags | os.O_CREAT, 0o644)
        if sys.platform != "win32":
            os.fchmod(handle, 0o644)
        return handle
