"""Where arguments are at a function's first instruction, and in which register a result is.

System V AMD64 psABI 3.2.3 and AAPCS64 6.8.2. Only what the kernel shows of a thread can be read: general registers
and memory. Vector registers (floating point) are not part of struct pt_regs.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability

if TYPE_CHECKING:
    from workbench.collectors.uprobe.types import CType, Signature
    from workbench.frames.symbols.usdt import Operand

__all__ = (
    "ARGUMENT_BYTES",
    "MAX_ARGUMENTS",
    "Source",
    "function_sources",
    "operand_source",
    "register_offset",
)

MAX_ARGUMENTS = 12
ARGUMENT_BYTES = 16
REGISTER, MEMORY, CONSTANT = 1, 2, 3
SIGNED, STRING, INDEXED = 1, 2, 4

# Offsets in struct pt_regs: arch/x86/include/uapi/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h.
_X86_ORDER = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
              "orig_ax", "ip", "cs", "flags", "sp", "ss")  # fmt: skip
_OFFSETS = {
    "x86_64": {name: 8 * i for i, name in enumerate(_X86_ORDER)},
    "aarch64": {f"x{i}": 8 * i for i in range(31)} | {"sp": 248, "ip": 256},
}
_PARAMETERS = {
    "x86_64": ("di", "si", "dx", "cx", "r8", "r9"),
    "aarch64": tuple(f"x{i}" for i in range(8)),
}
# The stack pointer at the first instruction is at the return address (x86-64) or at the first stack argument.
_STACK_START = {"x86_64": 8, "aarch64": 0}
_VECTOR_REGISTERS = 8


@dataclass(frozen=True, slots=True)
class Source:
    """How the BPF program gets one argument: `struct argument` of bpf/uprobe.bpf.c."""

    source: int
    size: int
    flags: int
    base: int = 0
    index: int = 0
    shift: int = 0
    offset: int = 0

    def pack(self) -> bytes:
        """The C struct."""
        return struct.pack(
            "<qHHBBBB",
            self.offset,
            self.base,
            self.index,
            self.source,
            self.shift,
            self.size,
            self.flags,
        )


def register_offset(name: str, machine: str = "") -> int:
    """Offset of a register in struct pt_regs.

    Raises
    ------
    MissingCapability
        The architecture or register is not described here.
    """
    machine = machine or platform.machine()
    try:
        return _OFFSETS[machine][name]
    except KeyError:
        raise MissingCapability(
            f"register {name!r} of {machine} cannot be read by a probe"
        ) from None


def _flags(kind: CType) -> int:
    return (SIGNED if kind.signed else 0) | (STRING if kind.kind == "string" else 0)


def function_sources(signature: Signature, machine: str = "") -> list[Source | str]:
    """Source of every parameter, or the reason why it cannot be had."""
    machine = machine or platform.machine()
    if machine not in _PARAMETERS:
        raise MissingCapability(
            f"the calling convention of {machine} is not described here", "record with args=no"
        )
    registers = list(_PARAMETERS[machine])
    start, stack = _STACK_START[machine], 0
    vectors = 0
    found: list[Source | str] = []
    result = signature.result
    if (
        result is not None
        and result.kind == "aggregate"
        and result.size > 16
        and machine == "x86_64"
    ):
        registers.pop(0)  # the hidden pointer to where the result goes
    lost = ""
    for parameter in signature.parameters:
        kind = parameter.type
        if lost:
            found.append(lost)
        elif kind.kind == "float":
            if kind.size > 8 and machine == "x86_64":
                stack = (stack + 15) // 16 * 16 + 16  # long double is passed in memory
            elif vectors >= _VECTOR_REGISTERS:
                stack += 8
            else:
                vectors += 1
            found.append("floating point is passed in vector registers, which probes do not see")
        elif kind.kind == "aggregate" and not (kind.size > 16 and machine == "aarch64"):
            # By value: large ones lie on the stack; small ones may use registers of either kind, so what follows
            # them is not known.
            found.append("a struct passed by value is not recorded")
            if kind.size > 16:
                stack += (kind.size + 7) // 8 * 8
            else:
                lost = "it follows a small struct passed by value, whose registers are not known"
        elif registers:
            found.append(
                Source(
                    REGISTER,
                    min(kind.size or 8, 8),
                    _flags(kind),
                    register_offset(registers.pop(0), machine),
                )
            )
        else:
            sp = register_offset("sp", machine)
            found.append(
                Source(MEMORY, min(kind.size or 8, 8), _flags(kind), sp, offset=start + stack)
            )
            stack += 8
    return found


def operand_source(operand: Operand, address: int, text: bool = False, machine: str = "") -> Source:
    """Source of a USDT argument; `address` is that of the mark, for operands relative to it."""
    flags = (SIGNED if operand.signed and not text else 0) | (STRING if text else 0)
    if operand.kind == "constant":
        return Source(CONSTANT, operand.size, flags, offset=operand.offset)
    base = register_offset(operand.base, machine)
    if operand.kind == "register":
        return Source(REGISTER, operand.size, flags, base)
    offset = operand.offset - (address if operand.base == "ip" else 0)
    index = register_offset(operand.index, machine) if operand.index else 0
    flags |= INDEXED if operand.index else 0
    return Source(MEMORY, operand.size, flags, base, index, operand.shift, offset)
