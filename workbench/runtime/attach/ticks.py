"""POSIX timers in a target that count its threads' CPU time: samples where perf_event_open(2) is refused.

The timers are the target's own (native/agents/runtime/ticks.c), made by a remote call while it is held. Each sends its
thread a real-time signal that the process neither handles nor ignores, so no handler of its own, of SIGPROF or another
signal, is touched. Threads that start later have none until somebody looks (`Sampling` does, 20 times a second).

The handler has SA_RESTART. Kernels that look at such timers on the way to user code (CONFIG_POSIX_CPU_TIMERS_TASK_WORK:
x86-64 since Linux 5.10) end no system call early; others may, where a tick finds a thread in a call that is about to
sleep and is never restarted: poll, epoll_wait, nanosleep and their kind then give EINTR.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, NotPermitted, TargetGone
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import STUBS, Calls
from workbench.runtime.attach.stop import Stop, status_fields, thread_ids

if TYPE_CHECKING:
    from workbench.runtime.attach.records import Record
    from workbench.runtime.attach.signals import Signals

__all__ = ("Ticks", "end_ticks", "finest", "free_signal")

#: Signals to choose from: not those of C libraries (32 to 34), the first of programs (35, 36) or the last (valgrind).
_SIGNALS = range(62, 36, -1)
_PATIENCE = 0.5
_COARSE = 6  # CLOCK_MONOTONIC_COARSE
_holders: Counter[tuple[int, int]] = (
    Counter()
)  # programs with timers: by process and where its agent is


@cache
def finest() -> int:
    """ns of the kernel's tick: no timer of CPU time is finer."""
    return max(1, round(time.clock_getres(_COARSE) * 1e9))


def _mask(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0"), 16)


def free_signal(pid: int) -> int:
    """A real-time signal that a process does not use, blocked by as few of its threads as possible.

    Raises
    ------
    TargetGone
    MissingCapability
        It uses all of them, or every thread blocks every one.
    """
    fields = [one for thread in thread_ids(pid) if (one := status_fields(pid, thread))]
    if not fields:
        raise TargetGone(f"process {pid} is gone")
    best, fewest = 0, len(fields)
    for signal in _SIGNALS:
        bit = 1 << (signal - 1)
        if any(_mask(fields[0], name) & bit for name in ("SigCgt", "SigIgn", "ShdPnd")):
            continue
        blocked = sum(bool(_mask(one, "SigBlk") & bit) for one in fields)
        if blocked < fewest:
            best, fewest = signal, blocked
    if not best:
        raise MissingCapability(
            f"process {pid} has no real-time signal to spare: it handles, ignores or blocks all of them",
            "permit perf_event_open (kernel.perf_event_paranoid at most 2), or use backend='kernel'",
        )
    return best


def _pending(stop: Stop, signal: int) -> bool:
    bit = 1 << (signal - 1)
    for thread, delivered in stop.threads.items():
        fields = status_fields(stop.pid, thread)
        if delivered == signal or (_mask(fields, "SigPnd") | _mask(fields, "ShdPnd")) & bit:
            return True
    return False


def end_ticks(pid: int, memory: Memory, function: int, stub: int, signal: int) -> bool:
    """End all timers and put the previous handler back; False = a signal is pending, so ours stays to take it.

    Raises
    ------
    TargetGone, NotPermitted
    """
    end = time.monotonic() + _PATIENCE
    while True:
        with Stop(pid) as stop, Calls(stop, memory, stub) as calls:
            calls.function(function, 0)
            last = not _pending(stop, signal)
            if last:
                calls.function(function, 1)
        if last or time.monotonic() > end:
            return last
        time.sleep(0.005)


def _own_number(pid: int, thread: int) -> int:
    """The thread's id in the process's own namespace, where its system calls are made."""
    numbers = status_fields(pid, thread).get("NSpid", "").split()
    return int(numbers[-1]) if numbers else thread


class Ticks:
    """The timers of one program in one process and its children.

    Parameters
    ----------
    signals : Signals
        Whose process, agent and record are used; the handler of SIGTRAP is not needed.
    data : int
        What the signals bring.
    place : int
        Address of a word that holds `data` while the program is there.
    period : int
        ns of CPU time.
    left_out : int
        A thread without a timer.

    Raises
    ------
    MissingCapability, TargetGone
    """

    def __init__(
        self, signals: Signals, *, data: int, place: int, period: int, left_out: int
    ) -> None:
        self.memory, self.agent = signals.memory, signals.agent
        self.pid = self.memory.pid
        self._data, self._place = data, place
        self._period, self._left_out = period, left_out
        self._covered: dict[int, dict[int, int]] = {}  # thread -> id in the process's own namespace
        self.signal = self._begin(signals.record)
        _holders[self.pid, self.agent.base] += 1
        self._held = True

    def _begin(self, record: Record) -> int:
        symbols = self.agent.symbols
        known = struct.unpack("<I", self.memory.read(symbols["wb_tick_signal"], 4))[0]
        signal = known or free_signal(self.pid)
        record.ticks(symbols["wb_agent_ticks_end"], self.agent.stub, signal)
        with Stop(self.pid) as stop, Calls(stop, self.memory, self.agent.stub) as calls:
            error = calls.function(symbols["wb_agent_ticks_begin"], signal)
        if error:
            raise MissingCapability(
                f"process {self.pid} takes no handler of signal {signal}: {os.strerror(-error)}"
            )
        return signal

    def is_there(self, memory: Memory) -> bool:
        """The program is in the memory of a process: it has not executed another one."""
        try:
            return memory.read(self._place, 8) == struct.pack("<Q", self._data)
        except (TargetGone, MissingCapability):
            return False

    def cover(self, pid: int) -> bool:
        """Give every thread of a process a timer; False = it is gone or runs another program.

        Raises
        ------
        MissingCapability
            The process may have no more timers.
        """
        known = self._covered.get(pid, {})
        if pid in self._covered and set(thread_ids(pid)) - {self._left_out} == set(known):
            return True
        try:
            memory = self.memory if pid == self.pid else Memory(pid)
        except (TargetGone, NotPermitted):
            return False
        try:
            with Stop(pid) as stop:
                if not self.is_there(memory):
                    return False
                there = {
                    thread: known.get(thread) or _own_number(pid, thread)
                    for thread in stop.threads
                    if thread != self._left_out
                }
                with Calls(stop, memory, self.agent.stub) as calls:
                    # First: what is made is ended, and what cannot be made is not tried again at each look.
                    self._covered[pid] = there
                    self._change(
                        calls,
                        [one for thread, one in known.items() if thread not in there],
                        [one for thread, one in there.items() if thread not in known],
                    )
            return True
        except TargetGone:
            return False
        finally:
            if memory is not self.memory:
                memory.close()

    def _change(self, calls: Calls, ended: list[int], new: list[int]) -> None:
        symbols = self.agent.symbols
        for thread in ended:
            calls.function(symbols["wb_agent_tick_end"], self._data, thread)
        for thread in new:
            error = -calls.function(symbols["wb_agent_tick"], thread, self._data, self._period)
            if error and error not in (errno.EINVAL, errno.ESRCH):  # a thread that is dead already
                raise MissingCapability(
                    f"process {self.pid} may have no more timers: {os.strerror(error)}",
                    "raise its `ulimit -i` (signals that may be pending)",
                )

    def tend(self) -> None:
        """Threads that are new."""
        for pid in list(self._covered):
            if not self.cover(pid):
                del self._covered[pid]

    def stop(self) -> None:
        """No signal is sent any more."""

        def end(pid: int, memory: Memory) -> None:
            with Stop(pid) as stop, Calls(stop, memory, self.agent.stub) as calls:
                calls.function(self.agent.symbols["wb_agent_tick_end"], self._data, 0)

        for pid in list(self._covered):
            self._within(pid, end)

    def leave(self) -> None:
        """The handler is not needed in the process any more, where no other program has timers."""
        self._leave(self.pid)

    def leave_children(self) -> None:
        """Nor in its children."""
        for pid in list(self._covered):
            self._leave(pid)
        key = self.pid, self.agent.base
        _holders[key] -= self._held
        self._held = False
        if not _holders[key]:
            del _holders[key]

    def _leave(self, pid: int) -> None:
        self._covered.pop(pid, None)
        function = self.agent.symbols["wb_agent_ticks_end"]
        if _holders[self.pid, self.agent.base] == 1:
            self._within(
                pid,
                lambda at, memory: end_ticks(at, memory, function, self.agent.stub, self.signal),
            )

    def _within(self, pid: int, do: Callable[[int, Memory], object]) -> None:
        """In a process that has the agent; what goes wrong because it is gone does not matter."""
        with contextlib.suppress(TargetGone, MissingCapability, NotPermitted):
            memory = Memory(pid)
            try:
                if memory.read(self.agent.stub, len(STUBS)) == STUBS:
                    do(pid, memory)
            finally:
                memory.close()
