"""How often programs ran at their sites: counters of each thread in the target, summed here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import WorkbenchError
from workbench.runtime.attach import layout
from workbench.runtime.attach.returns import tasks

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Link
    from workbench.runtime.attach.process import Process

__all__ = ("Counters",)


class Counters:
    """The counters of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def read(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Hits and misses by number (which several links may have had), all threads together.

        What the threads of a forked child had counted in its parent is left out.
        """
        total = np.zeros((2, layout.LINKS), np.uint64)
        memory, agent = self._process.memory, self._process.room.agent
        size = 8 * (max(numbers, default=0) + 1)
        try:
            era = memory.read(agent.symbols["wb_alive"], 8) if agent else b""
            for task in tasks(memory, agent) if agent else ():
                if memory.read(task + layout.COUNTED, 8) != era:
                    continue
                for row, offset in enumerate((layout.HITS, layout.MISSED)):
                    words = np.frombuffer(memory.read(task + offset, size), np.uint64)
                    total[row, : len(words)] += words
        except (WorkbenchError, struct.error):  # gone: nothing more is known
            total[:] = 0
        return [(int(total[0, number]), int(total[1, number])) for number in numbers]

    def since(self, links: Sequence[Link]) -> list[tuple[int, int]]:
        """Hits and misses of links since they were attached, with those of the children that inherited them."""
        found = [
            (max(0, now[0] - link.base[0]), max(0, now[1] - link.base[1]))
            for link, now in zip(links, self.read([one.number for one in links]), strict=True)
        ]
        rows = {id(link): row for row, link in enumerate(links)}
        for child, copies in self._process.family.copies(links).items():
            for copy, more in zip(copies, child.counters.since(copies), strict=True):
                row = rows[id(copy.origin)]
                found[row] = found[row][0] + more[0], found[row][1] + more[1]
        return found
