"""Loops that the walk closed on faith: which of their jumps nothing bounds but the run-time budget.

A round of a callback or of may_goto may end in a kept state from which not everything was walked yet, because the
helper calls back, and may_goto falls through, so many times only. But a path that is closed so may come back to its
beginning by other ways than that round: around the call of the helper, or by the side of may_goto that is taken when
its budget is spent. Kept states are the nodes of a graph here and the ways between them its edges; a run that never
ends goes round in it for ever, so each cycle must have a part that is known to be taken finitely often, or its
backward jumps are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier.code import Code
from workbench.runtime.verifier.precision import Checkpoint
from workbench.runtime.verifier.state import State

__all__ = ("Cycles",)

_Call = tuple[int, int]  # frames, slot: a call that calls back


@dataclass(frozen=True, slots=True)
class _Way:
    """From one kept state to the next.

    Attributes
    ----------
    start, end : Checkpoint
    back : frozenset of int
        Slots of the backward jumps that were taken.
    round : tuple or None
        It ends with the return of a callback to this call.
    behind : tuple or None
        It begins behind this call, which will not call back any more.
    """

    start: Checkpoint
    end: Checkpoint
    back: frozenset[int]
    round: _Call | None
    behind: _Call | None


class Cycles:
    """The graph of one walk."""

    def __init__(self, code: Code, callbacks: set[int]) -> None:
        self._code = code
        self._callbacks = callbacks
        self._ways: list[_Way] = []
        self.closed = False  # some path ended in a state that was not done

    def arrive(self, state: State, kept: Checkpoint, *, closes: bool = False) -> None:
        """A path came to `kept`: it was kept there, or is covered by it. `closes`: not all is known of `kept` yet."""
        self.closed |= closes
        node: Any = state.trace
        start = state.checkpoint
        if start is None:
            return
        back = set()
        following = state.slot
        first: Any = None
        last = node
        while node is not None and node.__class__ is not Checkpoint:
            before, slot, event = node
            one = self._code.slots[slot]
            assert one is not None
            if one.is_jump:
                taken = following == one.target(slot)
                if one.opcode == op.MAY_GOTO and not taken:
                    return  # falls through while its budget lasts
                if taken and slot in self._code.back:
                    back.add(slot)
            first = (slot, event)
            following = slot
            node = before
        came = last.__class__ is tuple and last[2] == "leave"
        at = start.state.slot
        behind = first == (at, None) and at in self._callbacks
        self._ways.append(
            _Way(
                start,
                kept,
                frozenset(back),
                (len(state.frames), state.slot) if came else None,
                (len(start.state.frames), at) if behind else None,
            )
        )

    def unbounded(self) -> set[int]:
        """Slots of backward jumps on cycles that nothing bounds."""
        found: set[int] = set()
        todo = [self._ways] if self.closed else []
        while todo:
            for ways in _components(todo.pop()):
                rounds = {way.round for way in ways} - {way.behind for way in ways} - {None}
                if rounds:
                    # All of it happens during these calls, which end.
                    todo.append([way for way in ways if way.round not in rounds])
                else:
                    for way in ways:
                        found |= way.back
        return found


def _components(ways: list[_Way]) -> list[list[_Way]]:
    """Ways within each strongly connected part (Tarjan's algorithm)."""
    out: dict[int, list[int]] = {}
    for way in ways:
        out.setdefault(id(way.start), []).append(id(way.end))
    part: dict[int, int] = {}
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    for root in out:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        stack.append(root)
        path = [(root, iter(out[root]))]
        while path:
            node, rest = path[-1]
            to = next(rest, None)
            if to is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == order[node]:
                    while True:
                        member = stack.pop()
                        part[member] = node
                        if member == node:
                            break
            elif to not in order:
                order[to] = low[to] = len(order)
                stack.append(to)
                path.append((to, iter(out.get(to, ()))))
            elif to not in part:
                low[node] = min(low[node], order[to])
    found: dict[int, list[_Way]] = {}
    for way in ways:
        if part[id(way.start)] == part[id(way.end)]:
            found.setdefault(part[id(way.start)], []).append(way)
    return list(found.values())
