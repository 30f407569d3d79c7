"""Hits of watchpoints taken by the agent of a running process and recorded to memory shared with the workbench.

The memory is a `workbench.native.watch_area.Area`; the breakpoint events, which send SIGTRAP with the area's token, are
the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, NotPermitted, TargetGone
from workbench.runtime.attach.agent import MMAP, READ, WRITE
from workbench.runtime.attach.memory import PAGE, mappings
from workbench.runtime.attach.remote import Calls
from workbench.runtime.attach.segments import PATH_AT
from workbench.runtime.attach.stop import Stop

if TYPE_CHECKING:
    from workbench.runtime.attach.process import Process

__all__ = ("Watching",)

_OPENAT, _CLOSE, _MUNMAP = 257, 3, 11
_HERE, _SHARED = -100, 1


class Watching:
    """The area at `path`, taken in by a process until `close`.

    Parameters
    ----------
    process : Process
    path : str
        As the process sees it.

    Raises
    ------
    NotPermitted, MissingCapability, TargetGone
    """

    def __init__(self, process: Process, path: str) -> None:
        self._process = process
        self._signals = process.signals()
        self._agent = self._signals.agent
        self._signals.hold()
        try:
            self._map(path, Path(path).stat().st_size)
        except BaseException:
            self._signals.release()
            raise
        self._open = True

    def _map(self, path: str, length: int) -> None:
        memory, agent = self._process.memory, self._agent
        pid = memory.pid
        with Stop(pid) as stop, Calls(stop, memory, agent.stub) as calls:
            memory.write(agent.stub + PATH_AT, os.fsencode(path) + b"\0")
            try:
                fd = calls.call(_OPENAT, _HERE, agent.stub + PATH_AT, os.O_RDWR | os.O_CLOEXEC, 0)
                try:
                    before = mappings(pid)
                    self._memory = calls.call(MMAP, 0, length, READ | WRITE, _SHARED, fd, 0), length
                    self._process.room.enlist(before)
                finally:
                    calls.call(_CLOSE, fd)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise NotPermitted(
                        f"process {pid} may not share memory with this one, which is another user's",
                        "run the workbench as the owner of the process",
                    ) from error
                raise MissingCapability(
                    f"process {pid} cannot map {path}: {error.strerror}",
                    "it must see the same /proc: is it in a container or chroot?",
                ) from error
            self._number = calls.function(agent.symbols["wb_agent_watch"], *self._memory)
            if self._number < 0:
                self._unmap(calls)
        if self._number < 0:
            raise MissingCapability(
                f"process {pid} takes no more watches: {os.strerror(-self._number)}"
            )

    def _unmap(self, calls: Calls) -> None:
        at, length = self._memory
        self._process.room.strike(at, at + (length + PAGE - 1) // PAGE * PAGE)
        calls.call(_MUNMAP, at, length)

    def close(self) -> None:
        """Stop taking hits, once the events are closed; harmless twice."""
        if not self._open:
            return
        self._open = False
        memory, agent = self._process.memory, self._agent
        with contextlib.suppress(TargetGone, MissingCapability):
            if agent is not self._process.room.agent:
                return  # it runs another program
            with Stop(memory.pid) as stop, Calls(stop, memory, agent.stub) as calls:
                if not calls.function(agent.symbols["wb_agent_unwatch"], self._number):
                    self._unmap(calls)
            self._signals.release()
