"""One state per place that covers all that come by: what is left when walking every path takes too long.

A join forgets what differs; a number that keeps growing is widened to its whole range, so a loop is walked a few
times only. Nothing bounds the rounds of such a loop but the run-time budget: the verdict lists it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, TypeAlias

from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.arithmetic import arithmetic
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import Checkpoint
from workbench.runtime.verifier.prune import covered
from workbench.runtime.verifier.scalar import M64, UNKNOWN, Scalar, constant, join, make
from workbench.runtime.verifier.state import (
    INVALID,
    MISC,
    NOTHING,
    OBJECT,
    SPILLED,
    Frame,
    Reg,
    Slot,
    State,
    number,
)

__all__ = ("Joined", "Widening", "join_states", "place", "widen_numbers")

#: Where a bound that grows may stop: ascending numbers. None: it is not widened at all.
Widening: TypeAlias = tuple[int, ...] | None

_PATIENCE: Final = 4  # joins before a number that still grows is widened


class Joined:
    """The states at one slot, by shape of the call chain and of what is held."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[object, tuple[Checkpoint, int]] = {}

    def visit(self, env: Environment, state: State) -> bool:
        """True: covered by what was walked. False: walk `state`, which now covers everything that came by."""
        key = place(state)
        known = self._entries.get(key)
        if known is None:
            self._entries[key] = (Checkpoint(state.copy(), None, None), 1)
            return False
        kept, count = known
        if covered(env, kept, state, True):
            return True
        join_states(env, kept.state, state, () if count >= _PATIENCE else None)
        self._entries[key] = (Checkpoint(state.copy(), None, None), count + 1)
        return False


def place(state: State) -> tuple[object, ...]:
    """States of the same place can be joined: instruction, call chain, shape of what is held."""
    return (
        state.slot,
        tuple(
            (frame.function, frame.call_slot, frame.callback is not None) for frame in state.frames
        ),
        tuple(slot for _, slot in state.refs),
        (state.lock[0], *state.lock[2:]) if state.lock else None,
    )


def join_states(env: Environment, old: State, new: State, widen: Widening) -> None:
    """Make `new` cover `old`."""
    ids = {b[0]: a[0] for a, b in zip(old.refs, new.refs, strict=True)}
    if old.lock is not None and new.lock is not None:
        ids[new.lock[1]] = old.lock[1]

    def rename(reg: Reg) -> Reg | None:
        if reg.id in ids or reg.ref in ids:
            return reg.but(id=ids.get(reg.id, reg.id), ref=ids.get(reg.ref, reg.ref))
        return None

    if any(a != b for a, b in ids.items()):
        new.map_regs(rename)
        for frame in new.frames:
            for at, slot in list(frame.stack.items()):
                if slot.reg is not None and slot.types[0] == OBJECT and slot.reg.ref in ids:
                    frame.stack[at] = Slot(slot.types, rename(slot.reg))
    new.refs, new.lock = old.refs, old.lock
    for a, b in zip(old.frames, new.frames, strict=True):
        _join_frames(env, a, b, widen)


def _join_frames(env: Environment, old: Frame, new: Frame, widen: Widening) -> None:
    for i in range(10):
        new.regs[i] = _join_regs(env, old.regs[i], new.regs[i], widen)
    for at in set(old.stack) | set(new.stack):
        a, b = old.stack.get(at), new.stack.get(at)
        if a is None or b is None:
            new.stack.pop(at, None)
        elif a is not b:
            new.stack[at] = _join_slots(env, a, b, widen)


def _join_slots(env: Environment, a: Slot, b: Slot, widen: Widening) -> Slot:
    if OBJECT in a.types or OBJECT in b.types:
        same = a.reg is not None and b.reg is not None and a.types == b.types
        if (
            same
            and a.reg is not None
            and b.reg is not None
            and a.reg.x == b.reg.x
            and a.reg.id == b.reg.id
        ):
            return a
        return Slot(bytes(8))
    reg: Reg | None = None
    if a.types == b.types and a.reg is not None and b.reg is not None:
        reg = _join_regs(env, a.reg, b.reg, widen)
        if reg.kind != k.DEAD:
            return Slot(a.types, reg)
        return Slot(bytes(8))
    pointer = any(one.reg is not None and one.reg.is_pointer for one in (a, b))
    types = bytearray(8)
    for i in range(8):
        x, y = a.types[i], b.types[i]
        if x == y and x != SPILLED:
            types[i] = x
        elif INVALID in (x, y) or (pointer and SPILLED in (x, y)):
            types[i] = INVALID
        else:
            types[i] = MISC
    return Slot(bytes(types))


def _join_regs(env: Environment, a: Reg, b: Reg, widen: Widening) -> Reg:
    if a is b and not a.id:
        return a
    if a.kind != b.kind or a.kind == k.DEAD:
        return NOTHING
    if a.kind == k.NUMBER:
        s = join(a.s, b.s)
        if widen is not None:
            s = _widen(a.s, s, widen)
        return Reg(k.NUMBER, s, x=bool(a.x and b.x) or None)
    if (
        a.ref != b.ref
        or a.readonly != b.readonly
        or (a.x != b.x)
        or (a.size != b.size and a.kind == k.MEMORY)
    ):
        return NOTHING
    null = a.null or b.null
    identity = a.id
    if a.id != b.id:
        if a.ref:
            return NOTHING
        identity = env.fresh()
    elif null and not identity:
        identity = env.fresh()
    s, off = a.s, a.off
    if a.off != b.off or a.s is not b.s:
        if a.kind in (k.PACKET, k.PACKET_META) and (a.off != b.off or a.id != b.id):
            return NOTHING
        moved = b.s if a.off == b.off else arithmetic(op.ADD, b.s, constant(b.off - a.off), 64)
        s = join(a.s, moved)
        if widen is not None:
            s = _widen(a.s, s, widen)
        if s.smin <= -(1 << 29) or s.smax >= 1 << 29:
            return NOTHING
    if a.kind in (k.PACKET, k.PACKET_META) and a.id != b.id:
        return NOTHING
    return a.but(s=s, off=off, id=identity, null=null, size=min(a.size, b.size))


def _widen(old: Scalar, joined: Scalar, stops: tuple[int, ...]) -> Scalar:
    """Bounds that grew go to the next stop, or to the end of their range; known low bits stay known."""
    if joined.key == old.key:
        return old
    unknown = joined.mask
    low = unknown & -unknown
    mask = M64 & ~(low - 1) if low else 0
    if joined.mask == old.mask and joined.value == old.value:
        mask = joined.mask

    def down(was: int, now: int, end: int) -> int:
        if now == was:
            return now
        at = bisect_right(stops, now) - 1
        return max(stops[at], end) if at >= 0 else end

    def up(was: int, now: int, end: int) -> int:
        if now == was:
            return now
        at = bisect_left(stops, now)
        return min(stops[at], end) if at < len(stops) else end

    made = make(
        joined.value & ~mask,
        mask,
        down(old.umin, joined.umin, 0),
        up(old.umax, joined.umax, M64),
        down(old.smin, joined.smin, -(1 << 63)),
        up(old.smax, joined.smax, (1 << 63) - 1),
        down(old.u32min, joined.u32min, 0),
        up(old.u32max, joined.u32max, (1 << 32) - 1),
        down(old.s32min, joined.s32min, -(1 << 31)),
        up(old.s32max, joined.s32max, (1 << 31) - 1),
    )
    return UNKNOWN if made is None else made


def widen_numbers(kept: Checkpoint, state: State) -> None:
    """Numbers that changed since `kept` and decided nothing become unknown (`widen_imprecise_scalars`)."""
    for old, new in zip(kept.state.frames, state.frames, strict=True):
        marked = kept.regs.get(old.number, 0)
        for i in range(10):
            a, b = old.regs[i], new.regs[i]
            if a.kind == b.kind == k.NUMBER and not marked >> i & 1 and a.s.key != b.s.key:
                new.regs[i] = number(UNKNOWN)
        marked = kept.slots.get(old.number, 0)
        for at, slot in old.stack.items():
            other = new.stack.get(at)
            if other is None or slot.reg is None or other.reg is None or marked >> at & 1:
                continue
            changed = (
                slot.reg.kind == other.reg.kind == k.NUMBER and slot.reg.s.key != other.reg.s.key
            )
            if changed and other.types == bytes([SPILLED]) * 8:
                new.stack[at] = Slot(other.types, number(UNKNOWN))
