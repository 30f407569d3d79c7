"""The agent's SIGTRAP handler in a target: installed by a remote call, taken out when no thread has one pending.

Perf events with `sigtrap` set send the signal to the thread that they count (native/agents/runtime/signals.c). A
SIGTRAP that is still pending (its thread blocks it) when the handler is gone would end the target, so the handler then
stays: it ignores what belongs to no open event.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability
from workbench.runtime.attach.agent import LoadedAgent
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import Calls
from workbench.runtime.attach.stop import Stop, status_fields

if TYPE_CHECKING:
    from workbench.runtime.attach.records import Record

__all__ = ("Signals", "end_signals", "pending")

_TRAP = 5
_PATIENCE = 0.5
_SLOT = struct.Struct("<QQQQQ")  # struct wb_sampled: data, link, period, runs, spent
_SLOTS = 64


class Signals:
    """The handler in one process, counted: it is there while somebody holds it.

    Parameters
    ----------
    memory : Memory
    agent : LoadedAgent
    record : Record
        Told first, so that a crash of the workbench leaves a trace.
    """

    def __init__(self, memory: Memory, agent: LoadedAgent, record: Record) -> None:
        self.memory, self.agent = memory, agent
        self.record = record
        self._holders = 0
        self._slots: set[int] = set()

    def hold(self) -> None:
        """Install the handler if this is the first hold.

        Raises
        ------
        MissingCapability, TargetGone
        """
        if not self._holders:
            ends = self.agent.symbols["wb_agent_signals_end"]
            self.record.signals(ends, self.agent.stub)
            with Stop(self.memory.pid) as stop, Calls(stop, self.memory, self.agent.stub) as calls:
                error = calls.function(self.agent.symbols["wb_agent_signals_begin"])
            if error:
                raise MissingCapability(
                    f"process {self.memory.pid} takes no handler of SIGTRAP: {os.strerror(-error)}"
                )
        self._holders += 1

    def release(self) -> None:
        """Give up one hold, after the events are closed; the last one puts the previous handler back."""
        self._holders -= 1
        if not self._holders:
            end_signals(
                self.memory.pid,
                self.memory,
                self.agent.symbols["wb_agent_signals_end"],
                self.agent.stub,
            )

    def add(self, data: int, link: int, period: int) -> int:
        """Let a link's program run for events with this signal data; the number for `remove`."""
        free = next((n for n in range(_SLOTS) if n not in self._slots), None)
        if free is None:
            raise MissingCapability(f"more than {_SLOTS} sampling programs in one process")
        self._slots.add(free)
        self.memory.write(self.slot(free) + 8, _SLOT.pack(0, link, period, 0, 0)[8:])
        self.memory.write(self.slot(free), struct.pack("<Q", data))
        return free

    def slot(self, number: int) -> int:
        """Address of the entry."""
        return self.agent.symbols["wb_sampled"] + number * _SLOT.size

    def cost(self, number: int) -> tuple[int, int]:
        """How often the program ran in this process, and how many ns it took in all."""
        runs, spent = _SLOT.unpack(self.memory.read(self.slot(number), _SLOT.size))[3:]
        return runs, spent

    def remove(self, number: int) -> None:
        """Forget the entry; signals that come late are ignored."""
        self._slots.discard(number)
        self.memory.write(self.slot(number), bytes(8))


def pending(stop: Stop) -> bool:
    """A thread of the held process has a SIGTRAP coming."""
    for thread, delivered in stop.threads.items():
        fields = status_fields(stop.pid, thread)
        words = (fields.get("SigPnd", "0"), fields.get("ShdPnd", "0"))
        if delivered == _TRAP or any(int(word, 16) >> (_TRAP - 1) & 1 for word in words):
            return True
    return False


def end_signals(pid: int, memory: Memory, function: int, stub: int) -> bool:
    """Put the previous handler of SIGTRAP back; False = a thread has one pending, so ours stays.

    Raises
    ------
    TargetGone, NotPermitted
    """
    end = time.monotonic() + _PATIENCE
    while True:
        with Stop(pid) as stop:
            coming = pending(stop)
            if not coming:
                with Calls(stop, memory, stub) as calls:
                    calls.function(function)
        if not coming or time.monotonic() > end:
            return not coming
        time.sleep(0.005)
