"""Loops of a program, and the variables that decide when they end. Only a guide: no rule depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier.code import Code

__all__ = ("Loop", "Loops", "Variable")

#: A register (0 to 9), or -1 - i for slot i of the stack, counted down from r10.
Variable: TypeAlias = int

_MOST: Final = 6  # variables of a loop; more are data, not counters
_THRESHOLDS: Final = 48


@dataclass(frozen=True, slots=True)
class Loop:
    """What lies on the ways from `head` to a jump back to it.

    Attributes
    ----------
    head : int
        First slot.
    body : frozenset of int
    counters : dict of int to tuple of Variable
        By slot: what the jumps out of the loop will compare, or compute from it.
    """

    head: int
    body: frozenset[int]
    counters: dict[int, tuple[Variable, ...]]


class Loops:
    """What is known of each slot.

    Attributes
    ----------
    around : dict of int to tuple of Loop
        Loops that a slot is in, outermost first.
    heads : frozenset of int
        Where loops are entered. Not where jumps go back: code that is jumped back to may lie before the head.
    order : list of int
        Position of each slot in reverse postorder of its function.
    thresholds : tuple of int
        Numbers that the program compares with, and their neighbours, ascending.
    """

    def __init__(self, code: Code) -> None:
        self.order = [0] * len(code.slots)
        heads: dict[int, set[int]] = {}
        for head, last in self._search(code):
            ahead = _reached(code.successors, head, ())
            body = _reached(code.predecessors, last, (head,)) & ahead
            heads.setdefault(head, {head}).update(body)
        self.heads = frozenset(heads)
        loops = [Loop(head, frozenset(body), _counters(code, body)) for head, body in heads.items()]
        self.around: dict[int, tuple[Loop, ...]] = {}
        for loop in sorted(loops, key=lambda one: (-len(one.body), one.head)):
            for slot in loop.body:
                self.around[slot] = (*self.around.get(slot, ()), loop)
        self.thresholds = _thresholds(code)

    def _search(self, code: Code) -> list[tuple[int, int]]:
        """Depth first from the start of each function: fills `order`, gives (head, last slot) of each way back."""
        found = []
        position = len(code.slots)
        for part in code.parts:
            seen, open_ = {part.start}, {part.start}
            path = [(part.start, iter(code.successors[part.start]))]
            while path:
                slot, rest = path[-1]
                to = next(rest, None)
                if to is None:
                    self.order[slot] = position
                    position -= 1
                    open_.discard(slot)
                    path.pop()
                elif to not in seen:
                    seen.add(to)
                    open_.add(to)
                    path.append((to, iter(code.successors[to])))
                elif to in open_:
                    found.append((to, slot))
        return found


def _reached(edges: Sequence[Iterable[int]], start: int, stop: tuple[int, ...]) -> set[int]:
    found = set(stop)
    todo = [start]
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo += edges[at]
    return found


def _counters(code: Code, body: set[int]) -> dict[int, tuple[Variable, ...]]:
    """Before each slot, the variables that the jumps out of the loop will compare or compute from."""
    before: dict[int, frozenset[Variable]] = {slot: frozenset() for slot in body}
    todo = sorted(body)
    queued = set(body)
    while todo:
        slot = todo.pop()
        queued.discard(slot)
        one = code.slots[slot]
        assert one is not None
        wanted: set[Variable] = set()
        for to in code.successors[slot]:
            wanted |= before.get(to, frozenset())
        leaves = not body.issuperset(code.successors[slot])
        if leaves and len(code.successors[slot]) > 1 and one.opcode != op.MAY_GOTO:
            wanted |= {one.dst, one.src} if one.from_register else {one.dst}
        _through(one, wanted)
        if len(wanted) > _MOST:
            wanted = set()  # data, not counters
        if wanted - before[slot]:
            before[slot] |= wanted
            for previous in code.predecessors[slot]:
                if previous in body and previous not in queued:
                    queued.add(previous)
                    todo.append(previous)
    return {slot: tuple(sorted(found)) for slot, found in before.items() if found}


def _through(one: Instruction, wanted: set[Variable]) -> None:
    """Backwards over an instruction: what it writes gives way to what that is made of."""
    kind = one.kind
    stack = -1 - (-one.offset - 1) // 8
    if kind in (op.ALU, op.ALU64):
        if one.dst in wanted:
            if one.operation == op.MOV:
                wanted.discard(one.dst)
            if one.from_register and one.operation != op.END and one.src != 10:
                wanted.add(one.src)
    elif kind == op.LDX:
        if one.dst in wanted:
            wanted.discard(one.dst)
            if one.src == 10:
                wanted.add(stack)
    elif kind in (op.ST, op.STX) and one.dst == 10 and one.mode != op.ATOMIC:
        if stack in wanted:
            wanted.discard(stack)
            if kind == op.STX:
                wanted.add(one.src)
    elif kind == op.LD:
        wanted.discard(one.dst)
    elif one.opcode in (op.CALL_IMM, op.CALLX):
        wanted.difference_update(range(6))


def _thresholds(code: Code) -> tuple[int, ...]:
    compared: dict[int, None] = {}
    for one in code.slots:
        if one is None or one.from_register:
            continue
        if (one.kind in (op.JMP, op.JMP32) and one.is_jump) or (
            one.kind in (op.ALU, op.ALU64) and one.operation == op.MOV
        ):
            compared[one.imm] = None
    found = {value + by for value in list(compared)[:_THRESHOLDS] for by in (-1, 0, 1)}
    return tuple(sorted(found))
