"""What a recorder sleeps on: a call for its end, the target's exit, and rings that fill up."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("Waiting",)


class Waiting:
    """The descriptors that end a wait. `call` may come from any thread, also after `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._exit = -1
        self._poll = select.epoll()
        self._poll.register(self._read, select.EPOLLIN)

    def for_exit(self, pid: int) -> None:
        """Watch a process; from here on it cannot be mistaken for a later one of that id."""
        with contextlib.suppress(OSError, OverflowError):  # a number that is no process id
            self._exit = os.pidfd_open(pid)
            self._poll.register(self._exit, select.EPOLLIN)

    @property
    def exited(self) -> bool:
        """The process is gone, or was when it was asked for."""
        if self._exit < 0:
            return True
        poll = select.poll()
        poll.register(self._exit, select.POLLIN)
        return bool(poll.poll(0))

    def for_rings(self, fds: Iterable[int]) -> None:
        """Wake when a producer asks for it.

        Edge-triggered: a ring is readable as soon as it holds one record, and a drain per record would keep a whole
        CPU busy. What wakes is the producer's own wake-up (`wake_bytes` of the programs).
        """
        for fd in set(fds):
            self._poll.register(fd, select.EPOLLIN | select.EPOLLET)

    def wait(self, seconds: float) -> tuple[bool, bool]:
        """Sleep until something happens, at most this long: (it was called for the end, the process exited)."""
        ready = {fd for fd, _ in self._poll.poll(seconds)}
        return self._read in ready, self._exit in ready

    def call(self) -> None:
        """End the wait."""
        with self._lock:
            if self._write >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._write, b"x")

    def close(self) -> None:
        """Close everything."""
        with self._lock:
            self._poll.close()
            for fd in (self._read, self._write, self._exit):
                if fd >= 0:
                    os.close(fd)
            self._read = self._write = self._exit = -1
