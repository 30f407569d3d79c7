"""What both syntaxes produce from a line, and the numbers and registers in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workbench.errors import BadSpec
from workbench.runtime.isa.instruction import Instruction
from workbench.runtime.isa.opcodes import REGISTERS

__all__ = ("Names", "Statement", "SyntaxProblem", "immediate32", "number", "offset16", "register")

_NUMBER = re.compile(r"[-+]?(0x[0-9a-f]+|[0-9]+)", re.IGNORECASE)


class SyntaxProblem(BadSpec):
    """A line of assembly that is no instruction."""

    code = "bad-assembly"


@dataclass(frozen=True, slots=True)
class Statement:
    """One instruction and the label whose distance still goes into it (into `imm` if `wide`, else into `offset`)."""

    instruction: Instruction
    label: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """What names in the text stand for: maps by their index in the code, helpers by number."""

    maps: tuple[str, ...] = ()

    def map_index(self, name: str) -> int:
        """Index of the map; SyntaxProblem when there is no such map."""
        try:
            return self.maps.index(name)
        except ValueError:
            known = ", ".join(self.maps) or "none were given"
            raise SyntaxProblem(f"there is no map {name!r}", f"maps: {known}") from None


def number(text: str) -> int:
    """Decimal or 0x hexadecimal, with or without sign."""
    if not _NUMBER.fullmatch(text):
        raise SyntaxProblem(f"{text!r} is not a number", "write 12, -12 or 0xc")
    return int(text, 16 if "x" in text.lower() else 10)


def immediate32(text: str) -> int:
    """A number of 32 bits, signed or unsigned, as the signed field."""
    value = number(text)
    if not -(1 << 31) <= value < 1 << 32:
        raise SyntaxProblem(
            f"{text} does not fit in 32 bits", "64-bit constants: lddw, or `r1 = NUMBER ll`"
        )
    return value - (1 << 32) if value >= 1 << 31 else value


def offset16(text: str) -> int:
    """A number of 16 bits as the signed field; hexadecimal may be unsigned."""
    value = number(text)
    if not -(1 << 15) <= value < 1 << 16 or (value >= 1 << 15 and "x" not in text.lower()):
        raise SyntaxProblem(
            f"offset {text} does not fit in 16 bits", "jumps that far: gotol (ja32)"
        )
    return value - (1 << 16) if value >= 1 << 15 else value


def register(text: str) -> int:
    """Number of `%r3`, `r3` or `w3`."""
    name = text.removeprefix("%")
    if name[:1] in ("r", "w") and name[1:].isdecimal() and int(name[1:]) < REGISTERS:
        return int(name[1:])
    raise SyntaxProblem(f"{text!r} is not a register", "registers are r0 to r10")
