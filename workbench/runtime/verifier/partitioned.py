"""A walk that joins paths wherever they meet, but keeps the rounds of counted loops apart.

What walking every path cannot do in time: a loop whose rounds branch on data has more paths than anybody can walk.
Here all states at one place become one, as in `joined`, unless a variable that decides when a loop ends is a different
constant in them: rounds 3 and 4 are two places. So a counted loop ends by itself, addresses that move with the counter
stay exact, and what differs within a round is joined. Places are walked in the order of the program, innermost loop
and innermost function first, so that each is mostly walked once per round. Where rounds cannot be told apart, bounds
that grow stop at numbers that the program compares with.

The graph of places also says which backward jumps nothing bounds: those on its cycles.
"""

from __future__ import annotations

import heapq
from typing import Any, Final, TypeAlias

from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.cycles import Cycles
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.joined import join_states, place
from workbench.runtime.verifier.loops import Loop, Loops, Variable
from workbench.runtime.verifier.precision import Checkpoint
from workbench.runtime.verifier.prune import covered
from workbench.runtime.verifier.state import SPILLED, Frame, State
from workbench.runtime.verifier.walk import PARTITIONS, Walk

__all__ = ("PartitionedWalk",)

_PATIENCE: Final = 4  # joins of a place before a bound that still grows is widened
_STEADY: Final = 24  # joins before it is widened to its whole range
_ROUNDS: Final = 2048  # of a loop that are kept apart
_LAST: Final = ((1 << 62),)

_Order: TypeAlias = tuple[tuple[int, ...], ...]


class _Place:
    """One place: what came by, what of it was walked.

    Attributes
    ----------
    node : Checkpoint
        Stands for the place in the graph.
    slots, counts : tuple
        By frame: instruction, and how often each loop around it came round.
    order : tuple
        When it is walked; smaller is earlier.
    walked : Checkpoint or None
        Covers everything that was walked from here.
    waiting : State or None
        What came by since.
    joins : int
    """

    __slots__ = ("counts", "joins", "node", "order", "slots", "waiting", "walked")

    def __init__(
        self, node: Checkpoint, slots: tuple[int, ...], counts: _Order, order: _Order
    ) -> None:
        self.node = node
        self.slots = slots
        self.counts = counts
        self.order = order
        self.walked: Checkpoint | None = None
        self.waiting: State | None = None
        self.joins = 0


class PartitionedWalk(Walk):
    """Parameters as for `Walk`; the mode is always PARTITIONS."""

    def __init__(
        self, env: Environment, mode: int = PARTITIONS, *, budget: int, record: Any = None
    ) -> None:
        super().__init__(env, PARTITIONS, budget=budget, record=record)
        self.counts = False  # the graph says which jumps are unbounded
        self._graph = Cycles(env.code, env.callbacks)
        self._cycles = self._graph
        self._nest = Loops(env.code)
        self._places: dict[object, _Place] = {}
        self._by_node: dict[int, _Place] = {}
        self._rounds: dict[int, set[object]] = {}
        self._resumed: State | None = None
        self._number = 0

    # --- what `Walk` asks --------------------------------------------------------------------------------------------

    def _push(self, state: State) -> None:
        self._arrive(state)

    def _visited(self, state: State) -> bool:
        if state is self._resumed:
            self._resumed = None
            return False
        self._arrive(state)
        return True

    def _pop(self) -> State:
        one: _Place = heapq.heappop(self._todo)[2]
        state = one.waiting
        assert state is not None
        one.waiting = None
        if one.walked is not None:
            one.joins += 1
            join_states(self.env, one.walked.state, state, self._widening(one))
        one.walked = Checkpoint(state.copy(), None, state.trace)
        self.kept += 1
        state.trace = one.walked
        state.checkpoint = one.node
        self._resumed = state if state.slot in self.env.code.joins else None
        return state

    def _end(self, state: State) -> None:
        pass

    def _again(self, state: State, slot: int = -1) -> None:
        pass

    # --- places ------------------------------------------------------------------------------------------------------

    def _arrive(self, state: State) -> None:
        key = (place(state), tuple(map(self._constants, state.frames, self._slots(state))))
        one = self._places.get(key)
        if one is None:
            one = self._places[key] = self._place(state)
        self._graph.arrive(state, one.node, closes=True)
        if one.walked is not None and covered(self.env, one.walked, state, True):
            return
        if one.waiting is not None:
            join_states(self.env, one.waiting, state, None)
        else:
            self._number += 1
            heapq.heappush(self._todo, (one.order, self._number, one))
        one.waiting = state

    def _slots(self, state: State) -> tuple[int, ...]:
        """The instruction of each frame."""
        return (*[frame.call_slot for frame in state.frames[1:]], state.slot)

    def _constants(self, frame: Frame, slot: int) -> tuple[object, ...]:
        """The counters of the loops around, where they are constants."""
        found: list[object] = []
        for loop in self._nest.around.get(slot, ()):
            values = tuple([_constant(frame, one) for one in loop.counters.get(slot, ())])
            rounds = self._rounds.setdefault(loop.head, set())
            if len(rounds) >= _ROUNDS:
                found.append(None)
                continue
            if slot == loop.head:
                rounds.add(values)
            found.append(values)
        return tuple(found)

    def _place(self, state: State) -> _Place:
        slots = self._slots(state)
        before = self._by_node.get(id(state.checkpoint))
        counts = []
        for at, slot in enumerate(slots):
            around = self._nest.around.get(slot, ())
            if before is None or at >= len(before.slots):
                counts.append((0,) * len(around))
            elif at < len(slots) - 1 and before.slots[at] == slot:
                counts.append(before.counts[at])
            else:
                counts.append(self._carried(before.slots[at], before.counts[at], slot, around))
        order = [
            self._when(slot, self._nest.around.get(slot, ()), count)
            for slot, count in zip(slots, counts, strict=True)
        ]
        node = Checkpoint(state.copy(), None, state.trace)
        one = _Place(node, slots, tuple(counts), (*order, _LAST))
        self._by_node[id(node)] = one
        return one

    def _carried(
        self, old: int, counts: tuple[int, ...], slot: int, around: tuple[Loop, ...]
    ) -> tuple[int, ...]:
        """How often each loop around `slot` came round, on a way from `old`."""
        found = []
        inside = self._nest.around.get(old, ())
        for at, loop in enumerate(around):
            if at >= len(inside) or inside[at] is not loop:
                break
            again = slot == loop.head
            found.append(counts[at] + again)
            if again:
                break
        return (*found, *(0,) * (len(around) - len(found)))

    def _when(
        self, slot: int, around: tuple[Loop, ...], counts: tuple[int, ...]
    ) -> tuple[int, ...]:
        order = self._nest.order
        found: list[int] = []
        for loop, count in zip(around, counts, strict=True):
            found += (order[loop.head], count)
        return (*found, order[slot])

    def _widening(self, one: _Place) -> tuple[int, ...] | None:
        slot = one.slots[-1]
        loop = slot in self._nest.heads or slot in self.env.callbacks
        if not loop or one.joins < _PATIENCE:
            return None
        return self._nest.thresholds if one.joins < _STEADY else ()


def _constant(frame: Frame, variable: Variable) -> int | None:
    """Its value, where there is one only."""
    if variable >= 0:
        reg = frame.regs[variable]
    else:
        slot = frame.stack.get(-1 - variable)
        if slot is None or slot.reg is None or slot.types[0] != SPILLED:
            return None
        reg = slot.reg
    return reg.s.value if reg.kind == k.NUMBER and not reg.s.mask else None
