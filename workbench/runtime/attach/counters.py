"""How often programs ran at their sites: counters of each thread in the target, summed here.

They lie in the target's memory and end with it, so what was read last is kept: the thread that follows the targets
(`workbench.runtime.sharing`) reads them 20 times a second.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import TargetGone, WorkbenchError
from workbench.runtime.attach import layout
from workbench.runtime.attach.returns import tasks

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Link
    from workbench.runtime.attach.process import Process

__all__ = ("Counters", "Counts", "difference")

Counts = tuple[int, int, int]
"""Hits, misses, and hits whose program its run-time budget ended."""

_ROWS = (layout.HITS, layout.MISSED, layout.OVER_BUDGET)
_SHARE = 20  # of the time, one part is spent on reading at intervals


def _counts(values: Iterable[int]) -> Counts:
    hits, missed, over_budget = map(int, values)
    return hits, missed, over_budget


def _sum(one: Counts, other: Counts) -> Counts:
    return _counts(a + b for a, b in zip(one, other, strict=True))


def difference(now: Counts, before: Counts) -> Counts:
    """What was counted since."""
    return _counts(max(0, a - b) for a, b in zip(now, before, strict=True))


class Counters:
    """The counters of one process.

    Attributes
    ----------
    as_of : float
        time.monotonic() just before they were last read from the process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._known = np.zeros((len(_ROWS), layout.LINKS), np.uint64)
        self.as_of = self._next = 0.0

    def read(self, numbers: Sequence[int]) -> list[Counts]:
        """Counts by number (which several links may have had), all threads together.

        What the threads of a forked child had counted in its parent is left out. Of a process that has ended, or runs
        another program, as of the last time that they were read.
        """
        known, now = self._known, time.monotonic()
        total = np.zeros((len(_ROWS), max(numbers, default=0) + 1), np.uint64)
        memory, agent = self._process.memory, self._process.room.agent
        try:
            if agent is None:
                raise TargetGone(f"process {memory.pid} was left")
            era = memory.read(agent.symbols["wb_alive"], 8)
            for task in tasks(memory, agent):
                if memory.read(task + layout.COUNTED, 8) != era:
                    continue
                for row, offset in enumerate(_ROWS):
                    total[row] += np.frombuffer(
                        memory.read(task + offset, total[row].nbytes), np.uint64
                    )
        except (WorkbenchError, struct.error):  # gone: what is known stays
            pass
        else:
            known[:, : total.shape[1]] = total
            self.as_of = now
        return [_counts(known[:, number]) for number in numbers]

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
        for link, counts in zip(links, self.since(links), strict=True):
            assert link.origin is not None
            link.origin.ended = _sum(link.origin.ended, counts)

    def since(self, links: Sequence[Link]) -> list[Counts]:
        """Counts of links since they were attached, with those of the children that inherited them."""
        found = [
            _sum(difference(now, link.base), link.ended)
            for link, now in zip(links, self.read([one.number for one in links]), strict=True)
        ]
        rows = {id(link): row for row, link in enumerate(links)}
        for child, copies in self._process.family.copies(links).items():
            for copy, more in zip(copies, child.counters.since(copies), strict=True):
                row = rows[id(copy.origin)]
                found[row] = _sum(found[row], more)
        return found
