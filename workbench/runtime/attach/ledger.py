"""What of a process's memory is ours: a list that lies in the process itself, behind the stubs of its agent.

A fork copies it with the memory that it lists, so it is right in every child, and it is there when the workbench that
wrote it was killed. A random mark says that it is the one that was meant: a process that replaced its program, or was
entered anew, has another or none. A range is listed after it was mapped and struck out before it is unmapped: whoever
reads the list never takes memory that is the target's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from workbench.errors import MissingCapability
from workbench.runtime.attach.memory import PAGE, Mapping, Memory

__all__ = (
    "AT",
    "COPIED",
    "KEPT",
    "MARK",
    "SIZE",
    "Entry",
    "Ledger",
    "beyond",
    "read_ledger",
    "write_ledger",
)

AT = PAGE // 2
SIZE = PAGE - AT
MARK = 16
_HEAD = struct.Struct(
    "<8s16s16sQQII"
)  # magic, mark, version of the agent, base, size, flags, ranges
_RANGE = struct.Struct("<QQ")
_MAGIC = b"wbledg1\0"
_MOST = (SIZE - _HEAD.size) // _RANGE.size
KEPT = 1
"""Of an entry: trampolines, which threads may be inside for long."""
COPIED = 1
"""Of a ledger: return addresses of ours may have been copied, so trampolines stay for ever."""
_FULL = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """Pages of ours, from `start` to `end`."""

    start: int
    end: int
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Ledger:
    """The list as it is.

    Attributes
    ----------
    version : bytes
        Of the agent (`agent.AgentImage.version`): structures of another one are not understood.
    base, size : int
        The agent's mapping, which is in no entry.
    copied : bool
        See `COPIED`.
    full : bool
        Some memory did not fit into the list: it stays until the process ends.
    """

    mark: bytes
    version: bytes
    base: int
    size: int
    copied: bool = False
    full: bool = False
    entries: tuple[Entry, ...] = ()

    def adding(self, entries: Iterable[Entry]) -> Ledger:
        """With more entries; neighbours of one kind are joined."""
        found: list[Entry] = []
        for one in sorted((*self.entries, *entries), key=lambda entry: entry.start):
            if found and found[-1].end >= one.start and found[-1].kept == one.kept:
                found[-1] = Entry(found[-1].start, max(found[-1].end, one.end), one.kept)
            else:
                found.append(one)
        return replace(self, entries=tuple(found[:_MOST]), full=self.full or len(found) > _MOST)

    def without(self, start: int, end: int) -> Ledger:
        """Without these pages."""
        found: list[Entry] = []
        for one in self.entries:
            if one.start < end and start < one.end:
                if one.start < start:
                    found.append(replace(one, end=start))
                one = replace(one, start=min(end, one.end))
            if one.start < one.end:
                found.append(one)
        return replace(self, entries=tuple(found[:_MOST]), full=self.full or len(found) > _MOST)

    @property
    def bytes(self) -> int:
        """Of address space, the agent's included."""
        return self.size + sum(one.end - one.start for one in self.entries)


def read_ledger(memory: Memory, at: int, mark: bytes) -> Ledger | None:
    """The ledger at an address; None = it is not there, or not the one with this mark."""
    try:
        raw = memory.read(at, SIZE)
    except MissingCapability:
        return None
    magic, found, version, base, size, flags, count = _HEAD.unpack_from(raw)
    if magic != _MAGIC or found != mark or count > _MOST or not base <= at < base + size:
        return None
    entries = []
    for start, end in _RANGE.iter_unpack(raw[_HEAD.size : _HEAD.size + count * _RANGE.size]):
        entries.append(Entry(start & -PAGE, end, bool(start & KEPT)))
    if any(not 0 < one.start < one.end or one.end % PAGE for one in entries):
        return None
    return Ledger(
        mark, version, base, size, bool(flags & COPIED), bool(flags & _FULL), tuple(entries)
    )


def write_ledger(memory: Memory, at: int, ledger: Ledger) -> None:
    """Write it; the process is held, or only its mark is new."""
    flags = ledger.copied * COPIED | ledger.full * _FULL
    head = _HEAD.pack(
        _MAGIC, ledger.mark, ledger.version, ledger.base, ledger.size, flags, len(ledger.entries)
    )
    ranges = b"".join(_RANGE.pack(one.start | one.kept * KEPT, one.end) for one in ledger.entries)
    memory.write(at, head + ranges)


def beyond(after: Iterable[Mapping], before: Iterable[Mapping]) -> list[Entry]:
    """What is mapped `after` that was not `before`, while no thread of the process ran but for us.

    The kernel's own mappings (the stack, which may have grown) are not ours.
    """
    old = sorted((one.start, one.end) for one in before)
    found = []
    at = 0
    for one in after:
        if one.path.startswith("["):
            continue
        start = one.start
        while at < len(old) and old[at][1] <= start:
            at += 1
        i = at
        while start < one.end:
            if i == len(old) or old[i][0] >= one.end:
                found.append(Entry(start, one.end))
                break
            if old[i][0] > start:
                found.append(Entry(start, old[i][0]))
            start = max(start, old[i][1])
            i += 1
    return found
