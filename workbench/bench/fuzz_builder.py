"""Instructions with labels, for the generator of random programs, and the fixed uses of registers in them."""

from __future__ import annotations

import random
from typing import Final

from workbench.objects.linked import LinkedMap
from workbench.runtime.isa import Instruction, encode
from workbench.runtime.isa import opcodes as op

__all__ = (
    "CONTEXT",
    "CONTEXT_BYTES",
    "DATA",
    "FRAME",
    "MAPS",
    "PACKET",
    "PACKET_BYTES",
    "RESULTS",
    "SCALARS",
    "SPARE",
    "STACK_USED",
    "TABLE",
    "VALUE",
    "VALUES",
    "VALUE_BYTES",
    "WIDTHS",
    "Builder",
)

VALUES, TABLE, RESULTS = range(3)
VALUE_BYTES, STACK_USED = 64, 64
PACKET_BYTES: Final = 64
MAPS: Final = (
    LinkedMap("values", 2, 4, VALUE_BYTES, 4),
    LinkedMap("table", 1, 4, 16, 8),
    LinkedMap("results", 2, 4, 64, 1),
)
#: Bytes of the contexts that are plain memory here: registers of a probe, the argument of a syscall program.
CONTEXT_BYTES: Final = {"kprobe": 168, "syscall": 64}
#: Offsets of the packet's start and end in the contexts that have a packet.
DATA: Final = {"xdp": (0, 4), "sched_cls": (76, 80)}
SCALARS: Final = (0, 1, 2, 3, 4, 5)
CONTEXT, PACKET, SPARE, VALUE, FRAME = 6, 7, 8, 9, 10
WIDTHS: Final = (op.B, op.H, op.W, op.DW)
_EDGES: Final = (
    0,
    1,
    -1,
    2,
    7,
    8,
    31,
    32,
    63,
    64,
    255,
    256,
    0x7FFF,
    0x8000,
    0x7FFFFFFF,
    -0x80000000,
)


class Builder:
    """Instructions with labels."""

    def __init__(self, rng: random.Random, type: str = "xdp") -> None:
        self.rng = rng
        self.type = type
        self.code: list[tuple[Instruction, str]] = []
        self.labels: dict[str, int] = {}
        self.size = 0
        self._names = 0

    def emit(
        self, opcode: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0, to: str = ""
    ) -> None:
        self.code.append((Instruction(opcode, dst, src, offset, imm), to))
        self.size += 1

    def wide(self, dst: int, src: int, low: int, high: int = 0, to: str = "") -> None:
        both = (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF
        self.code.append((Instruction(op.LD_IMM64, dst, src, 0, low, both), to))
        self.size += 2

    def label(self) -> str:
        self._names += 1
        return f"L{self._names}"

    def place(self, name: str) -> None:
        self.labels[name] = self.size

    def finish(self) -> bytes:
        slot, done = 0, []
        for one, to in self.code:
            fixed = one
            if to:
                distance = self.labels[to] - slot - 1
                if one.opcode == op.LD_IMM64:
                    wide = distance & 0xFFFFFFFF
                    fixed = Instruction(one.opcode, one.dst, one.src, 0, distance, wide)
                elif one.opcode in (op.CALL_IMM, op.GOTOL):
                    fixed = Instruction(one.opcode, one.dst, one.src, 0, distance)
                else:
                    fixed = Instruction(one.opcode, one.dst, one.src, distance, one.imm)
            done.append(fixed)
            slot += fixed.slots
        return encode(done)

    # --- pieces -------------------------------------------------------------------------------------------------

    def move(self, dst: int, src: int) -> None:
        self.emit(op.ALU64 | op.MOV | op.X, dst, src)

    def set(self, dst: int, value: int) -> None:
        self.emit(op.ALU64 | op.MOV, dst, imm=value)

    def number(self) -> int:
        if self.rng.random() < 0.5:
            return self.rng.choice(_EDGES)
        return self.rng.randint(-(1 << 31), (1 << 31) - 1)

    def fill(self, registers: tuple[int, ...]) -> None:
        """Scalars into registers that a call left without a value."""
        for register in registers:
            kind = self.rng.random()
            if kind < 0.5:
                self.set(register, self.number())
            elif kind < 0.7:
                self.wide(register, 0, self.number(), self.number())
            elif kind < 0.85:
                self.emit(
                    op.LDX | op.MEM | op.DW,
                    register,
                    FRAME,
                    -8 * self.rng.randint(1, STACK_USED // 8),
                )
            else:
                self.emit(
                    op.LDX | op.MEM | op.B, register, PACKET, self.rng.randrange(PACKET_BYTES)
                )
