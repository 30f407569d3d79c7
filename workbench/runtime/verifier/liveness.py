"""Which stack slots are still read: data flow over what the walk has seen each instruction read and write.

A state is compared with another by its live slots only. What an instruction reads is known when a path has passed it,
and a state is used for pruning when every path from it has been walked; so the marks are complete when they are used.
Reads of a frame by the functions that it calls count for the call.
"""

from __future__ import annotations

from workbench.runtime.verifier.code import Code

__all__ = ("StackLiveness",)

_ALL = (1 << 64) - 1


class StackLiveness:
    """64 bits per instruction: bit i set = slot i of the frame may be read at or after it before it is written."""

    __slots__ = ("_predecessors", "_reads", "_successors", "_writes", "live")

    def __init__(self, code: Code) -> None:
        n = len(code.slots)
        self.live = [0] * n
        self._reads = [0] * n
        self._writes = [-1] * n  # -1: not passed yet
        self._successors = code.successors
        self._predecessors = code.predecessors

    def passed(self, slot: int, reads: int, writes: int) -> None:
        """An instruction read and surely wrote these slots of its frame on one pass."""
        known = self._writes[slot]
        if known >= 0 and not (reads & ~self._reads[slot]) and not (known & ~writes):
            return
        self._reads[slot] |= reads
        self._writes[slot] = writes if known < 0 else known & writes
        self._update(slot)

    def read(self, slot: int, reads: int) -> None:
        """Further reads at an instruction that is being, or was, passed."""
        if reads & ~self._reads[slot]:
            self._reads[slot] |= reads
            self._update(slot)

    def _update(self, slot: int) -> None:
        todo = [slot]
        live, reads, writes = self.live, self._reads, self._writes
        while todo:
            at = todo.pop()
            if writes[at] < 0 and not reads[at]:
                continue
            after = 0
            for to in self._successors[at]:
                after |= live[to]
            now = reads[at] | (after & ~max(writes[at], 0)) if writes[at] >= 0 else reads[at]
            if now & ~live[at]:
                live[at] |= now
                todo += self._predecessors[at]
