"""perf_event_open(2) as this room uses it: an event that sends SIGTRAP to the thread it counts (`sigtrap`).

Needs no privilege but to own the process (Linux 5.13). Time in the kernel is left out: an event in the middle of
execve(2) would send its signal to the new program, which has no handler and would die of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from functools import cache

from workbench.errors import MissingCapability, NotPermitted, TargetGone

__all__ = ("close", "disable", "enable", "open_clock")

_CALL = 298  # x86-64, as the rest of the room
_SOFTWARE, _CPU_CLOCK = 1, 0
_CLOEXEC = 8
_ENABLE, _DISABLE = 0x2400, 0x2401
# Bits of struct perf_event_attr (include/uapi/linux/perf_event.h).
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_INHERIT_THREAD, _REMOVE_ON_EXEC, _SIGTRAP = 1 << 35, 1 << 36, 1 << 37


@cache
def _syscall() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def open_clock(thread: int, period: int, data: int) -> int:
    """A disabled event that sends SIGTRAP to a thread after every `period` ns of CPU time, if it is in user code.

    Threads that the thread starts inherit the event; a child process does not, nor a program that it executes.

    Parameters
    ----------
    thread : int
    period : int
    data : int
        What the signal brings (si_perf_data).

    Raises
    ------
    TargetGone
        No such thread.
    NotPermitted
    MissingCapability
    """
    flags = _DISABLED | _INHERIT | _INHERIT_THREAD | _REMOVE_ON_EXEC | _SIGTRAP
    flags |= _EXCLUDE_KERNEL | _EXCLUDE_HV
    head = struct.pack("<IIQQQQQIIQQ", _SOFTWARE, 128, _CPU_CLOCK, period, 0, 0, flags, 1, 0, 0, 0)
    attributes = ctypes.create_string_buffer(head.ljust(120, b"\0") + struct.pack("<Q", data), 128)
    number = ctypes.c_long
    fd = _syscall().syscall(
        number(_CALL), attributes, number(thread), number(-1), number(-1), number(_CLOEXEC)
    )
    if fd >= 0:
        return int(fd)
    code = ctypes.get_errno()
    if code == errno.ESRCH:
        raise TargetGone(f"thread {thread} is gone")
    if code in (errno.EACCES, errno.EPERM):
        raise NotPermitted(
            f"perf events on thread {thread} are not permitted",
            "lower /proc/sys/kernel/perf_event_paranoid to 2, or run as the process's owner",
        )
    if code == errno.EMFILE:
        raise MissingCapability(
            "too many open files for one perf event per thread", "raise `ulimit -n`"
        )
    hint = "perf events that send signals need Linux 5.13"
    raise MissingCapability(f"perf_event_open: {os.strerror(code)}", hint)


def enable(fd: int) -> None:
    """Start an event and those that were inherited from it."""
    fcntl.ioctl(fd, _ENABLE, 0)


def disable(fd: int) -> None:
    """Pause them."""
    fcntl.ioctl(fd, _DISABLE, 0)


def close(fd: int) -> None:
    """Close an event."""
    with contextlib.suppress(OSError):
        os.close(fd)
