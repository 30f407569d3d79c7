"""What the operations compute: RFC 9669 sections 4.1 to 4.3, on unsigned numbers of `bits` bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from workbench.runtime.isa import opcodes as op

__all__ = ("ARITHMETIC", "COMPARE", "SIGNED_ARITHMETIC", "byte_swap", "signed")


def signed(value: int, bits: int) -> int:
    """The number that the low `bits` bits of `value` are in two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _divide(a: int, b: int, _bits: int) -> int:
    return a // b if b else 0


def _modulo(a: int, b: int, _bits: int) -> int:
    return a % b if b else a


def _divide_signed(a: int, b: int, bits: int) -> int:
    a, b = signed(a, bits), signed(b, bits)
    if b == 0:
        return 0
    quotient = abs(a) // abs(
        b
    )  # towards zero; the least number / -1 is itself, by the masking of the result
    return -quotient if (a < 0) != (b < 0) else quotient


def _modulo_signed(a: int, b: int, bits: int) -> int:
    a, b = signed(a, bits), signed(b, bits)
    if b == 0:
        return a
    rest = abs(a) % abs(b)  # sign of the dividend
    return -rest if a < 0 else rest


# operation -> function(a, b, bits); the result is cut to `bits` bits by the caller. A shift uses the low 5 or 6 bits.
ARITHMETIC: Final[dict[int, Callable[[int, int, int], int]]] = {
    op.ADD: lambda a, b, bits: a + b,
    op.SUB: lambda a, b, bits: a - b,
    op.MUL: lambda a, b, bits: a * b,
    op.DIV: _divide,
    op.OR: lambda a, b, bits: a | b,
    op.AND: lambda a, b, bits: a & b,
    op.LSH: lambda a, b, bits: a << (b & (bits - 1)),
    op.RSH: lambda a, b, bits: a >> (b & (bits - 1)),
    op.MOD: _modulo,
    op.XOR: lambda a, b, bits: a ^ b,
    op.MOV: lambda a, b, bits: b,
    op.ARSH: lambda a, b, bits: signed(a, bits) >> (b & (bits - 1)),
}
SIGNED_ARITHMETIC: Final[dict[int, Callable[[int, int, int], int]]] = {
    op.DIV: _divide_signed,
    op.MOD: _modulo_signed,
}

COMPARE: Final[dict[int, Callable[[int, int, int], bool]]] = {
    op.JEQ: lambda a, b, bits: a == b,
    op.JNE: lambda a, b, bits: a != b,
    op.JGT: lambda a, b, bits: a > b,
    op.JGE: lambda a, b, bits: a >= b,
    op.JLT: lambda a, b, bits: a < b,
    op.JLE: lambda a, b, bits: a <= b,
    op.JSET: lambda a, b, bits: bool(a & b),
    op.JSGT: lambda a, b, bits: signed(a, bits) > signed(b, bits),
    op.JSGE: lambda a, b, bits: signed(a, bits) >= signed(b, bits),
    op.JSLT: lambda a, b, bits: signed(a, bits) < signed(b, bits),
    op.JSLE: lambda a, b, bits: signed(a, bits) <= signed(b, bits),
}


def byte_swap(value: int, bits: int) -> int:
    """The low `bits` bits with their bytes in reverse order; what is above is 0 (section 4.2)."""
    size = bits // 8
    return int.from_bytes((value & ((1 << bits) - 1)).to_bytes(size, "little"), "big")
