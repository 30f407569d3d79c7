"""Perf events on the threads of a process that count CPU time and send SIGTRAP: the driver ``perf`` of `sampling`."""

from __future__ import annotations

import contextlib
import struct

from workbench.errors import MissingCapability, NotPermitted, RunFailed, TargetGone
from workbench.runtime.attach import perf
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import STUBS
from workbench.runtime.attach.signals import Signals, end_signals
from workbench.runtime.attach.stop import thread_ids

__all__ = ("Events",)

_ROUNDS = 100


class Events:
    """The events of one program in one process and its children.

    Parameters
    ----------
    signals : Signals
        Held while this is open.
    data : int
        What the signals bring.
    place : int
        Address of a word that holds `data` while the program is there.
    period : int
        ns of CPU time.
    left_out : int
        A thread without an event.

    Raises
    ------
    MissingCapability, TargetGone
    """

    def __init__(
        self, signals: Signals, *, data: int, place: int, period: int, left_out: int
    ) -> None:
        self._signals, self._pid = signals, signals.memory.pid
        self._data, self._place = data, place
        self._period, self._left_out = period, left_out
        self._events: list[int] = []
        self._children: list[int] = []
        signals.hold()

    def cover(self, pid: int) -> bool:
        """Events on every thread; False = the process is gone or runs another program.

        Raises
        ------
        NotPermitted, MissingCapability
            By the process itself; a child is not covered then.
        """
        if pid == self._pid:
            return bool(self._open(pid, start=True))
        before = len(self._events)
        try:
            memory = Memory(pid)
        except (TargetGone, NotPermitted):
            return False
        try:
            # Opened before the look: a program that it executes after the look closes them.
            events = self._open(pid, start=False)
            inherited = memory.read(self._place, 8) == struct.pack("<Q", self._data)
        except (TargetGone, MissingCapability):
            inherited, events = False, []
        finally:
            memory.close()
        if inherited and events:
            for event in events:
                perf.enable(event)
            self._children.append(pid)
            return True
        for event in self._events[before:]:
            perf.close(event)
        del self._events[before:]
        return False

    def _open(self, pid: int, *, start: bool) -> list[int]:
        """Events on every thread: those that a thread made before it was covered are found by the next look."""
        covered, opened = {self._left_out}, []
        for _ in range(_ROUNDS):
            new = set(thread_ids(pid)) - covered
            if not new:
                break
            for thread in sorted(new):
                with contextlib.suppress(TargetGone):
                    opened.append(perf.open_clock(thread, self._period, self._data))
                    self._events.append(opened[-1])
                    if start:
                        perf.enable(opened[-1])
            covered |= new
        else:
            raise RunFailed(
                f"process {pid} starts threads faster than they can be sampled", "try again"
            )
        return opened

    def tend(self) -> None:
        """Threads inherit their events."""

    def stop(self) -> None:
        """No signal is sent any more."""
        for event in self._events:
            perf.close(event)
        self._events.clear()

    def leave(self) -> None:
        """The handler is not needed in the process any more."""
        self._signals.release()

    def leave_children(self) -> None:
        """Nor in its children, which nobody else samples."""
        agent = self._signals.agent
        for pid in self._children:
            with contextlib.suppress(TargetGone, MissingCapability):
                memory = Memory(pid)
                try:
                    if memory.read(agent.stub, len(STUBS)) == STUBS:
                        end_signals(pid, memory, agent.symbols["wb_agent_signals_end"], agent.stub)
                finally:
                    memory.close()
        self._children.clear()
