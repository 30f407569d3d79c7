"""Arithmetic instructions on numbers and on addresses (`adjust_reg_min_max_vals` in kernel/bpf/verifier.c)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.arithmetic import arithmetic, byte_swap, low_half, move_signed
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import mark
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.scalar import UNKNOWN, UNKNOWN32, Scalar, constant
from workbench.runtime.verifier.state import Reg, State, number

__all__ = ("alu",)

LIMIT: Final = 1 << 29  # BPF_MAX_VAR_OFF
_MOVABLE: Final = frozenset(
    {k.STACK, k.MAP_VALUE, k.MEMORY, k.PACKET, k.PACKET_META, k.CONTEXT, k.PROBED}
)
_SHIFTS: Final = frozenset({op.LSH, op.RSH, op.ARSH})
#: With a constant, their result may be all that it can ever be; then its first operand does not matter.
_CUTS: Final = frozenset({op.AND, op.RSH, op.MOD})


def alu(env: Environment, state: State, one: Instruction) -> None:
    """One ALU or ALU64 instruction."""
    regs = state.top.regs
    operation, dst = one.operation, one.dst
    wide = one.kind == op.ALU64
    if dst == 10:
        raise Reject("r10, the frame pointer, is read-only", 10)
    if operation == op.MOV:
        _move(env, state, one, wide)
        return
    a = regs[dst]
    if a.kind == k.DEAD:
        raise Reject(f"r{dst} was never written", dst)
    if operation == op.END or operation == op.NEG:
        if a.is_pointer:
            _forbidden(env, state, dst, "an address is negated or its bytes are swapped")
            regs[dst] = number(UNKNOWN)
        elif operation == op.NEG:
            regs[dst] = number(arithmetic(op.NEG, a.s, a.s, 64 if wide else 32))
        else:
            swap = wide or one.from_register
            regs[dst] = number(byte_swap(a.s, one.imm, swap))
        return
    if one.from_register:
        b = regs[one.src]
        if b.kind == k.DEAD:
            raise Reject(f"r{one.src} was never written", one.src)
    else:
        b = number(one.imm)
        if operation in (op.DIV, op.MOD) and not one.imm:
            raise Reject("division by the constant 0", dst)
        if operation in _SHIFTS and not 0 <= one.imm < (64 if wide else 32):
            raise Reject(f"shift by the constant {one.imm}, the width is {64 if wide else 32}", dst)
    if a.kind == k.NUMBER and b.kind == k.NUMBER:
        found = number(arithmetic(operation, a.s, b.s, 64 if wide else 32, bool(one.offset)))
        constant_operand = not one.from_register and not one.offset
        if (
            operation in _CUTS
            and constant_operand
            and found.s.key == _of_anything(operation, one.imm, 64 if wide else 32).key
        ):
            env.event = "cut"
        if wide and operation == op.ADD and ((a.x and not b.s.mask) or (b.x and not a.s.mask)):
            found = Reg(k.NUMBER, found.s, x=True)  # the address of a field
        regs[dst] = found
        return
    regs[dst] = _addresses(env, state, one, operation, wide, a, b)


@lru_cache(maxsize=1024)
def _of_anything(operation: int, imm: int, bits: int) -> Scalar:
    """What the (unsigned) operation gives whatever its first operand is."""
    return arithmetic(operation, UNKNOWN, constant(imm), bits)


def _move(env: Environment, state: State, one: Instruction, wide: bool) -> None:
    regs = state.top.regs
    if not one.from_register:
        regs[one.dst] = number(one.imm if wide else one.imm & 0xFFFFFFFF)
        return
    value = regs[one.src]
    if value.kind == k.DEAD:
        raise Reject(f"r{one.src} was never written", one.src)
    if wide and not one.offset:
        if value.kind == k.NUMBER and not value.id and value.s.mask:
            value = value.but(id=env.fresh())
            regs[one.src] = value
        regs[one.dst] = value
        return
    if value.is_pointer:
        _forbidden(env, state, one.src, "part of an address is copied")
        regs[one.dst] = number(UNKNOWN if wide else UNKNOWN32)
        return
    if one.offset:
        regs[one.dst] = number(move_signed(value.s, one.offset, 64 if wide else 32))
        return
    if value.s.umax >> 32 == 0:
        if not value.id and value.s.mask:
            value = value.but(id=env.fresh())
            regs[one.src] = value
        regs[one.dst] = value
        return
    regs[one.dst] = number(low_half(value.s))


def _forbidden(env: Environment, state: State, register: int, what: str) -> None:
    if env.strict:
        raise Reject(
            what,
            register,
            "addresses may be moved by ADD and SUB of 64 bits; allow_pointer_leaks=True lifts the rule",
        )


def _same_base(a: Reg, b: Reg) -> bool:
    """The difference says nothing of where things are in memory."""
    packet = (k.PACKET, k.PACKET_END, k.PACKET_META)
    if a.kind in packet and b.kind in packet:
        return True
    return (
        a.kind == b.kind
        and a.x == b.x
        and (a.kind in (k.STACK, k.CONTEXT) or (a.id == b.id and a.id != 0))
    )


def _addresses(
    env: Environment, state: State, one: Instruction, operation: int, wide: bool, a: Reg, b: Reg
) -> Reg:
    """At least one operand is an address."""
    dst = one.dst
    which = dst if a.is_pointer else one.src
    if not wide:
        _forbidden(env, state, which, "32-bit arithmetic on an address")
        return number(UNKNOWN32)
    if a.is_pointer and b.is_pointer:
        if operation == op.SUB and _same_base(a, b) and not a.null and not b.null:
            return number(UNKNOWN)
        if operation != op.SUB:
            raise Reject("arithmetic on two addresses", dst)
        env.leak(state, dst, "the difference of two addresses is taken")
        return number(UNKNOWN)
    if operation not in (op.ADD, op.SUB):
        raise Reject("an address can be moved by ADD and SUB only", which)
    if operation == op.SUB and b.is_pointer:
        raise Reject("an address is subtracted from a number", one.src)
    base, by, number_register = (a, b, one.src) if a.is_pointer else (b, a, dst)
    if base.null:
        raise Reject(
            f"arithmetic on an address that may be null: {base}", which, "compare it with 0 before"
        )
    if base.kind not in _MOVABLE:
        raise Reject(f"arithmetic on {base}", which, "this address is used as it is")
    if operation == op.SUB and base.kind == k.STACK:
        raise Reject("subtraction from a stack address", which, "add a negative number")
    if not by.s.mask:
        move = by.s.smin if operation == op.ADD else -by.s.smin
        if not -LIMIT < move < LIMIT or not -LIMIT < base.off + move < LIMIT:
            raise Reject(
                f"an address is moved by {move} bytes", number_register, "that is beyond any object"
            )
        if one.from_register:
            _precise(env, state, number_register)
        return base.but(off=base.off + move)
    if by.s.smin <= -LIMIT or by.s.smax >= LIMIT:
        raise Reject(
            f"an address is moved by a number without a bound: {by.s}",
            number_register,
            "bound the index before: mask it, or compare it with both ends if it is signed",
        )
    _precise(env, state, number_register)
    moved = arithmetic(operation, base.s, by.s, 64)
    if moved.smin <= -LIMIT or moved.smax >= LIMIT:
        raise Reject(f"an address is moved by a number without a bound: {moved}", number_register)
    if base.kind in (k.PACKET, k.PACKET_META):
        # Another base: what was checked of the old one says nothing of it, unless it only grew.
        return base.but(s=moved, id=env.fresh(), size=0)
    return base.but(s=moved)


def _precise(env: Environment, state: State, register: int) -> None:
    """The number decides where an access goes. Constants count: another path may have another."""
    mark(env, state, {state.top.number: 1 << register})
