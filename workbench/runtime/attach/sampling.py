"""A program that runs at intervals of a process's CPU time, on the thread that spends it.

A perf event for each thread counts its CPU time and sends the thread SIGTRAP, whose handler is the agent's. Threads
that start later inherit the event. Only user code is interrupted, so no system call ends early. What is not seen: time
in the kernel (a signal at the end of execve(2) would end the new program); time that a thread spends with SIGTRAP
blocked (one sample is kept until it is let through); a process that takes SIGTRAP for itself; a program that replaces
this one (the kernel closes the events).
"""

from __future__ import annotations

import contextlib
import secrets
import struct
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, NotPermitted, RunFailed, TargetGone
from workbench.runtime.attach import perf
from workbench.runtime.attach.link import Request
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import STUBS
from workbench.runtime.attach.signals import end_signals
from workbench.runtime.attach.stop import thread_ids

if TYPE_CHECKING:
    from workbench.runtime.attach.process import Process

__all__ = ("Sampling",)

_ROUNDS = 100


class Sampling:
    """One program that samples one process, and children that were forked from it since; as a context.

    Parameters
    ----------
    process : Process
    request : Request
        Program, maps and cookie; the site does not matter.
    period : int
        ns of CPU time between samples of a thread.
    left_out : int
        A thread that is not sampled.

    Attributes
    ----------
    events : list of int
        Perf events, one per thread of the start; enabled.
    """

    def __init__(
        self, process: Process, request: Request, period: int, *, left_out: int = 0
    ) -> None:
        self.process, self.period = process, period
        process.refresh()  # it may run another program than when it was entered
        self.events: list[int] = []
        self._left_out = left_out
        self._children: list[int] = []
        self._cost = (0, 0)
        # The upper bit keeps it apart from the data of watchpoints.
        self._data = 1 << 63 | secrets.randbits(62)
        self._link = process.add_link(request)
        self._signals = process.signals()
        self._signals.hold()
        self._slot = self._signals.add(self._data, self._link.record, period)
        self._open = True
        try:
            if not self._cover(process.pid):
                raise TargetGone(f"process {process.pid} exited while it was being attached")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sampling:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cover(self, pid: int, *, start: bool = True) -> list[int]:
        """Events on every thread: those that a thread made before it was covered are found by the next look."""
        covered, opened = {self._left_out}, []
        for _ in range(_ROUNDS):
            new = set(thread_ids(pid)) - covered
            if not new:
                break
            for thread in sorted(new):
                with contextlib.suppress(TargetGone):
                    opened.append(perf.open_clock(thread, self.period, self._data))
                    self.events.append(opened[-1])
                    if start:
                        perf.enable(opened[-1])
            covered |= new
        else:
            raise RunFailed(
                f"process {pid} starts threads faster than they can be sampled", "try again"
            )
        return opened

    def follow(self, pid: int) -> bool:
        """Sample a child that was forked from the process since; False = it runs another program, or is gone.

        Agent, handler and program are in its memory as they are in its parent's.
        """
        before = len(self.events)
        try:
            memory = Memory(pid)
        except (TargetGone, NotPermitted):
            return False
        try:
            # Opened before the look: a program that it executes after the look closes them.
            events = self._cover(pid, start=False)
            inherited = self._is_there(memory)
        except (TargetGone, MissingCapability):
            inherited, events = False, []
        finally:
            memory.close()
        if inherited and events:
            for event in events:
                perf.enable(event)
            self._children.append(pid)
            return True
        for event in self.events[before:]:
            perf.close(event)
        del self.events[before:]
        return False

    def samples(self, pid: int) -> bool:
        """Whether the process, or a child that is followed, still runs the program that was entered."""
        try:
            memory = Memory(pid)
        except (TargetGone, NotPermitted):
            return False
        try:
            return self._is_there(memory)
        finally:
            memory.close()

    def _is_there(self, memory: Memory) -> bool:
        try:
            return memory.read(self._signals.slot(self._slot), 8) == struct.pack("<Q", self._data)
        except (TargetGone, MissingCapability):
            return False

    @property
    def hits(self) -> int:
        """Samples that ran the program."""
        return self._link.hits

    @property
    def missed(self) -> int:
        """Samples that ran none: the thread was inside another program."""
        return self._link.missed

    @property
    def cost(self) -> tuple[int, int]:
        """How often the program ran in the process (not its children), and how many ns it took in all."""
        if self._open:
            with contextlib.suppress(TargetGone, MissingCapability):
                self._cost = self._signals.cost(self._slot)
        return self._cost

    @property
    def attached(self) -> bool:
        """True until closed."""
        return self._open

    def close(self) -> None:
        """Close the events, take the handler out where nobody else needs it; harmless twice."""
        if not self._open:
            return
        _ = self.cost
        self._open = False
        for event in self.events:
            perf.close(event)
        self.events.clear()
        agent = self._signals.agent
        with contextlib.suppress(TargetGone, MissingCapability):
            # Another program may run there by now.
            if agent is self.process.room.agent and self._is_there(self.process.memory):
                self._signals.remove(self._slot)
                self.process.drop_link(self._link)
                self._signals.release()
        for pid in self._children:
            with contextlib.suppress(TargetGone, MissingCapability):
                memory = Memory(pid)
                try:
                    if memory.read(agent.stub, len(STUBS)) == STUBS:
                        ends = agent.symbols["wb_agent_signals_end"]
                        end_signals(pid, memory, ends, agent.stub)
                finally:
                    memory.close()
