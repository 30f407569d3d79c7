"""How often programs ran at their sites: counters of each thread in the target, summed here.

They lie in the target's memory and end with it, so what was read last is kept: the thread that follows the targets
(`workbench.runtime.sharing`) reads them 20 times a second.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import TargetGone, WorkbenchError
from workbench.runtime.attach import layout
from workbench.runtime.attach.returns import tasks

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Link
    from workbench.runtime.attach.process import Process

__all__ = ("Counters",)

_SHARE = 20  # of the time, one part is spent on reading at intervals


class Counters:
    """The counters of one process.

    Attributes
    ----------
    as_of : float
        time.monotonic() just before they were last read from the process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._known = np.zeros((2, layout.LINKS), np.uint64)
        self.as_of = self._next = 0.0

    def read(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Hits and misses by number (which several links may have had), all threads together.

        What the threads of a forked child had counted in its parent is left out. Of a process that has ended, or runs
        another program, as of the last time that they were read.
        """
        known, now = self._known, time.monotonic()
        total = np.zeros((2, max(numbers, default=0) + 1), np.uint64)
        memory, agent = self._process.memory, self._process.room.agent
        try:
            if agent is None:
                raise TargetGone(f"process {memory.pid} was left")
            era = memory.read(agent.symbols["wb_alive"], 8)
            for task in tasks(memory, agent):
                if memory.read(task + layout.COUNTED, 8) != era:
                    continue
                for row, offset in enumerate((layout.HITS, layout.MISSED)):
                    total[row] += np.frombuffer(
                        memory.read(task + offset, total[row].nbytes), np.uint64
                    )
        except (WorkbenchError, struct.error):  # gone: what is known stays
            pass
        else:
            known[:, : total.shape[1]] = total
            self.as_of = now
        return [(int(known[0, number]), int(known[1, number])) for number in numbers]

    def refresh(self) -> None:
        """Read those of the process and its children, for when they have ended; not so often that it costs much."""
        start = time.monotonic()
        if start < self._next:
            return
        for one in (self._process, *self._process.family.children.values()):
            one.counters.read([min(one.room.next_number, layout.LINKS) - 1])
        end = time.monotonic()
        self._next = end + (_SHARE - 1) * (end - start)

    def freeze(self, links: Sequence[Link]) -> None:
        """The process runs another program: what these links counted is final."""
        for link, now in zip(links, self.since(links), strict=True):
            link.last = now

    def clear(self) -> None:
        """Numbers begin anew, in another program."""
        self._known[:] = 0

    def hand_on(self) -> None:
        """The process is about to leave its family: what its links counted is added to those they were inherited of."""
        links = [one for one in self._process.links if one.origin is not None and not one.claimed]
        for link, (hits, missed) in zip(links, self.since(links), strict=True):
            assert link.origin is not None
            before = link.origin.ended
            link.origin.ended = before[0] + hits, before[1] + missed

    def since(self, links: Sequence[Link]) -> list[tuple[int, int]]:
        """Hits and misses of links since they were attached, with those of the children that inherited them."""
        found = [
            (
                max(0, now[0] - link.base[0]) + link.ended[0],
                max(0, now[1] - link.base[1]) + link.ended[1],
            )
            for link, now in zip(links, self.read([one.number for one in links]), strict=True)
        ]
        rows = {id(link): row for row, link in enumerate(links)}
        for child, copies in self._process.family.copies(links).items():
            for copy, more in zip(copies, child.counters.since(copies), strict=True):
                row = rows[id(copy.origin)]
                found[row] = found[row][0] + more[0], found[row][1] + more[1]
        return found
