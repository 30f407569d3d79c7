"""One BPF instruction."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.runtime.isa.opcodes import (
    CALL_IMM,
    CALL_LOCAL,
    EXIT_OP,
    GOTO,
    GOTOL,
    JMP,
    JMP32,
    LD_IMM64,
    PSEUDO_FUNC,
    SIZES,
    X,
)

__all__ = ("Instruction",)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, RFC 9669 section 3.

    Parameters
    ----------
    opcode : int
        The opcode byte.
    dst, src : int
        Register numbers, or what the instruction uses the fields for (calls, 64-bit immediates).
    offset : int
        Signed 16 bits.
    imm : int
        Signed 32 bits. For a 64-bit immediate load: the first slot's.
    imm64 : int
        64-bit immediate loads only: both slots' immediates as one unsigned number, else 0.
    """

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0
    imm64: int = 0

    @property
    def slots(self) -> int:
        """8-byte slots that it takes: 2 for a 64-bit immediate load, else 1."""
        return 2 if self.opcode == LD_IMM64 else 1

    @property
    def kind(self) -> int:
        """Class: LD, LDX, ST, STX, ALU, JMP, JMP32 or ALU64."""
        return self.opcode & 0x07

    @property
    def operation(self) -> int:
        """Operation of an arithmetic or jump instruction."""
        return self.opcode & 0xF0

    @property
    def from_register(self) -> bool:
        """The second operand of an arithmetic or jump instruction is `src`, not `imm`."""
        return bool(self.opcode & X)

    @property
    def mode(self) -> int:
        """Mode of a load or store."""
        return self.opcode & 0xE0

    @property
    def size(self) -> int:
        """Bytes that a load or store moves."""
        return SIZES[self.opcode & 0x18]

    @property
    def next_imm(self) -> int:
        """Signed immediate of the second slot of a 64-bit immediate load."""
        high = self.imm64 >> 32
        return high - (1 << 32) if high & 0x80000000 else high

    @property
    def is_jump(self) -> bool:
        """Conditional or unconditional jump within the function (not a call, not exit)."""
        return (
            self.kind in (JMP, JMP32) and self.opcode & 0xF7 != CALL_IMM and self.opcode != EXIT_OP
        )

    @property
    def falls_through(self) -> bool:
        """The next instruction can follow it."""
        return self.opcode not in (GOTO, GOTOL, EXIT_OP)

    def target(self, slot: int) -> int:
        """Slot that a jump, local call or function address at `slot` names; -1 for every other instruction."""
        if self.is_jump:
            return slot + 1 + (self.imm if self.opcode == GOTOL else self.offset)
        if (self.opcode == CALL_IMM and self.src == CALL_LOCAL) or (
            self.opcode == LD_IMM64 and self.src == PSEUDO_FUNC
        ):
            return slot + 1 + self.imm
        return -1
