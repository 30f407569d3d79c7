"""Is a thread of a held process inside code of ours, or will it come back there?

Nothing of ours calls the target's functions, and calls in displaced code leave the original return address, so a thread
comes back to code of ours in these ways only: its program counter is there; a signal handler interrupted it there (the
program counter is in the signal's frame on the stack); it is in a handler of signals that returns through ours; it
calls the vDSO from there. Return probes are another matter (`returns.restore_returns`). Other words on a stack that
look like addresses of ours are remains.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import MissingCapability
from workbench.runtime.attach import layout, ptrace
from workbench.runtime.attach.agent import LoadedAgent
from workbench.runtime.attach.memory import Mapping, Memory
from workbench.runtime.attach.remote import STUB
from workbench.runtime.attach.returns import tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.runtime.attach.stop import Stop

__all__ = ("Presence", "presence")

_MOST = 1 << 20
_PAGE = 4096  # of x86-64
_SYSCALL = b"\x0f\x05"
_USER_CODE = 0x33
_BUSY, _STACK, _TID = 56, 208, 280
_MADE = 40  # of struct wb_calls
_STACKS = 4
_COUNTER = 22  # words from a handler's return address to the program counter, in the kernel's struct rt_sigframe


class Presence(IntEnum):
    """Whether anybody is there."""

    NOBODY = 0
    ASLEEP = 1
    """In a system call that a trampoline or the agent makes, or in a signal handler that returns through the agent, or
    it cannot be told: these must stay, programs and maps need not."""
    INSIDE = 2


class _Look:
    """One look at a held process."""

    def __init__(
        self,
        stop: Stop,
        memory: Memory,
        agent: LoadedAgent,
        ranges: Sequence[tuple[int, int]],
        maps: list[Mapping],
    ) -> None:
        self.stop, self.memory, self.agent, self.maps = stop, memory, agent, maps
        self._starts = [one.start for one in maps]
        ours = sorted((*ranges, (agent.base, agent.base + agent.size)))
        self._low = np.array([low for low, _ in ours], np.uint64)
        self._high = np.array([high for _, high in ours], np.uint64)
        self._ours = ours
        self._restorer = self._word(agent.symbols["wb_handlers_return"])
        self._made = self._word(agent.symbols["wb_calls"] + _MADE)
        vdso = next((one for one in maps if one.path == "[vdso]"), None)
        self._vdso = (vdso.start, vdso.end) if vdso else (0, 0)

    def _word(self, address: int) -> int:
        return int(struct.unpack("<Q", self.memory.read(address, 8))[0])

    def _region(self, address: int) -> Mapping | None:
        i = bisect.bisect_right(self._starts, address) - 1
        return self.maps[i] if i >= 0 and address < self.maps[i].end else None

    def code(self, ip: int) -> Presence:
        """What a thread that will go on at `ip` means."""
        if not any(low <= ip < high for low, high in self._ours):
            # A workbench that was killed leaves its thread in a stub in the process's own code, and what the thread was
            # doing before on its stack, in a form of its own.
            return Presence.INSIDE if self._in_borrowed_stub(ip) else Presence.NOBODY
        in_agent = self.agent.base <= ip < self.agent.base + self.agent.size
        if (ip == self._made or not in_agent) and self.memory.read(ip - 2, 2) == _SYSCALL:
            return Presence.ASLEEP
        return Presence.INSIDE

    def _in_borrowed_stub(self, ip: int) -> bool:
        """The program counter is in a stub for system calls that lies at the end of a page of the process's code."""
        start = ip & -_PAGE
        try:
            at = self.memory.read(start, _PAGE).rfind(STUB)
        except MissingCapability:
            return False
        return at >= 0 and start + at <= ip < start + at + len(STUB)

    def _ours_of(self, words: NDArray[np.uint64]) -> list[int]:
        """Indices of words that are addresses of ours."""
        near = np.flatnonzero((words >= self._low[0]) & (words < self._high[-1]))
        at = np.searchsorted(self._low, words[near], "right") - 1
        found: list[int] = near[words[near] < self._high[at]].tolist()
        return found

    def stack(self, ip: int, sp: int, depth: int = 0) -> Presence:
        """What lies above a stack pointer; follows signal frames to the stack that was interrupted."""
        region = self._region(sp)
        start = sp & ~7
        if region is None or depth > _STACKS or region.end - start > _MOST:
            return Presence.ASLEEP
        try:
            words = np.frombuffer(self.memory.read(start, region.end - start), np.uint64)
        except MissingCapability:
            return Presence.ASLEEP
        found = Presence.NOBODY
        ours = self._ours_of(words)
        calls = [ip]
        frames = _signal_frames(words)
        if any(int(words[i]) == self._restorer and i + _COUNTER in frames for i in ours):
            found = Presence.ASLEEP
        for i in frames:
            counter, pointer = int(words[i]), int(words[i - 1])
            found = max(found, self.code(counter))
            calls.append(counter)
            if self._region(pointer) not in (None, region):
                found = max(found, self.stack(counter, pointer, depth + 1))
        if ours and any(self._vdso[0] <= one < self._vdso[1] for one in calls):
            return Presence.INSIDE
        return found


def _signal_frames(words: NDArray[np.uint64]) -> list[int]:
    """Indices of what may be the program counter in a struct sigcontext: flags and segments follow."""
    if len(words) < 4:
        return []
    flags, segments = words[2:-1], words[3:]
    looks = (flags >> np.uint64(22) == 0) & (flags & np.uint64(2) != 0)
    looks &= segments & np.uint64(0xFFFF) == _USER_CODE
    found: list[int] = (np.flatnonzero(looks) + 1).tolist()
    return found


def presence(
    stop: Stop,
    memory: Memory,
    agent: LoadedAgent,
    ranges: Sequence[tuple[int, int]],
    maps: list[Mapping],
) -> Presence:
    """Whether any thread of a held process is inside the agent or `ranges`, or comes back there."""
    look = _Look(stop, memory, agent, ranges, maps)
    stacks: dict[int, int] = {}
    found = Presence.NOBODY
    for thread in list(stop.threads):
        registers = ptrace.get_registers(thread)
        stacks[thread] = registers.sp
        found = max(found, look.code(registers.ip))
        if found == Presence.INSIDE:
            return found
        found = max(found, look.stack(registers.ip, registers.sp))
    for task in tasks(memory, agent):
        head = memory.read(task, layout.DEPTH)
        busy, tid = (
            struct.unpack_from("<I", head, _BUSY)[0],
            struct.unpack_from("<I", head, _TID)[0],
        )
        began = struct.unpack_from("<Q", head, _STACK)[0]
        if not busy or tid not in stacks:
            continue
        region = look._region(began)
        # A signal handler that jumped out of a program left it: its stack is above.
        if region is None or not began < stacks[tid] < region.end:
            return Presence.INSIDE
    return found
