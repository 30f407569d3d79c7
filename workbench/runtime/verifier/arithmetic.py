"""Arithmetic on what is known of numbers: one function for 64 and 32 bits (RFC 9669 section 4.1).

Division by zero gives 0 and modulo by zero the dividend; shift amounts are taken modulo the width. Each rule is sound
by itself; `scalar.make` sharpens the outcome. Source of the rules: scalar_min_max_* in kernel/bpf/verifier.c.
"""

from __future__ import annotations

from typing import TypeAlias

from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import tnum as t
from workbench.runtime.verifier.scalar import (
    M32,
    M64,
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    UNKNOWN,
    UNKNOWN32,
    Scalar,
    constant,
    make,
)

__all__ = ("arithmetic", "byte_swap", "low_half", "move_signed", "truncate")

_View: TypeAlias = tuple[
    int, int, int, int, int, int
]  # tnum, unsigned and signed range, of one width


def _view64(a: Scalar) -> _View:
    return a.value, a.mask, a.umin, a.umax, a.smin, a.smax


def _view32(a: Scalar) -> _View:
    return a.value & M32, a.mask & M32, a.u32min, a.u32max, a.s32min, a.s32max


def _sure(found: Scalar | None, default: Scalar) -> Scalar:
    return default if found is None else found


def low_half(a: Scalar) -> Scalar:
    """The low 32 bits, zero-extended."""
    if a.umax <= M32:
        return a
    if not a.mask:
        return constant(a.value & M32)
    return _sure(
        make(
            a.value & M32,
            a.mask & M32,
            u32min=a.u32min,
            u32max=a.u32max,
            s32min=a.s32min,
            s32max=a.s32max,
        ),
        UNKNOWN32,
    )


def truncate(a: Scalar, size: int) -> Scalar:
    """The low `size` bytes, zero-extended."""
    if size == 8:
        return a
    if size == 4:
        return low_half(a)
    top = (1 << 8 * size) - 1
    if a.umax <= top:
        return a
    return _sure(make(a.value & top, a.mask & top), UNKNOWN)


def move_signed(a: Scalar, bits: int, width: int) -> Scalar:
    """The low `bits` of a, sign-extended to `width` (and zero-extended from there)."""
    top = (1 << bits) - 1
    sign = 1 << (bits - 1)
    full = M64 if width == 64 else M32
    value, mask = a.value & top, a.mask & top
    if mask & sign:
        mask |= full & ~top
    elif value & sign:
        value |= full & ~top
    low, high = -sign, sign - 1
    smin, smax = (a.smin, a.smax) if bits <= 32 or width == 64 else (a.s32min, a.s32max)
    if bits == 32:
        low, high = a.s32min, a.s32max
    elif low <= smin and smax <= high:
        low, high = smin, smax
    if width == 64:
        return _sure(make(value & ~mask, mask, smin=low, smax=high), UNKNOWN)
    return _sure(make(value & ~mask, mask, s32min=low, s32max=high), UNKNOWN32)


def byte_swap(a: Scalar, bits: int, swap: bool) -> Scalar:
    """Low `bits` (16, 32, 64), bytes reversed where `swap`."""
    size = bits // 8
    top = (1 << bits) - 1
    value, mask = a.value & top, a.mask & top
    if not swap:
        return truncate(a, size)
    value = int.from_bytes(value.to_bytes(size, "little"), "big")
    mask = int.from_bytes(mask.to_bytes(size, "little"), "big")
    return _sure(make(value, mask), UNKNOWN)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _concrete(operation: int, x: int, y: int, bits: int, signed: bool) -> int:
    """The instruction itself, on unsigned numbers of `bits` bits."""
    top = (1 << bits) - 1
    if operation == op.ADD:
        return (x + y) & top
    if operation == op.SUB:
        return (x - y) & top
    if operation == op.MUL:
        return (x * y) & top
    if operation == op.AND:
        return x & y
    if operation == op.OR:
        return x | y
    if operation == op.XOR:
        return x ^ y
    if operation == op.LSH:
        return (x << (y & (bits - 1))) & top
    if operation == op.RSH:
        return x >> (y & (bits - 1))
    if operation == op.ARSH:
        return (_signed(x, bits) >> (y & (bits - 1))) & top
    if operation == op.NEG:
        return -x & top
    if signed:
        a, b = _signed(x, bits), _signed(y, bits)
        if operation == op.DIV:
            if not b:
                return 0
            quotient = abs(a) // abs(b)
            return (quotient if (a < 0) == (b < 0) else -quotient) & top
        if not b:
            return x
        rest = abs(a) % abs(b)
        return (-rest if a < 0 else rest) & top
    if operation == op.DIV:
        return x // y if y else 0
    return x % y if y else x


def _abstract(operation: int, a: _View, b: _View, bits: int, signed: bool) -> _View:
    """Bounds of the result in `bits` bits."""
    top = (1 << bits) - 1
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    av, am, aumin, aumax, asmin, asmax = a
    bv, bm, bumin, bumax, bsmin, bsmax = b
    value, mask, umin, umax, smin, smax = 0, top, 0, top, low, high
    if operation == op.ADD:
        value, mask = t.add((av, am), (bv, bm))
        umin, umax = aumin + bumin, aumax + bumax
        if umin > top:
            umin, umax = umin - top - 1, umax - top - 1
        elif umax > top:
            umin, umax = 0, top
        smin, smax = asmin + bsmin, asmax + bsmax
        if smin < low or smax > high:
            smin, smax = low, high
    elif operation == op.SUB:
        value, mask = t.sub((av, am), (bv, bm))
        umin, umax = aumin - bumax, aumax - bumin
        if umax < 0:
            umin, umax = umin + top + 1, umax + top + 1
        elif umin < 0:
            umin, umax = 0, top
        smin, smax = asmin - bsmax, asmax - bsmin
        if smin < low or smax > high:
            smin, smax = low, high
    elif operation == op.MUL:
        value, mask = t.mul((av, am), (bv, bm))
        if aumax * bumax <= top:
            umin, umax = aumin * bumin, aumax * bumax
        products = (asmin * bsmin, asmin * bsmax, asmax * bsmin, asmax * bsmax)
        if low <= min(products) and max(products) <= high:
            smin, smax = min(products), max(products)
    elif operation == op.AND:
        value, mask = t.bit_and((av, am), (bv, bm))
        umin, umax = value, min(aumax, bumax)
    elif operation == op.OR:
        value, mask = t.bit_or((av, am), (bv, bm))
        umin, umax = max(aumin, bumin), value | mask
    elif operation == op.XOR:
        value, mask = t.bit_xor((av, am), (bv, bm))
        umin, umax = value, value | mask
    elif operation == op.LSH:
        if bumax < bits:
            if aumax << bumax <= top:
                umin, umax = aumin << bumin, aumax << bumax
            if not bm:
                value, mask = t.lshift((av, am), bv)
                if low <= asmin << bv and asmax << bv <= high:
                    smin, smax = asmin << bv, asmax << bv
    elif operation == op.RSH:
        if bumax < bits:
            umin, umax = aumin >> bumax, aumax >> bumin
            if not bm:
                value, mask = t.rshift((av, am), bv)
        else:
            umax = aumax
    elif operation == op.ARSH:
        if bumax < bits:
            ends = (asmin >> bumin, asmin >> bumax, asmax >> bumin, asmax >> bumax)
            smin, smax = min(ends), max(ends)
            if not bm:
                value, mask = t.arshift((av, am), bv, bits)
        else:
            smin, smax = min(asmin, -1 if asmin < 0 else 0), max(asmax, 0 if asmax >= 0 else -1)
    elif signed:
        if operation == op.MOD and not bm and bv:
            most = abs(_signed(bv, bits)) - 1
            smin = max(low, -most if asmin < 0 else 0)
            smax = min(high, most if asmax > 0 else 0)
        elif operation == op.DIV and not bm and _signed(bv, bits) not in (0, -1):
            by = _signed(bv, bits)
            quotients = [
                _signed(_concrete(op.DIV, x & top, by & top, bits, True), bits)
                for x in (asmin, asmax)
            ]
            smin, smax = min(quotients), max(quotients)
    elif operation == op.DIV:
        umin = aumin // bumax if bumin else 0
        umax = aumax // bumin if bumin else aumax
    elif operation == op.MOD:
        umax = min(aumax, bumax - 1) if bumin else aumax
        if not bm and bv and bv & (bv - 1) == 0:
            value, mask = t.bit_and((av, am), (bv - 1, 0))
    value, mask = value & top, mask & top
    return value & ~mask, mask, umin, umax, smin, smax


_LOW_EXACT = frozenset({op.ADD, op.SUB, op.MUL, op.AND, op.OR, op.XOR})


def arithmetic(operation: int, a: Scalar, b: Scalar, bits: int, signed: bool = False) -> Scalar:
    """Result of ADD ... ARSH, NEG (b ignored), DIV, MOD on 64 bits, or on 32 zero-extended."""
    if operation == op.NEG:
        operation, a, b = op.SUB, constant(0), a
    if bits == 64:
        if not a.mask and not b.mask:
            return constant(_concrete(operation, a.value, b.value, 64, signed))
        value, mask, umin, umax, smin, smax = _abstract(
            operation, _view64(a), _view64(b), 64, signed
        )
        if operation in _LOW_EXACT:
            low = _abstract(operation, _view32(a), _view32(b), 32, signed)
            made = make(value, mask, umin, umax, smin, smax, *low[2:])
        else:
            made = make(value, mask, umin, umax, smin, smax)
        return _sure(made, UNKNOWN)
    if not (a.mask & M32) and not (b.mask & M32):
        return constant(_concrete(operation, a.value & M32, b.value & M32, 32, signed))
    value, mask, umin, umax, smin, smax = _abstract(operation, _view32(a), _view32(b), 32, signed)
    made = make(value, mask, 0, M32, S64_MIN, S64_MAX, umin, umax, smin, smax)
    return _sure(made, UNKNOWN32)


assert (UNKNOWN.s32min, UNKNOWN.s32max) == (S32_MIN, S32_MAX)
