"""Tristate numbers: what is known of each bit of a 64-bit value.

A tnum is a pair (value, mask) of unsigned integers: a bit set in `mask` is unknown, any other bit is as in `value`;
`value & mask == 0`. The arithmetic is that of the kernel's kernel/bpf/tnum.c (Vishwanathan et al., CGO 2022).
"""

from __future__ import annotations

from typing import Final, TypeAlias

__all__ = (
    "Tnum",
    "add",
    "arshift",
    "bit_and",
    "bit_or",
    "bit_xor",
    "from_range",
    "intersect",
    "lshift",
    "mul",
    "rshift",
    "sub",
    "union",
    "within",
)

Tnum: TypeAlias = tuple[int, int]
M64: Final = (1 << 64) - 1


def from_range(low: int, high: int) -> Tnum:
    """Smallest tnum that holds every number from `low` to `high` (unsigned)."""
    bits = (low ^ high).bit_length()
    delta = (1 << bits) - 1
    return low & ~delta, delta


def add(a: Tnum, b: Tnum) -> Tnum:
    """a + b, 64 bits."""
    sm = a[1] + b[1]
    sv = a[0] + b[0]
    mu = ((sm + sv) ^ sv) | a[1] | b[1]
    mu &= M64
    return sv & ~mu & M64, mu


def sub(a: Tnum, b: Tnum) -> Tnum:
    """a - b, 64 bits."""
    dv = (a[0] - b[0]) & M64
    alpha = (dv + a[1]) & M64
    beta = (dv - b[1]) & M64
    mu = (alpha ^ beta) | a[1] | b[1]
    return dv & ~mu, mu


def bit_and(a: Tnum, b: Tnum) -> Tnum:
    """a & b."""
    alpha = a[0] | a[1]
    beta = b[0] | b[1]
    v = a[0] & b[0]
    return v, alpha & beta & ~v


def bit_or(a: Tnum, b: Tnum) -> Tnum:
    """a | b."""
    v = a[0] | b[0]
    return v, (a[1] | b[1]) & ~v


def bit_xor(a: Tnum, b: Tnum) -> Tnum:
    """a ^ b."""
    mu = a[1] | b[1]
    return (a[0] ^ b[0]) & ~mu, mu


def lshift(a: Tnum, by: int) -> Tnum:
    """a << by, 64 bits."""
    return (a[0] << by) & M64, (a[1] << by) & M64


def rshift(a: Tnum, by: int) -> Tnum:
    """a >> by, unsigned."""
    return a[0] >> by, a[1] >> by


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def arshift(a: Tnum, by: int, bits: int) -> Tnum:
    """a >> by, signed, of the low `bits`; the result has `bits` bits."""
    top = (1 << bits) - 1
    return _signed(a[0] & top, bits) >> by & top, _signed(a[1] & top, bits) >> by & top


def mul(a: Tnum, b: Tnum) -> Tnum:
    """a * b, 64 bits."""
    product = (a[0] * b[0]) & M64
    uncertain: Tnum = (0, 0)
    av, am = a
    bv, bm = b
    while av or am:
        if av & 1:
            uncertain = add(uncertain, (0, bm))
        elif am & 1:
            uncertain = add(uncertain, (0, bv | bm))
        av >>= 1
        am >>= 1
        bv = (bv << 1) & M64
        bm = (bm << 1) & M64
    return add((product, 0), uncertain)


def intersect(a: Tnum, b: Tnum) -> Tnum | None:
    """Numbers in both; None where a known bit differs."""
    if (a[0] ^ b[0]) & ~(a[1] | b[1]):
        return None
    v = a[0] | b[0]
    mu = a[1] & b[1]
    return v & ~mu, mu


def union(a: Tnum, b: Tnum) -> Tnum:
    """Smallest tnum that holds both."""
    mu = a[1] | b[1] | (a[0] ^ b[0])
    return a[0] & ~mu, mu


def within(a: Tnum, b: Tnum) -> bool:
    """Every number of `b` is one of `a`."""
    return not (b[1] & ~a[1]) and a[0] == (b[0] & ~a[1])
