"""Conditional jumps: the ways that are possible and what each learns (`check_cond_jmp_op` in kernel/bpf/verifier.c)."""

from __future__ import annotations

from typing import Any, Final

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.comparison import SWAPPED, decided, refine
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import mark
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.scalar import Scalar
from workbench.runtime.verifier.state import Reg, Slot, State, number

__all__ = ("branch", "set_null")

_PACKET_LIMIT: Final = 0xFFFF  # MAX_PACKET_OFF
_ZERO: Final = number(0)


def branch(env: Environment, state: State, one: Instruction) -> tuple[State | None, State | None]:
    """The states that fall through and that jump; None where that is impossible. `state` may become one of them."""
    regs = state.top.regs
    a = regs[one.dst]
    if a.kind == k.DEAD:
        raise Reject(f"r{one.dst} was never written", one.dst)
    if one.from_register:
        b = regs[one.src]
        if b.kind == k.DEAD:
            raise Reject(f"r{one.src} was never written", one.src)
    else:
        b = number(one.imm)
    bits = 64 if one.kind == op.JMP else 32
    operation = one.operation
    if a.kind == k.NUMBER and b.kind == k.NUMBER:
        return _numbers(env, state, one, operation, a, b, bits)
    return _addresses(env, state, one, operation, a, b, bits)


def _numbers(
    env: Environment, state: State, one: Instruction, operation: int, a: Reg, b: Reg, bits: int
) -> tuple[State | None, State | None]:
    if one.from_register and one.src == one.dst:
        same: bool | None = None
        if operation in (op.JEQ, op.JGE, op.JLE, op.JSGE, op.JSLE):
            same = True
        elif operation != op.JSET:
            same = False
        if same is not None:
            return (None, state) if same else (state, None)
    known = decided(operation, a.s, b.s, bits)
    if known is not None:
        mask = 1 << one.dst | (1 << one.src if one.from_register else 0)
        mark(env, state, {state.top.number: mask})
        return (None, state) if known else (state, None)
    falls = refine(operation, a.s, b.s, bits, False)
    jumps = refine(operation, a.s, b.s, bits, True)
    if falls is None or jumps is None:
        # Not decided by ranges alone, yet one side is impossible: that decided it.
        mask = 1 << one.dst | (1 << one.src if one.from_register else 0)
        mark(env, state, {state.top.number: mask})
        if falls is None and jumps is None:
            return None, None
    else:
        env.event = _event(state, one, a, b)
    other = state.copy() if falls is not None and jumps is not None else state
    if falls is not None:
        _learn(state, one, a, b, falls)
    if jumps is not None:
        _learn(other, one, a, b, jumps)
    return (state if falls is not None else None), (other if jumps is not None else None)


def _group(state: State, identity: int) -> list[tuple[int, int]]:
    """Registers and slots (-1 - index) whose number has this id."""
    found = []
    for frame in state.frames:
        regs = frame.regs
        found += [
            (frame.number, i)
            for i in range(10)
            if regs[i].id == identity and regs[i].kind == k.NUMBER
        ]
        found += [
            (frame.number, -1 - at)
            for at, slot in frame.stack.items()
            if slot.reg is not None and slot.reg.id == identity and slot.reg.kind == k.NUMBER
        ]
    return found


def _event(state: State, one: Instruction, a: Reg, b: Reg) -> Any:
    groups = []
    if a.id:
        group = _group(state, a.id)
        if len(group) > 1:
            groups.append(tuple(group))
    if one.from_register and b.id and b.id != a.id:
        group = _group(state, b.id)
        if len(group) > 1:
            groups.append(tuple(group))
    return ("links", tuple(groups)) if groups else None


def _learn(state: State, one: Instruction, a: Reg, b: Reg, found: tuple[Scalar, Scalar]) -> None:
    if found[0] is not a.s:
        _assign(state, one.dst, a, found[0])
    if one.from_register and found[1] is not b.s and one.src != one.dst:
        _assign(state, one.src, b, found[1])


def _assign(state: State, register: int, old: Reg, s: Scalar) -> None:
    """A number is known better, and so is every equal one."""
    new = Reg(k.NUMBER, s, x=old.x, id=old.id)
    if not old.id:
        state.top.regs[register] = new
        return
    identity = old.id
    for frame in state.frames:
        regs = frame.regs
        for i in range(10):
            if regs[i].id == identity and regs[i].kind == k.NUMBER:
                regs[i] = new if regs[i].x == new.x else new.but(x=regs[i].x)
        for at, slot in frame.stack.items():
            if slot.reg is not None and slot.reg.id == identity and slot.reg.kind == k.NUMBER:
                frame.stack[at] = Slot(slot.types, new)


def set_null(state: State, identity: int, null: bool) -> None:
    """Every pointer with this id turned out to be null, or not to be."""
    if null:
        state.refs = tuple(ref for ref in state.refs if ref[0] != identity)

    def change(reg: Reg) -> Reg | None:
        if reg.null and reg.id == identity and reg.kind not in (k.NUMBER, k.DEAD):
            return _ZERO if null else reg.but(null=False)
        return None

    state.map_regs(change)


def _is_zero(reg: Reg) -> bool:
    return reg.kind == k.NUMBER and not reg.s.mask and not reg.s.value


def _addresses(
    env: Environment, state: State, one: Instruction, operation: int, a: Reg, b: Reg, bits: int
) -> tuple[State | None, State | None]:
    if bits == 32:
        _compared(env, state, one, a, "its low half is compared")
        return state, state.copy()
    null, zero = (a, b) if a.is_pointer else (b, a)
    if operation in (op.JEQ, op.JNE) and _is_zero(zero) and null.is_pointer:
        if one.from_register:
            mark(env, state, {state.top.number: 1 << (one.src if null is a else one.dst)})
        if not null.null:
            # A valid address is never 0.
            return (state, None) if operation == op.JEQ else (None, state)
        other = state.copy()
        set_null(state, null.id, operation == op.JNE)
        set_null(other, null.id, operation == op.JEQ)
        return state, other
    if a.is_pointer and b.is_pointer and not a.null and not b.null:
        other = state.copy()
        if _packet(state, other, operation, a, b):
            return state, other
        if a.kind == b.kind and a.x == b.x and a.kind != k.FUNCTION:
            return state, other
        _compared(env, state, one, a, "it is compared with another address")
        return state, other
    if a.is_pointer and b.is_pointer and operation in (op.JEQ, op.JNE):
        return state, state.copy()
    _compared(env, state, one, a, "it is compared with a number")
    return state, state.copy()


def _compared(env: Environment, state: State, one: Instruction, a: Reg, what: str) -> None:
    env.leak(state, one.dst if a.is_pointer else one.src, what)


def _packet(falls: State, jumps: State, operation: int, a: Reg, b: Reg) -> bool:
    """data + n against data_end (or data_meta + n against data): `try_match_pkt_pointers`."""
    pairs = ((k.PACKET, k.PACKET_END), (k.PACKET_META, k.PACKET))

    def is_pair(x: Reg, y: Reg) -> bool:
        if (x.kind, y.kind) not in pairs:
            return False
        # The start of the packet itself ends the metadata.
        return y.kind != k.PACKET or (not y.off and not y.s.mask and not y.s.value and not y.id)

    if is_pair(a, b):
        moving = a
    elif is_pair(b, a):
        moving, operation = b, SWAPPED.get(operation, op.JA)
    else:
        return {a.kind, b.kind} <= {k.PACKET, k.PACKET_END, k.PACKET_META}
    if operation == op.JGT:
        _checked(falls, moving, 0)
    elif operation == op.JGE:
        _checked(falls, moving, 1)
    elif operation == op.JLE:
        _checked(jumps, moving, 0)
    elif operation == op.JLT:
        _checked(jumps, moving, 1)
    return True


def _checked(state: State, moving: Reg, more: int) -> None:
    """The packet reaches up to the pointer (plus one byte)."""
    if moving.off < 0 or (not moving.off and more):
        return
    if moving.s.umax > _PACKET_LIMIT or moving.s.umax + moving.off > _PACKET_LIMIT:
        return
    reach = moving.off + more

    def change(reg: Reg) -> Reg | None:
        if reg.kind == moving.kind and reg.id == moving.id and reg.size < reach:
            return reg.but(size=reach)
        return None

    state.map_regs(change)
