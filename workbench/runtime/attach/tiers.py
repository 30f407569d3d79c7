"""Which code runs for each program in one process: quick code first, optimised code swapped in while it runs.

The agent calls `wb_program.entry`, read anew for each hit. Quick code has a door before it:

    door:   jmp *SLOT(%rip)       to the optimised code, once SLOT holds its address
    second: jmp start             used only where start does not lie within 256 bytes of the door
    quick code

The first entry and the door differ in their lowest byte only. A store of one byte cannot be torn, however the kernel
copies what is written through /proc/PID/mem; one of eight can. So the process need not be held: code and SLOT are
written first, then that byte. Every prefix of this leaves working code, for the child of a fork as well, and when the
workbench is killed in between. Quick code stays, for threads are inside it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.runtime.jit.probe_code import OPTIMISED, ProbeCode

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Program
    from workbench.runtime.attach.room import Room

__all__ = ("SLOT_AT", "Placed", "Tiers", "bytes_later", "bytes_now", "chosen")

#: Of the word that a door jumps through, from the start of the struct wb_program.
SLOT_AT = 56
_DOORS = 16
_SECOND = 8
_LESS = 4096


def chosen(program: Program) -> Program:
    """The best code that a program has now; it may have better code the next moment."""
    return program.blob if isinstance(program, ProbeCode) else program


def bytes_now(blob: Program) -> int:
    """Bytes of code that placing it takes."""
    return len(blob.code) + _DOORS


def bytes_later(program: Program) -> int:
    """Bytes to keep free for its optimised code; a guess, which is smaller than quick code but for small programs."""
    blob = chosen(program)
    return len(blob.code) + _LESS if _improves(program, blob) else 0


def _improves(program: Program, blob: Program) -> bool:
    return isinstance(program, ProbeCode) and getattr(blob, "tier", "") != OPTIMISED


@dataclass(slots=True)
class Placed:
    """A program's code in the process.

    Attributes
    ----------
    record : int
        Address of its struct wb_program.
    door : int
        Address of the jump to optimised code, 0 where there is none to come.
    codes : list of (int, Program)
        Every piece of code and the address of its first byte, in the order they came.
    """

    program: Program
    record: int
    door: int
    tier: str
    codes: list[tuple[int, Program]]


class Tiers:
    """The programs in one room.

    Parameters
    ----------
    room : Room
    lock : lock
        Held by whoever changes the process.
    grow : callable
        Maps more memory for that many bytes of code.
    """

    def __init__(self, room: Room, lock: threading.RLock, grow: Callable[[int], None]) -> None:
        self._room, self._lock, self._grow = room, lock, grow
        self._workbench = os.getpid()
        self.placed: dict[Hashable, Placed] = {}

    def place(self, key: Hashable, program: Program, blob: Program, record: int, at: int) -> int:
        """Write a program's code at the next flush; what goes into its `wb_program.entry`.

        Parameters
        ----------
        key : hashable
            For `drop`.
        program : Program
        blob : Program
            What was `chosen`.
        record : int
            Address of its struct wb_program, of 64 bytes.
        at : int
            A multiple of 32, with `bytes_now` bytes, within 2 GiB of `record`.
        """
        door, doors = 0, b""
        if _improves(program, blob):
            door = at
            start = at + _DOORS + blob.entry
            doors = b"\xff\x25" + struct.pack("<i", record + SLOT_AT - (at + 6))
            second = b"\xe9" + struct.pack("<i", start - (at + _SECOND + 5))
            doors = doors.ljust(_SECOND, b"\xcc") + second.ljust(_DOORS - _SECOND, b"\xcc")
            entry = start if start >> 8 == door >> 8 else at + _SECOND
            assert entry >> 8 == door >> 8
        else:
            entry = at + blob.entry
        self._room.write(at, doors + bytes(blob.code))
        tier = getattr(blob, "tier", "")
        self.placed[key] = Placed(program, record, door, tier, [(at + len(doors), blob)])
        if isinstance(program, ProbeCode):
            self._watch(program, blob, tier)
        return entry

    def _watch(self, program: ProbeCode, blob: Program, tier: str) -> None:
        program.runs(self._room.memory.pid, tier)
        if tier != OPTIMISED:
            program.listen(self, self.improved, blob)
            program.improve(after=self._lock)

    def improved(self, program: ProbeCode) -> None:
        """Optimised code of a program is ready: swap it in, wherever quick code of it runs. From any thread."""
        if os.getpid() != self._workbench:
            return
        with self._lock:
            for one in self._of(program):
                with contextlib.suppress(WorkbenchError):  # the process is gone, or has no memory
                    self._swap(one, program)

    def _of(self, program: ProbeCode) -> Iterator[Placed]:
        return (one for one in list(self.placed.values()) if one.program is program)

    def _swap(self, one: Placed, program: ProbeCode) -> None:
        blob, room = program.blob, self._room
        if not one.door or one.tier == OPTIMISED or blob.tier != OPTIMISED:
            return
        if not room.has_code(len(blob.code)):
            self._grow(len(blob.code))
        at = room.take_code(len(blob.code))
        room.write(at, blob.code)
        room.write(one.record + SLOT_AT, struct.pack("<Q", at + blob.entry))
        room.flush()
        room.memory.write(one.record, bytes([one.door & 0xFF]))
        one.tier = OPTIMISED
        one.codes.append((at, blob))
        program.runs(room.memory.pid, OPTIMISED)

    def adopt(self, theirs: Tiers) -> None:
        """The process was forked from theirs: it has their code, as it was then."""
        for key, one in theirs.placed.items():
            if key not in self._room.programs:
                continue
            mine = self.placed[key] = replace(one, codes=list(one.codes))
            if not isinstance(mine.program, ProbeCode):
                continue
            if mine.door:
                now = self._room.memory.read(mine.record, 1)[0]
                mine.tier = OPTIMISED if now == mine.door & 0xFF else "quick"
            self._watch(mine.program, mine.codes[0][1], mine.tier)

    def codes(self) -> list[tuple[int, Program]]:
        """Every piece of code in the process, and the address of its first byte; threads may be in any of them."""
        return [code for one in list(self.placed.values()) for code in one.codes]

    def drop(self, key: Hashable) -> Placed | None:
        """A program is taken out of the process; what it had there."""
        gone = self.placed.pop(key, None)
        program = None if gone is None else gone.program
        if isinstance(program, ProbeCode) and not any(self._of(program)):
            program.forget(self)
            program.runs(self._room.memory.pid, "")
        return gone

    def clear(self) -> None:
        """Nothing of ours is in the process any more."""
        for key in list(self.placed):
            self.drop(key)
