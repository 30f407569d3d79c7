"""Which numbers mattered: follows a number back along its path and marks it in the states kept on the way.

Two states may be compared without a number that never decided anything. A number decides when it moves a pointer,
bounds a memory access or settles a jump; then this walk marks where it came from (`mark_chain_precision` in
kernel/bpf/verifier.c). A path is a chain of (before, slot, event), newest first, with kept states in between.

Events: (frame, slot) a load or store of a spilled register; ("links", ((frame, register or -1 - slot), ...)) numbers
that learned from a jump together; "cut" an operation whose result does not depend on its operand; "call", "exit",
"enter", "leave" of a function or a callback.
"""

from __future__ import annotations

from typing import Any

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.state import Frame, State

__all__ = ("Checkpoint", "mark", "mark_everything", "mark_like")


class Checkpoint:
    """A kept state.

    Attributes
    ----------
    state : State
        As it was, never changed.
    parent : Checkpoint or None
        Kept state before it on its path.
    branches : int
        Paths from here that are still being walked; 0 = all were accepted.
    regs, slots : dict of int to int
        By frame: masks of registers and stack slots whose number decided something.
    closed_regs, closed_slots : dict of int to int
        The same for numbers that count because a path was closed on faith: two states may not differ in them, but a
        further round may forget them.
    """

    __slots__ = (
        "branches",
        "closed_regs",
        "closed_slots",
        "hits",
        "key",
        "misses",
        "parent",
        "regs",
        "slots",
        "state",
        "trace",
    )

    def __init__(self, state: State, parent: Checkpoint | None, trace: Any) -> None:
        self.state = state
        self.parent = parent
        self.trace = trace
        self.branches = 1
        self.regs: dict[int, int] = {}
        self.slots: dict[int, int] = {}
        self.closed_regs: dict[int, int] = {}
        self.closed_slots: dict[int, int] = {}
        self.hits = self.misses = 0
        self.key = 0  # hash of the innermost frame's registers


def mark(
    env: Environment, state: State, regs: dict[int, int], slots: dict[int, int] | None = None
) -> None:
    """Numbers in these registers and slots (masks by frame) matter, as they are before the instruction at hand."""
    if env.precise_all:
        return
    _back(env, state.trace, state.top.number, dict(regs), dict(slots or {}))


def mark_like(env: Environment, state: State, kept: Checkpoint) -> None:
    """What matters from `kept` on matters here too, for the path ends in it."""
    if env.precise_all:
        return
    top = state.top.number
    _back(env, state.trace, top, dict(kept.regs), dict(kept.slots))
    if kept.closed_regs or kept.closed_slots:
        regs, slots = dict(kept.closed_regs), dict(kept.closed_slots)
        _back(env, state.trace, top, regs, slots, closed=True)


def mark_everything(env: Environment, state: State) -> None:
    """Every number matters: the path ends in a state from which not all is known yet."""
    if env.precise_all:
        return
    regs = {frame.number: (1 << 10) - 1 for frame in state.frames}
    slots = {
        frame.number: sum(1 << at for at, slot in frame.stack.items() if slot.reg is not None)
        for frame in state.frames
    }
    _back(env, state.trace, state.top.number, regs, slots, closed=True)


def _filter(kept: Checkpoint, regs: dict[int, int], slots: dict[int, int], closed: bool) -> None:
    """Mark in a kept state; what is no number there, or was marked before, needs no further walk."""
    marked_regs = kept.closed_regs if closed else kept.regs
    marked_slots = kept.closed_slots if closed else kept.slots
    for number, mask in list(regs.items()):
        frame: Frame = kept.state.frames[number]
        known = marked_regs.get(number, 0)
        left = mask & ~known
        new = 0
        for i in range(10):
            if left >> i & 1 and frame.regs[i].kind == k.NUMBER:
                new |= 1 << i
        if new:
            marked_regs[number] = known | new
            regs[number] = new
        else:
            del regs[number]
    for number, mask in list(slots.items()):
        frame = kept.state.frames[number]
        known = marked_slots.get(number, 0)
        new = 0
        left = mask & ~known
        while left:
            bit = left & -left
            left ^= bit
            slot = frame.stack.get(bit.bit_length() - 1)
            if slot is not None and slot.reg is not None and slot.reg.kind == k.NUMBER:
                new |= bit
        if new:
            marked_slots[number] = known | new
            slots[number] = new
        else:
            del slots[number]


def _back(
    env: Environment,
    node: Any,
    top: int,
    regs: dict[int, int],
    slots: dict[int, int],
    *,
    closed: bool = False,
) -> None:
    code, changed_by = env.code.slots, env.code.changed_by
    for masks in (regs, slots):
        for number in [number for number, mask in masks.items() if not mask]:
            del masks[number]
    while node is not None and (regs or slots):
        if node.__class__ is Checkpoint:
            _filter(node, regs, slots, closed)
            node = node.trace
            continue
        node, slot, event = node
        if event is None and not regs.get(top, 0) & changed_by[slot]:
            continue
        if event == "cut":  # the result is all that it can be, whatever the operand was
            _set(regs, top, regs.get(top, 0) & ~(changed_by[slot]))
            continue
        if event.__class__ is str:
            top = _between(event, top, regs, slots)
            continue
        one = code[slot]
        assert one is not None
        mask = regs.get(top, 0)
        new = _step(one, event, mask, top, regs, slots)
        if new != mask:
            _set(regs, top, new)


def _between(event: str, top: int, regs: dict[int, int], slots: dict[int, int]) -> int:
    """Backwards over the border of a function; the new innermost frame."""
    if event == "exit":  # into the function that just ended: its r0 is the caller's
        mask = regs.get(top, 0)
        if mask & 1:
            regs[top + 1] = 1
        _set(regs, top, mask & ~0b111111)
        return top + 1
    if event == "leave":  # into the callback: its r0 was marked when it ended
        return top + 1
    slots.pop(top, None)
    mask = regs.pop(top, 0) & 0b111110
    top -= 1
    if mask:
        # A callback's arguments are made by the helper; what it was given counts whole.
        given = mask if event == "call" else 0b111110
        _set(regs, top, regs.get(top, 0) | given)
    return top


def _set(masks: dict[int, int], number: int, mask: int) -> None:
    if mask:
        masks[number] = mask
    else:
        masks.pop(number, None)


def _step(
    one: Instruction, event: Any, mask: int, top: int, regs: dict[int, int], slots: dict[int, int]
) -> int:
    """The mask of the innermost frame before an instruction, from that behind it."""
    kind = one.kind
    dst, src = 1 << one.dst, 1 << one.src
    if kind in (op.ALU64, op.ALU):
        if not mask & dst:
            return mask
        if one.operation == op.MOV:
            mask &= ~dst
        if one.from_register and one.operation != op.END:
            mask |= src
        return mask
    if kind == op.LDX or (kind == op.STX and one.mode == op.ATOMIC and one.imm == op.LOAD_ACQ):
        if not mask & dst:
            return mask
        if event is not None:
            frame, at = event[0], event[1]
            slots[frame] = slots.get(frame, 0) | 1 << at
        return mask & ~dst
    if kind in (op.ST, op.STX):
        if kind == op.STX and one.mode == op.ATOMIC and one.imm != op.STORE_REL:
            if one.imm == op.CMPXCHG:
                return mask & ~1
            return mask & ~src if one.imm & op.FETCH else mask
        if event is not None:
            frame, at = event[0], event[1]
            if slots.get(frame, 0) >> at & 1:
                if len(event) == 2:
                    _set(slots, frame, slots[frame] & ~(1 << at))
                if kind == op.STX:
                    mask |= src
        return mask
    if kind == op.LD:
        return mask & ~dst if one.opcode == op.LD_IMM64 else mask & ~0b111111
    if one.opcode in (op.CALL_IMM, op.CALLX):
        return mask & ~0b111111
    if one.opcode == op.EXIT_OP or one.operation in (op.JA, op.JCOND):
        return mask
    both = dst | src if one.from_register else dst
    if mask & both:
        mask |= both
    if event is not None and event[0] == "links":
        _links(event[1], mask, top, regs, slots)
        mask = regs.pop(top, 0)
        if mask & both:
            mask |= both
    return mask


def _links(groups: Any, mask: int, top: int, regs: dict[int, int], slots: dict[int, int]) -> None:
    """Where one of a group of equal numbers matters, all do."""
    _set(regs, top, mask)
    for group in groups:
        if any(
            (regs.get(frame, 0) >> at & 1) if at >= 0 else (slots.get(frame, 0) >> (-1 - at) & 1)
            for frame, at in group
        ):
            for frame, at in group:
                if at >= 0:
                    regs[frame] = regs.get(frame, 0) | 1 << at
                else:
                    slots[frame] = slots.get(frame, 0) | 1 << (-1 - at)
