"""Tnum and range arithmetic against the instruction itself, on numbers drawn from inside abstract values."""

from __future__ import annotations

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import tnum
from workbench.runtime.verifier.arithmetic import (
    _concrete,
    arithmetic,
    byte_swap,
    move_signed,
    truncate,
)
from workbench.runtime.verifier.comparison import compare, decided, refine
from workbench.runtime.verifier.scalar import M32, M64, Scalar, constant, join, make

_EDGES = [
    0,
    1,
    2,
    7,
    31,
    32,
    63,
    64,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    M32,
    M32 + 1,
]
_EDGES += [
    (1 << 63) - 1,
    1 << 63,
    M64,
    M64 - 1,
    M64 - 31,
    0xFFFFFFFF80000000,
    0xFFFFFFFF00000000,
    -4096 & M64,
]
numbers = st.one_of(
    st.sampled_from(_EDGES),
    st.integers(0, M64),
    st.integers(0, 300),
    st.integers(0, M32),
    st.integers(1, 4096).map(lambda x: -x & M64),
)


def _signed(x: int, bits: int = 64) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


@st.composite
def inside(draw: st.DrawFn) -> tuple[Scalar, int]:
    """An abstract value and a number in it: bounds built around several numbers, some of them left out."""
    one = draw(numbers)
    others = [one, *draw(st.lists(numbers, max_size=3))]
    if draw(st.booleans()):
        others += [(one + d) & M64 for d in draw(st.lists(st.integers(-9, 9), max_size=3))]
    value, mask = others[0], 0
    for other in others[1:]:
        value, mask = tnum.union((value, mask), (other, 0))
    uses = [draw(st.booleans()) for _ in range(5)]
    bounds = {}
    if uses[1]:
        bounds |= {"umin": min(others), "umax": max(others)}
    if uses[2]:
        bounds |= {"smin": min(map(_signed, others)), "smax": max(map(_signed, others))}
    if uses[3]:
        bounds |= {"u32min": min(x & M32 for x in others), "u32max": max(x & M32 for x in others)}
    if uses[4]:
        low = [_signed(x, 32) for x in others]
        bounds |= {"s32min": min(low), "s32max": max(low)}
    made = make(value, mask, **bounds) if uses[0] else make(0, M64, **bounds)
    assert made is not None
    assert all(made.contains(other) for other in others)
    return made, one


OPERATIONS = [
    (op.ADD, False), (op.SUB, False), (op.MUL, False), (op.DIV, False), (op.DIV, True), (op.MOD, False),
    (op.MOD, True), (op.AND, False), (op.OR, False), (op.XOR, False), (op.LSH, False), (op.RSH, False),
    (op.ARSH, False), (op.NEG, False),
]  # fmt: skip
JUMPS = [
    op.JEQ,
    op.JNE,
    op.JGT,
    op.JGE,
    op.JLT,
    op.JLE,
    op.JSGT,
    op.JSGE,
    op.JSLT,
    op.JSLE,
    op.JSET,
]


@seed(1)
@settings(max_examples=700, deadline=None)
@given(inside(), inside(), st.sampled_from(OPERATIONS), st.sampled_from([32, 64]))
def test_arithmetic_covers_the_instruction(
    a: tuple[Scalar, int], b: tuple[Scalar, int], what: tuple[int, bool], bits: int
) -> None:
    operation, signed = what
    top = (1 << bits) - 1
    expected = _concrete(operation, a[1] & top, b[1] & top, bits, signed)
    assert arithmetic(operation, a[0], b[0], bits, signed).contains(expected)


@seed(2)
@settings(max_examples=300, deadline=None)
@given(inside(), st.sampled_from([8, 16, 32]), st.sampled_from([32, 64]))
def test_sign_extension_and_truncation(a: tuple[Scalar, int], bits: int, width: int) -> None:
    expected = _signed(a[1], bits) & (M64 if width == 64 else M32)
    assert move_signed(a[0], bits, width).contains(expected)
    assert truncate(a[0], bits // 8).contains(a[1] & ((1 << bits) - 1))
    for size in (16, 32, 64):
        low = a[1] & ((1 << size) - 1)
        swapped = int.from_bytes(low.to_bytes(size // 8, "little"), "big")
        assert byte_swap(a[0], size, True).contains(swapped)
        assert byte_swap(a[0], size, False).contains(low)


@seed(3)
@settings(max_examples=900, deadline=None)
@given(inside(), inside(), st.sampled_from(JUMPS), st.sampled_from([32, 64]), st.booleans())
def test_branches_keep_what_goes_that_way(
    a: tuple[Scalar, int], b: tuple[Scalar, int], jump: int, bits: int, equal: bool
) -> None:
    x, y = a[1], b[1]
    if equal and b[0].contains(x):
        y = x
    taken = compare(jump, x, y, bits)
    known = decided(jump, a[0], b[0], bits)
    assert known is None or known == taken
    found = refine(jump, a[0], b[0], bits, taken)
    assert found is not None, "a branch that is possible was called impossible"
    assert found[0].contains(x) and found[1].contains(y)


@seed(4)
@settings(max_examples=300, deadline=None)
@given(inside(), inside())
def test_join_covers_both(a: tuple[Scalar, int], b: tuple[Scalar, int]) -> None:
    both = join(a[0], b[0])
    assert both.contains(a[1]) and both.contains(b[1])
    assert both.covers(a[0]) and both.covers(b[0])


@seed(5)
@settings(max_examples=300, deadline=None)
@given(numbers, numbers, st.integers(0, M64), st.integers(0, M64))
def test_tnum_operations(x: int, y: int, unknown_x: int, unknown_y: int) -> None:
    a, b = (x & ~unknown_x, unknown_x), (y & ~unknown_y, unknown_y)

    def holds(found: tuple[int, int], number: int) -> bool:
        return number & ~found[1] & M64 == found[0] and not found[0] & found[1]

    assert holds(tnum.add(a, b), (x + y) & M64)
    assert holds(tnum.sub(a, b), (x - y) & M64)
    assert holds(tnum.mul(a, b), (x * y) & M64)
    assert holds(tnum.bit_and(a, b), x & y)
    assert holds(tnum.bit_or(a, b), x | y)
    assert holds(tnum.bit_xor(a, b), x ^ y)
    low, high = min(x, y), max(x, y)
    assert holds(tnum.from_range(low, high), low) and holds(
        tnum.from_range(low, high), (low + high) // 2
    )
    assert tnum.within(tnum.union(a, b), a) and tnum.within(tnum.union(a, b), b)


def test_bounds_sharpen_each_other() -> None:
    assert (low := make(0, M64, umax=100)) is not None and low.smin == 0 and low.s32max == 100
    assert (byte := make(0, 0xFF)) is not None and byte.umax == 255 and byte.smin == 0
    assert make(0, M64, umin=5, umax=4) is None
    assert make(8, 0, umax=7) is None
    negative = make(0, M64, smin=-5, smax=-1)
    assert negative is not None and negative.umin == M64 - 4 and negative.s32min == -5
    assert constant(-1).s32max == -1 and constant(-1).umax == M64
