"""Bytes to instructions and back; what RFC 9669 does not define is refused with the slot and the reason."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from workbench.errors import WorkbenchError
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.instruction import Instruction

__all__ = ("BadInstruction", "check_targets", "decode", "decode_slots", "encode")

_SLOT = struct.Struct("<BBhi")
_SIGNED = (op.DIV, op.MOD)
_ATOMICS = frozenset(
    base | fetch for base in (op.ADD, op.OR, op.AND, op.XOR) for fetch in (0, op.FETCH)
) | {op.XCHG, op.CMPXCHG}
_ORDERED = frozenset({op.LOAD_ACQ, op.STORE_REL})


class BadInstruction(WorkbenchError):
    """Code that is not RFC 9669 code.

    Attributes
    ----------
    slot : int
        8-byte slot of the instruction.
    reason : str
        What is wrong with it, with the section of RFC 9669 that says so.
    """

    code = "bad-instruction"

    def __init__(self, slot: int, reason: str) -> None:
        super().__init__(
            f"instruction at slot {slot}: {reason}",
            "compile with clang -target bpf -mcpu=v4 or older; arena and newer instructions do not run here",
        )
        self.slot = slot
        self.reason = reason


def decode(code: bytes) -> list[Instruction]:
    """Instructions of `code`, 8 bytes a slot, little endian; a 64-bit immediate load is one instruction of two slots.

    Raises
    ------
    BadInstruction
        An opcode that is not known, a reserved field that is not zero, a register that does not exist, a length that
        is not whole slots. Jump targets are checked by `check_targets`.
    """
    return [found for found in decode_slots(code) if found is not None]


def decode_slots(code: bytes) -> list[Instruction | None]:
    """The same, one entry per slot: None for the second half of a 64-bit immediate load."""
    if len(code) % 8:
        raise BadInstruction(
            len(code) // 8, f"{len(code) % 8} bytes are no whole instruction (RFC 9669 section 3)"
        )
    found: list[Instruction | None] = []
    fields = list(_SLOT.iter_unpack(code))
    slot = 0
    while slot < len(fields):
        opcode, registers, offset, imm = fields[slot]
        dst, src = registers & 15, registers >> 4
        if opcode == op.LD_IMM64:
            if slot + 1 == len(fields):
                raise BadInstruction(
                    slot, "second half of a 64-bit immediate is missing (RFC 9669 section 5.4)"
                )
            head, middle, behind, high = fields[slot + 1]
            if head or middle or behind:
                raise BadInstruction(
                    slot + 1,
                    "second half of a 64-bit immediate has more than an immediate (RFC 9669 section 3.2)",
                )
            wide = Instruction(
                opcode, dst, src, offset, imm, (high & 0xFFFFFFFF) << 32 | imm & 0xFFFFFFFF
            )
            if reason := _wrong(wide):
                raise BadInstruction(slot, reason)
            found += (wide, None)
            slot += 2
            continue
        one = Instruction(opcode, dst, src, offset, imm)
        if reason := _wrong(one):
            raise BadInstruction(slot, reason)
        found.append(one)
        slot += 1
    return found


def encode(instructions: Iterable[Instruction]) -> bytes:
    """Bytes of `instructions`; the inverse of `decode`."""
    out = bytearray()
    for one in instructions:
        out += _SLOT.pack(one.opcode, one.src << 4 | one.dst, one.offset, one.imm)
        if one.opcode == op.LD_IMM64:
            out += _SLOT.pack(0, 0, 0, one.next_imm)
    return bytes(out)


def check_targets(slots: Sequence[Instruction | None]) -> None:
    """Refuse jumps and calls that leave the code or land inside a 64-bit immediate load.

    Raises
    ------
    BadInstruction
        Names the jump.
    """
    for slot, one in enumerate(slots):
        if one is None or not (one.is_jump or _names_function(one)):
            continue
        target = one.target(slot)
        if not 0 <= target < len(slots):
            raise BadInstruction(slot, f"target {target} is outside the code of {len(slots)} slots")
        if slots[target] is None:
            raise BadInstruction(slot, f"target {target} is the second half of a 64-bit immediate")


def _names_function(one: Instruction) -> bool:
    return (one.opcode == op.CALL_IMM and one.src == op.CALL_LOCAL) or (
        one.opcode == op.LD_IMM64 and one.src == op.PSEUDO_FUNC
    )


def _wrong(one: Instruction) -> str:
    """Why this is no instruction; empty when it is one."""
    if one.dst >= op.REGISTERS:
        return f"register r{one.dst} does not exist (RFC 9669 section 3.1)"
    kind = one.kind
    if kind in (op.ALU, op.ALU64):
        return _wrong_arithmetic(one)
    if kind in (op.JMP, op.JMP32):
        return _wrong_jump(one)
    if kind == op.LD:
        return _wrong_load(one)
    return _wrong_memory(one)


def _unknown(one: Instruction, section: str) -> str:
    return f"opcode {one.opcode:#04x} is not known (RFC 9669 section {section})"


def _operand(one: Instruction, section: str) -> str:
    """Rules of the second operand: a register with no immediate, or an immediate with no register."""
    if one.from_register:
        if one.src >= op.REGISTERS:
            return f"register r{one.src} does not exist (RFC 9669 section 3.1)"
        if one.imm:
            return f"imm {one.imm} of an instruction with a source register must be 0 (RFC 9669 section {section})"
    elif one.src:
        return f"src {one.src} of an instruction with an immediate must be 0 (RFC 9669 section {section})"
    return ""


def _wrong_arithmetic(one: Instruction) -> str:
    operation, offset = one.operation, one.offset
    if operation > op.END:
        return _unknown(one, "4.1")
    if operation == op.END:
        if one.kind == op.ALU64 and one.from_register:
            return _unknown(one, "4.2")
        if one.imm not in (16, 32, 64):
            return f"a byte swap of {one.imm} bits is not defined (RFC 9669 section 4.2)"
        if one.src or offset:
            return "src and offset of a byte swap must be 0 (RFC 9669 section 4.2)"
        return ""
    if operation == op.NEG:
        if one.from_register:
            return _unknown(one, "4.1")
        return (
            "src, offset and imm of neg must be 0 (RFC 9669 section 4.1)"
            if one.src or offset or one.imm
            else ""
        )
    if operation in _SIGNED:
        allowed: tuple[int, ...] = (0, 1)
    elif operation == op.MOV and one.from_register:
        if offset in (1, -1):
            return f"mov with offset {offset} converts an address space (arena, per-CPU): not supported"
        allowed = (0, 8, 16, 32) if one.kind == op.ALU64 else (0, 8, 16)
    else:
        allowed = (0,)
    if offset not in allowed:
        return f"offset {offset} of this operation is not defined (RFC 9669 section 4.1)"
    return _operand(one, "4.1")


def _wrong_jump(one: Instruction) -> str:
    operation, opcode = one.operation, one.opcode
    if operation == op.JA:
        if opcode not in (op.GOTO, op.GOTOL):
            return _unknown(one, "4.3")
        unused = one.offset if opcode == op.GOTOL else one.imm
        return (
            "unused fields of a jump must be 0 (RFC 9669 section 4.3)"
            if one.dst or one.src or unused
            else ""
        )
    if operation == op.JCOND:
        if opcode != op.MAY_GOTO:
            return _unknown(one, "4.3")
        return (
            "dst, src and imm of may_goto must be 0 (linux/bpf.h BPF_JCOND)"
            if one.dst or one.src or one.imm
            else ""
        )
    if operation == op.EXIT:
        if opcode != op.EXIT_OP:
            return _unknown(one, "4.3")
        rest = one.dst or one.src or one.offset or one.imm
        return "fields of exit must be 0 (RFC 9669 section 4.3)" if rest else ""
    if operation == op.CALL:
        return _wrong_call(one)
    if operation > op.JCOND:
        return _unknown(one, "4.3")
    return _operand(one, "4.3")


def _wrong_call(one: Instruction) -> str:
    if one.opcode == op.CALLX:
        rest = one.src or one.offset or one.imm
        return "src, offset and imm of callx must be 0 (RFC 9669 section 4.3)" if rest else ""
    if one.opcode != op.CALL_IMM:
        return _unknown(one, "4.3")
    if one.src > op.CALL_KFUNC:
        return f"call type {one.src} is not defined (RFC 9669 section 4.3.1)"
    if one.dst or (one.offset and one.src != op.CALL_KFUNC):
        return "dst and offset of a call must be 0 (RFC 9669 section 4.3.1)"
    return ""


def _wrong_load(one: Instruction) -> str:
    if one.opcode == op.LD_IMM64:
        if one.src > op.PSEUDO_MAP_IDX_VALUE:
            return f"64-bit immediate of type {one.src} is not defined (RFC 9669 section 5.4)"
        if one.offset:
            return "offset of a 64-bit immediate must be 0 (RFC 9669 section 5.4)"
        if one.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX) and one.next_imm:
            return "second immediate of a map reference must be 0 (RFC 9669 section 5.4)"
        return ""
    if one.mode not in (op.ABS, op.IND) or one.opcode & 0x18 == op.DW:
        return _unknown(one, "5")
    if one.src >= op.REGISTERS:
        return f"register r{one.src} does not exist (RFC 9669 section 3.1)"
    if one.dst or one.offset or (one.src and one.mode == op.ABS):
        return "unused fields of a packet load must be 0 (RFC 9669 section 5.5)"
    return ""


def _wrong_memory(one: Instruction) -> str:
    kind, mode, width = one.kind, one.mode, one.opcode & 0x18
    if kind == op.ST:
        if mode != op.MEM:
            return _unknown(one, "5.1")
        return (
            f"src {one.src} of a store of an immediate must be 0 (RFC 9669 section 5.1)"
            if one.src
            else ""
        )
    if one.src >= op.REGISTERS:
        return f"register r{one.src} does not exist (RFC 9669 section 3.1)"
    if kind == op.STX and mode == op.ATOMIC:
        if one.imm in _ORDERED or (one.imm in _ATOMICS and width in (op.W, op.DW)):
            return ""
        if one.imm in _ATOMICS:
            return "atomic operations have 4 or 8 bytes (RFC 9669 section 5.3)"
        return f"atomic operation {one.imm:#x} is not defined (RFC 9669 section 5.3)"
    if mode == op.MEM or (kind == op.LDX and mode == op.MEMSX and width != op.DW):
        return (
            f"imm {one.imm} of a load or store must be 0 (RFC 9669 section 5.1)" if one.imm else ""
        )
    return _unknown(one, "5.1")
