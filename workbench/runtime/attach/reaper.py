"""Traced threads that die are reaped, also while the thread that traces them is busy.

A thread that is traced stays a zombie until its tracer has taken note. Two others wait for that: an execve(2) in
another thread of the process, which holds a lock that seizing a further thread needs, so that a tracer that has seized
some threads and is about to seize the next would wait for ever (ptrace(2) is silent about it; fs/exec.c, de_thread);
and the parent of a process whose first thread ended while it was traced. Any thread of the tracer's process may reap.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

__all__ = ("forget", "take_care_of")

_WALL = 0x40000000
_ENDS = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
_EVERY = 0.1
_IDLE = 10.0
_lock = threading.Lock()
_wake = threading.Event()
_threads: set[int] = set()
_reaper: threading.Thread | None = None


def take_care_of(thread: int, *, leader_of_ours: bool) -> None:
    """A thread is about to be seized. The first thread of our own child is left to whoever waits for the child."""
    global _reaper
    if leader_of_ours:
        return
    with _lock:
        _threads.add(thread)
        if _reaper is None or not _reaper.is_alive():
            _reaper = threading.Thread(target=_reap, name="wb-reap", daemon=True)
            try:
                _reaper.start()
            except (
                RuntimeError
            ):  # the interpreter is about to end, and the kernel lets go of everything then
                _reaper = None
    _wake.set()


def forget(thread: int) -> None:
    """It is not traced any more."""
    with _lock:
        _threads.discard(thread)


def _reap() -> None:
    idle_since = time.monotonic()
    while True:
        time.sleep(_EVERY)
        with _lock:
            threads = list(_threads)
        for thread in threads:
            if _reaped(thread):
                forget(thread)
        if threads:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > _IDLE:
            _wake.clear()
            with _lock:
                empty = not _threads
            if empty:
                _wake.wait()
            idle_since = time.monotonic()


def _reaped(thread: int) -> bool:
    """Whether it is gone; one that is about to be seized is not ours yet."""
    try:
        # A stop of a traced thread is reported whatever was asked for, and must be left for its tracer.
        found = os.waitid(os.P_PID, thread, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
        if found is None or found.si_code not in _ENDS:
            return False
        return os.waitpid(thread, os.WNOHANG | _WALL)[0] != 0
    except ChildProcessError:
        return not Path(f"/proc/{thread}").exists()


def _after_fork() -> None:
    """The parent's threads are the parent's."""
    global _reaper, _lock, _wake
    _lock, _wake = threading.Lock(), threading.Event()
    _threads.clear()
    _reaper = None


os.register_at_fork(after_in_child=_after_fork)
