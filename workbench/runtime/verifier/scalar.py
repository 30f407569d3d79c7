"""What is known of a number: a tnum and signed and unsigned ranges of all 64 and of the low 32 bits, kept in step.

The rules by which one bound sharpens another are those of the kernel's `reg_bounds_sync` (kernel/bpf/verifier.c).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from workbench.runtime.verifier import tnum as t

__all__ = (
    "UNKNOWN",
    "UNKNOWN32",
    "Scalar",
    "constant",
    "join",
    "make",
    "signed_range",
    "unsigned",
    "unsigned_range",
)

M64: Final = (1 << 64) - 1
M32: Final = (1 << 32) - 1
S64_MIN: Final = -(1 << 63)
S64_MAX: Final = (1 << 63) - 1
S32_MIN: Final = -(1 << 31)
S32_MAX: Final = (1 << 31) - 1
_S = 1 << 63
_S32 = 1 << 31


class Scalar:
    """Immutable. `value`, `mask`: the tnum; `umin <= x <= umax` unsigned, `smin <= x <= smax` signed; `u32...`,
    `s32...` the same of the low half."""

    __slots__ = (
        "mask",
        "s32max",
        "s32min",
        "smax",
        "smin",
        "u32max",
        "u32min",
        "umax",
        "umin",
        "value",
    )

    def __init__(
        self,
        value: int,
        mask: int,
        umin: int,
        umax: int,
        smin: int,
        smax: int,
        u32min: int,
        u32max: int,
        s32min: int,
        s32max: int,
    ) -> None:
        self.value = value
        self.mask = mask
        self.umin = umin
        self.umax = umax
        self.smin = smin
        self.smax = smax
        self.u32min = u32min
        self.u32max = u32max
        self.s32min = s32min
        self.s32max = s32max

    def __repr__(self) -> str:
        return f"<Scalar {self}>"

    def __str__(self) -> str:
        if not self.mask:
            return str(self.smin) if -(1 << 32) < self.smin < 1 << 32 else hex(self.value)
        parts = []
        if self.umin or self.umax != M64:
            parts.append(f"{_number(self.umin)}..{_number(self.umax)}")
        if (self.smin, self.smax) not in ((self.umin, self.umax), (S64_MIN, S64_MAX)):
            parts.append(f"signed {_number(self.smin)}..{_number(self.smax)}")
        if self.u32max < min(self.umax, M32) or (self.u32min > 0 and self.umax > M32):
            parts.append(f"low half {_number(self.u32min)}..{_number(self.u32max)}")
        full = (1 << self.umax.bit_length()) - 1
        step = self.mask & -self.mask
        if not self.value and self.mask == full & -step and step > 1:
            parts.append(f"a multiple of {step}")
        elif self.mask not in (M64, full):
            parts.append(f"bits {self.value:#x}/{self.mask:#x}")
        return " ".join(parts) if parts else "any"

    @property
    def key(self) -> tuple[int, ...]:
        """All ten numbers, for comparison."""
        return (
            self.value,
            self.mask,
            self.umin,
            self.umax,
            self.smin,
            self.smax,
            self.u32min,
            self.u32max,
            self.s32min,
            self.s32max,
        )

    def contains(self, number: int) -> bool:
        """Whether a concrete 64-bit value (unsigned) is one of these."""
        low = number & M32
        signed = number - (1 << 64) if number & _S else number
        signed32 = low - (1 << 32) if low & _S32 else low
        return (
            (number & ~self.mask & M64) == self.value
            and self.umin <= number <= self.umax
            and self.smin <= signed <= self.smax
            and self.u32min <= low <= self.u32max
            and self.s32min <= signed32 <= self.s32max
        )

    def covers(self, other: Scalar) -> bool:
        """Every number of `other` is one of these."""
        return (
            self is other
            or self is UNKNOWN
            or (
                self.umin <= other.umin
                and self.umax >= other.umax
                and self.smin <= other.smin
                and self.smax >= other.smax
                and self.u32min <= other.u32min
                and self.u32max >= other.u32max
                and self.s32min <= other.s32min
                and self.s32max >= other.s32max
                and not (other.mask & ~self.mask)
                and self.value == (other.value & ~self.mask)
            )
        )


def _number(value: int) -> str:
    return str(value) if -(1 << 20) < value < 1 << 20 else hex(value)


@lru_cache(maxsize=4096)
def constant(number: int) -> Scalar:
    """One known number (taken modulo 2**64)."""
    number &= M64
    low = number & M32
    signed = number - (1 << 64) if number & _S else number
    signed32 = low - (1 << 32) if low & _S32 else low
    return Scalar(number, 0, number, number, signed, signed, low, low, signed32, signed32)


def make(
    value: int,
    mask: int,
    umin: int = 0,
    umax: int = M64,
    smin: int = S64_MIN,
    smax: int = S64_MAX,
    u32min: int = 0,
    u32max: int = M32,
    s32min: int = S32_MIN,
    s32max: int = S32_MAX,
) -> Scalar | None:
    """Sharpen each bound by the others; None where no number satisfies them all."""
    if not mask:
        one = constant(value)
        if (
            umin <= one.umin <= umax
            and smin <= one.smin <= smax
            and u32min <= one.u32min <= u32max
            and s32min <= one.s32min <= s32max
        ):
            return one
        return None
    for _ in range(2):
        # bounds from the tnum
        top = value | mask
        umin = value if value > umin else umin
        if top < umax:
            umax = top
        low_v, low_top = value & M32, top & M32
        u32min = low_v if low_v > u32min else u32min
        if low_top < u32max:
            u32max = low_top
        s = (value | (mask & _S)) - (1 << 64) if (value | mask) & _S else value
        smin = s if s > smin else smin
        high = (top & ~(mask & _S)) if not value & _S else top - (1 << 64)
        if high < smax:
            smax = high
        s = (low_v | (mask & _S32)) - (1 << 32) if low_top & _S32 else low_v
        s32min = s if s > s32min else s32min
        high = (low_top & ~(mask & _S32)) if not low_v & _S32 else low_top - (1 << 32)
        if high < s32max:
            s32max = high
        # each range from the others, twice because they feed each other
        for _again in (0, 1):
            known_so_far = (umin, umax, smin, smax, u32min, u32max, s32min, s32max)
            # low half from the whole
            if umin >> 32 == umax >> 32:
                new = umin & M32
                if new > u32min:
                    u32min = new
                new = umax & M32
                if new < u32max:
                    u32max = new
            if smin >> 32 == smax >> 32:
                new = smin & M32
                if new > u32min:
                    u32min = new
                new = smax & M32
                if new < u32max:
                    u32max = new
            # signed low half from unsigned low half and back
            if u32min >> 31 == u32max >> 31:
                bias = (1 << 32) if u32min >> 31 else 0
                new = u32min - bias
                if new > s32min:
                    s32min = new
                new = u32max - bias
                if new < s32max:
                    s32max = new
            if (s32min < 0) == (s32max < 0):
                new = s32min & M32
                if new > u32min:
                    u32min = new
                new = s32max & M32
                if new < u32max:
                    u32max = new
            # signed from unsigned and back
            if umin >> 63 == umax >> 63:
                bias = (1 << 64) if umin >> 63 else 0
                new = umin - bias
                if new > smin:
                    smin = new
                new = umax - bias
                if new < smax:
                    smax = new
            if (smin < 0) == (smax < 0):
                new = smin & M64
                if new > umin:
                    umin = new
                new = smax & M64
                if new < umax:
                    umax = new
            # the whole from the low half: the high half is what it is, the low half has its own range
            new = (umin & ~M32) | u32min
            if new > umin:
                umin = new
            new = (umax & ~M32) | u32max
            if new < umax:
                umax = new
            new = (smin & ~M32) | u32min
            if new > smin:
                smin = new
            new = (smax & ~M32) | u32max
            if new < smax:
                smax = new
            if smin >= S32_MIN and smax <= S32_MAX:
                if s32min > smin:
                    smin = s32min
                if s32max < smax:
                    smax = s32max
            if known_so_far == (umin, umax, smin, smax, u32min, u32max, s32min, s32max):
                break
        if umin > umax or smin > smax or u32min > u32max or s32min > s32max:
            return None
        # the tnum from the ranges
        known = t.intersect((value, mask), t.from_range(umin, umax))
        if known is None:
            return None
        low = t.from_range(u32min, u32max)
        known = t.intersect(known, (low[0], low[1] | (M64 ^ M32)))
        if known is None:
            return None
        if known == (value, mask):
            break
        value, mask = known
        if not mask:
            return make(value, 0, umin, umax, smin, smax, u32min, u32max, s32min, s32max)
    return Scalar(value, mask, umin, umax, smin, smax, u32min, u32max, s32min, s32max)


def _must(found: Scalar | None) -> Scalar:
    if found is None:
        raise AssertionError("an operation on possible numbers gave none")
    return found


UNKNOWN: Final = Scalar(0, M64, 0, M64, S64_MIN, S64_MAX, 0, M32, S32_MIN, S32_MAX)
UNKNOWN32: Final = _must(make(0, M32))


@lru_cache(maxsize=512)
def unsigned(bits: int) -> Scalar:
    """Any number of `bits` bits, zero-extended."""
    return _must(make(0, (1 << bits) - 1))


@lru_cache(maxsize=4096)
def signed_range(low: int, high: int) -> Scalar:
    """Any number from `low` to `high`, signed."""
    return _must(make(0, M64, smin=low, smax=high))


@lru_cache(maxsize=4096)
def unsigned_range(low: int, high: int) -> Scalar:
    """Any number from `low` to `high`, unsigned."""
    return _must(make(0, M64, umin=low, umax=high))


def join(a: Scalar, b: Scalar) -> Scalar:
    """Smallest that covers both."""
    if a is b or a.covers(b):
        return a
    if b.covers(a):
        return b
    value, mask = t.union((a.value, a.mask), (b.value, b.mask))
    return _must(
        make(
            value,
            mask,
            min(a.umin, b.umin),
            max(a.umax, b.umax),
            min(a.smin, b.smin),
            max(a.smax, b.smax),
            min(a.u32min, b.u32min),
            max(a.u32max, b.u32max),
            min(a.s32min, b.s32min),
            max(a.s32max, b.s32max),
        )
    )
