"""Hold all threads of a process for a moment, so that none is created unseen.

By ptrace, because a stop by ptrace ends with the tracer: if the recorder dies in between, the process runs on.
Used only where threads come and go while a watch is armed: a blocking call of a held thread may see EINTR.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("alive", "frozen", "thread_count", "threads")

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_TRACE_CLONE = 8
_WALL = 0x40000000
_LONGEST = 3.0
_DYING = (
    0.5  # seconds that an ending thread may look alive: it runs until the scheduler lets it finish
)


def threads(pid: int) -> list[int]:
    """Thread ids of a process, empty when it is gone; complete only while no thread comes or goes."""
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 (speed counts)
    return []


def thread_count(pid: int) -> int:
    """Number of threads that live; 0 when the process is gone or only waits to be reaped."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        # A leader that has ended stays among the threads until the last of them has.
        return int(words[17]) - (words[0] in "ZX")
    return 0


def alive(pid: int, tid: int) -> bool:
    """True while a thread exists."""
    return os.path.exists(f"/proc/{pid}/task/{tid}")  # noqa: PTH110 (speed counts)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return libc


def _ptrace(request: int, tid: int, data: int = 0) -> int:
    """0, or the errno."""
    return ctypes.get_errno() if _libc().ptrace(request, tid, None, data) == -1 else 0


def _tracer_and_state(pid: int, tid: int) -> tuple[int, str]:
    """(pid of the tracer or 0, state letter) of a thread; (0, "X") when it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path(f"/proc/{pid}/task/{tid}/status").read_text(errors="replace")
        tracer = int(status.split("\nTracerPid:")[1].split()[0])
        return tracer, status.split("\nState:")[1].split()[0]
    return 0, "X"


def _seize(pid: int, tid: int, end: float) -> bool:
    """Become the tracer of a thread; False if it is gone.

    ptrace answers EPERM for a thread of another tracer, and as well for one that is ending: its state in /proc says so
    only when the kernel has got that far, so the question is asked again for a while.
    """
    until = min(end, time.monotonic() + _DYING)
    while True:
        number = _ptrace(_SEIZE, tid, _TRACE_CLONE)
        if number == 0:
            return True
        if number != errno.EPERM:
            return False
        tracer, state = _tracer_and_state(pid, tid)
        if tracer == os.getpid():  # born traced by us
            return True
        if state in "ZX":
            return False
        if tracer or time.monotonic() > until:
            raise MissingCapability(
                f"threads of process {pid} come and go, and it cannot be held still to watch them all",
                "end the debugger that traces it, or start the program as the recording's command",
            )
        time.sleep(0.0005)


def _stop(pid: int, tid: int, end: float) -> int | None:
    """Seize a thread and wait until it stands; the signal it was about to take, None if it is gone."""
    if not _seize(pid, tid, end):
        return None
    _ptrace(_INTERRUPT, tid)
    # The leader's exit belongs to whoever started the process, that of other threads only to their tracer.
    kinds = os.WSTOPPED | os.WNOHANG | _WALL | (0 if tid == pid else os.WEXITED)
    while True:
        try:
            event = os.waitid(os.P_PID, tid, kinds)
        except ChildProcessError:
            return None
        if event is not None and event.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED):
            return 0 if event.si_status >> 8 else int(event.si_status)
        if event is not None or thread_count(pid) == 0:
            return None
        if time.monotonic() > end:
            raise MissingCapability(
                f"thread {tid} of process {pid} does not stop",
                "it may be waiting for a device; try again",
            )
        time.sleep(0.0002)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[list[int]]:
    """Hold every thread of `pid`; yields their ids.

    Raises
    ------
    MissingCapability
        It is traced by a debugger, or a thread does not stop.
    """
    stopped: dict[int, int] = {}
    gone: set[int] = set()
    end = time.monotonic() + _LONGEST
    try:
        while True:
            new = [tid for tid in threads(pid) if tid not in stopped and tid not in gone]
            for tid in new:
                signal = _stop(pid, tid, end)
                if signal is None:
                    gone.add(tid)
                else:
                    stopped[tid] = signal
            if not new and len(stopped) >= thread_count(pid):
                break
            if time.monotonic() > end:
                raise MissingCapability(
                    f"threads of process {pid} come and go too fast to watch them all",
                    "start the program as the recording's command: then none is missed",
                )
        yield list(stopped)
    finally:
        for tid, signal in stopped.items():
            _ptrace(_DETACH, tid, signal)
