"""Conditional jumps: whether they are decided, and what each side learns of the numbers compared.

Rules after `is_scalar_branch_taken` and `regs_refine_cond_op` of kernel/bpf/verifier.c.
"""

from __future__ import annotations

from typing import Final

from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import tnum as t
from workbench.runtime.verifier.scalar import M32, M64, Scalar, make

__all__ = ("NEGATED", "SWAPPED", "compare", "decided", "refine")

#: The jump that is taken exactly when the other is not. JSET has none: see `refine`.
NEGATED: Final = {
    op.JEQ: op.JNE,
    op.JNE: op.JEQ,
    op.JGT: op.JLE,
    op.JLE: op.JGT,
    op.JGE: op.JLT,
    op.JLT: op.JGE,
    op.JSGT: op.JSLE,
    op.JSLE: op.JSGT,
    op.JSGE: op.JSLT,
    op.JSLT: op.JSGE,
}
#: The jump with its operands exchanged.
SWAPPED: Final = {
    op.JEQ: op.JEQ,
    op.JNE: op.JNE,
    op.JGT: op.JLT,
    op.JLT: op.JGT,
    op.JGE: op.JLE,
    op.JLE: op.JGE,
    op.JSGT: op.JSLT,
    op.JSLT: op.JSGT,
    op.JSGE: op.JSLE,
    op.JSLE: op.JSGE,
    op.JSET: op.JSET,
}


def compare(operation: int, x: int, y: int, bits: int) -> bool:
    """The jump itself, on concrete unsigned 64-bit numbers."""
    top = (1 << bits) - 1
    x, y = x & top, y & top
    sx = x - top - 1 if x >> (bits - 1) else x
    sy = y - top - 1 if y >> (bits - 1) else y
    return {
        op.JEQ: x == y,
        op.JNE: x != y,
        op.JGT: x > y,
        op.JGE: x >= y,
        op.JLT: x < y,
        op.JLE: x <= y,
        op.JSGT: sx > sy,
        op.JSGE: sx >= sy,
        op.JSLT: sx < sy,
        op.JSLE: sx <= sy,
        op.JSET: bool(x & y),
    }[operation]


def decided(operation: int, a: Scalar, b: Scalar, bits: int) -> bool | None:
    """True: always taken; False: never; None: either."""
    if bits == 64:
        av, am, aumin, aumax, asmin, asmax = a.value, a.mask, a.umin, a.umax, a.smin, a.smax
        bv, bm, bumin, bumax, bsmin, bsmax = b.value, b.mask, b.umin, b.umax, b.smin, b.smax
    else:
        av, am, aumin, aumax, asmin, asmax = (
            a.value & M32,
            a.mask & M32,
            a.u32min,
            a.u32max,
            a.s32min,
            a.s32max,
        )
        bv, bm, bumin, bumax, bsmin, bsmax = (
            b.value & M32,
            b.mask & M32,
            b.u32min,
            b.u32max,
            b.s32min,
            b.s32max,
        )
    if operation in (op.JEQ, op.JNE):
        equal: bool | None = None
        if not am and not bm:
            equal = av == bv
        elif (
            (av ^ bv) & ~(am | bm) & M64
            or aumin > bumax
            or aumax < bumin
            or asmin > bsmax
            or asmax < bsmin
        ):
            equal = False
        return equal if equal is None or operation == op.JEQ else not equal
    if operation == op.JSET:
        if av & bv:
            return True
        return False if not (av | am) & (bv | bm) else None
    if operation in (op.JLT, op.JLE, op.JSLT, op.JSLE):
        operation = SWAPPED[operation]
        aumin, aumax, asmin, asmax, bumin, bumax, bsmin, bsmax = (
            bumin,
            bumax,
            bsmin,
            bsmax,
            aumin,
            aumax,
            asmin,
            asmax,
        )
    if operation == op.JGT:
        return True if aumin > bumax else False if aumax <= bumin else None
    if operation == op.JGE:
        return True if aumin >= bumax else False if aumax < bumin else None
    if operation == op.JSGT:
        return True if asmin > bsmax else False if asmax <= bsmin else None
    return True if asmin >= bsmax else False if asmax < bsmin else None


class _Bounds:
    """A scalar under refinement, in one width."""

    __slots__ = ("bits", "mask", "smax", "smin", "source", "umax", "umin", "value")

    def __init__(self, a: Scalar, bits: int) -> None:
        self.source, self.bits = a, bits
        self.value, self.mask = a.value, a.mask
        if bits == 64:
            self.umin, self.umax, self.smin, self.smax = a.umin, a.umax, a.smin, a.smax
        else:
            self.umin, self.umax, self.smin, self.smax = a.u32min, a.u32max, a.s32min, a.s32max

    def done(self) -> Scalar | None:
        a = self.source
        if self.umin > self.umax or self.smin > self.smax:
            return None
        if self.bits == 64:
            return make(
                self.value,
                self.mask,
                self.umin,
                self.umax,
                self.smin,
                self.smax,
                a.u32min,
                a.u32max,
                a.s32min,
                a.s32max,
            )
        return make(
            self.value,
            self.mask,
            a.umin,
            a.umax,
            a.smin,
            a.smax,
            self.umin,
            self.umax,
            self.smin,
            self.smax,
        )


def _not_equal(x: _Bounds, c: int, signed: int) -> None:
    if x.umin == c:
        x.umin += 1
    if x.umax == c:
        x.umax -= 1
    if x.smin == signed:
        x.smin += 1
    if x.smax == signed:
        x.smax -= 1


def refine(
    operation: int, a: Scalar, b: Scalar, bits: int, taken: bool
) -> tuple[Scalar, Scalar] | None:
    """Both operands where the jump goes that way; None where it cannot."""
    x, y = _Bounds(a, bits), _Bounds(b, bits)
    top = M64 if bits == 64 else M32
    if operation == op.JSET:
        for one, other in ((x, y), (y, x)):
            if other.mask & top:
                continue
            known = other.value & top
            if taken and known and known & (known - 1) == 0:
                if not (one.value | one.mask) & known:
                    return None
                one.value, one.mask = one.value | known, one.mask & ~known
            elif not taken:
                if one.value & known:
                    return None
                one.mask &= ~known
        return _both(x, y)
    if not taken:
        operation = NEGATED[operation]
    if operation in (op.JLT, op.JLE, op.JSLT, op.JSLE):
        operation = SWAPPED[operation]
        x, y = y, x
        swapped = True
    else:
        swapped = False
    if operation == op.JEQ:
        x.umin = y.umin = max(x.umin, y.umin)
        x.umax = y.umax = min(x.umax, y.umax)
        x.smin = y.smin = max(x.smin, y.smin)
        x.smax = y.smax = min(x.smax, y.smax)
        xv, xm, yv, ym = x.value, x.mask, y.value, y.mask
        if bits == 32:
            xv, xm, yv, ym = xv & M32, xm & M32, yv & M32, ym & M32
        both = t.intersect((xv, xm), (yv, ym))
        if both is None:
            return None
        x.value, x.mask = (x.value & ~top) | both[0], (x.mask & ~top) | both[1]
        y.value, y.mask = (y.value & ~top) | both[0], (y.mask & ~top) | both[1]
    elif operation == op.JNE:
        if not y.mask & top:
            _not_equal(x, y.umin, y.smin)
        if not x.mask & top:
            _not_equal(y, x.umin, x.smin)
    elif operation == op.JGT:
        x.umin = max(x.umin, y.umin + 1)
        y.umax = min(y.umax, x.umax - 1)
    elif operation == op.JGE:
        x.umin = max(x.umin, y.umin)
        y.umax = min(y.umax, x.umax)
    elif operation == op.JSGT:
        x.smin = max(x.smin, y.smin + 1)
        y.smax = min(y.smax, x.smax - 1)
    else:
        x.smin = max(x.smin, y.smin)
        y.smax = min(y.smax, x.smax)
    return _both(y, x) if swapped else _both(x, y)


def _both(x: _Bounds, y: _Bounds) -> tuple[Scalar, Scalar] | None:
    a, b = x.done(), y.done()
    return None if a is None or b is None else (a, b)
