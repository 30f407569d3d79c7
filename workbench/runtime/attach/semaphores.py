"""USDT semaphores: 16-bit counters in the target that say how many tools look at a mark."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable

from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.records import Record

__all__ = ("Semaphores",)


class Semaphores:
    """What this process's attachments have added to each semaphore (1 for all of ours together)."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._held: set[int] = set()

    def clear(self) -> None:
        """The process runs another program, whose semaphores nobody has touched."""
        self._held.clear()

    def adopt(self, held: Iterable[int]) -> None:
        """These are raised already: by the parent, before the process was forked."""
        self._held = {at for at in held if at}

    def apply(self, record: Record | None, wanted: Iterable[int]) -> None:
        """Make the semaphores at these addresses (0: none) ours, and give back the others; the process is held."""
        counts = Counter(at for at in wanted if at)
        for at in counts.keys() - self._held:
            self._add(record, at, 1)
        for at in self._held - counts.keys():
            self._add(record, at, -1)
        self._held = set(counts)

    def _add(self, record: Record | None, at: int, count: int) -> None:
        if record and count > 0:
            record.semaphore(at, count)
        value = struct.unpack("<H", self._memory.read(at, 2))[0]
        self._memory.write(at, struct.pack("<H", (value + count) % 65536))
        if record and count < 0:
            record.semaphore(at, count)
