"""A repeating timer as a file descriptor (timerfd_create(2)), so that turns are taken between two drains on time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time

from workbench.errors import MissingCapability

__all__ = ("Timer",)

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class Timer:
    """Becomes readable every `seconds`.

    Raises
    ------
    MissingCapability
        No descriptor is left.
    """

    def __init__(self, seconds: float) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self.fd < 0:
            raise MissingCapability(f"timerfd_create: {os.strerror(ctypes.get_errno())}")
        whole, part = divmod(max(int(seconds * 1e9), 1), 1_000_000_000)
        libc.timerfd_settime(self.fd, 0, struct.pack("<4q", whole, part, whole, part), None)

    def expired(self) -> bool:
        """True once per expiry that was not asked about yet."""
        if self.fd < 0:
            return False
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self.fd, 8))
        return False

    def close(self) -> None:
        """Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
