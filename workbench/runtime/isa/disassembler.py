"""Code to text in the C-like syntax of LLVM and bpftool; the assembler makes the same bytes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.codec import decode_slots
from workbench.runtime.isa.helper_names import helper_name
from workbench.runtime.isa.instruction import Instruction
from workbench.runtime.isa.operators import ATOMIC_FETCH, ATOMIC_SIGNS, COMPARISONS, SIGNS

__all__ = ("disassemble", "text_of")

_SIGN_OF = {value: sign for sign, value in SIGNS.items()}
_COMPARISON_OF = {value: sign for sign, value in COMPARISONS.items()}
_FETCH_OF = {value: name for name, value in ATOMIC_FETCH.items()}
_LOCK_OF = {value: sign for sign, value in ATOMIC_SIGNS.items()}


def disassemble(
    code: bytes, *, maps: Sequence[str] = (), functions: Mapping[int, str] | None = None
) -> list[str]:
    """One line per instruction, without slot numbers.

    Parameters
    ----------
    code : bytes
        8 bytes a slot.
    maps : sequence of str
        Names of the maps by index: `map[counts]` instead of `map[idx:0]`.
    functions : mapping of int to str
        Names of functions by their first slot; calls are by name then, and the assembler needs them as labels.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    """
    return [
        text_of(one, slot, maps, functions or {})
        for slot, one in enumerate(decode_slots(code))
        if one is not None
    ]


def text_of(
    one: Instruction,
    slot: int = 0,
    maps: Sequence[str] = (),
    functions: Mapping[int, str] | None = None,
) -> str:
    """The line of one instruction; `slot` is where it stands, for names of the functions it refers to."""
    kind = one.kind
    if kind in (op.ALU, op.ALU64):
        return _arithmetic(one)
    if kind in (op.JMP, op.JMP32):
        return _jump(one, slot, functions or {})
    if kind == op.LD:
        return _immediate(one, slot, maps, functions or {})
    return _memory(one)


def _hex(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


def _where(register: int, offset: int) -> str:
    return f"r{register} {'-' if offset < 0 else '+'} {abs(offset)}"


def _arithmetic(one: Instruction) -> str:
    letter = "r" if one.kind == op.ALU64 else "w"
    dst = f"{letter}{one.dst}"
    if one.operation == op.END:
        name = "bswap" if letter == "r" else "be" if one.from_register else "le"
        return f"r{one.dst} = {name}{one.imm} r{one.dst}"
    if one.operation == op.NEG:
        return f"{dst} = -{dst}"
    if one.operation == op.MOV and one.offset:
        return f"{dst} = (s{one.offset}){letter}{one.src}"
    second = f"{letter}{one.src}" if one.from_register else _hex(one.imm)
    return f"{dst} {_SIGN_OF[one.operation, one.offset]} {second}"


def _jump(one: Instruction, slot: int, functions: Mapping[int, str]) -> str:
    if one.opcode == op.EXIT_OP:
        return "exit"
    if one.opcode == op.CALLX:
        return f"callx r{one.dst}"
    if one.opcode == op.CALL_IMM:
        if one.src == op.CALL_LOCAL:
            name = functions.get(one.target(slot), "")
            return f"call {name}" if name else f"call pc{one.imm:+d}"
        if one.src == op.CALL_KFUNC:
            return f"call kfunc {one.imm}" + (f" fd {one.offset}" if one.offset else "")
        return f"call {helper_name(one.imm) or f'helper {one.imm & 0xFFFFFFFF:#x}'}"
    if one.opcode == op.GOTOL:
        return f"gotol {one.imm:+d}"
    if one.opcode in (op.GOTO, op.MAY_GOTO):
        return f"{'goto' if one.opcode == op.GOTO else 'may_goto'} {one.offset:+d}"
    letter = "r" if one.kind == op.JMP else "w"
    second = f"{letter}{one.src}" if one.from_register else _hex(one.imm)
    sign = _COMPARISON_OF[one.operation]
    return f"if {letter}{one.dst} {sign} {second} goto {one.offset:+d}"


def _immediate(
    one: Instruction, slot: int, maps: Sequence[str], functions: Mapping[int, str]
) -> str:
    if one.opcode != op.LD_IMM64:
        index = f"r{one.src} + {_hex(one.imm)}" if one.mode == op.IND else _hex(one.imm)
        return f"r0 = *(u{one.size * 8} *)skb[{index}]"
    if one.src == op.PSEUDO_NONE:
        value = f"{one.imm64:#x}"
    elif one.src == op.PSEUDO_BTF_ID:
        value = f"btf_id[{one.imm}]{one.next_imm:+d}"
    elif one.src == op.PSEUDO_FUNC:
        value = f"subprog[{functions.get(one.target(slot)) or f'{one.imm:+d}'}]"
    else:
        named = one.src in (op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE)
        if named and 0 <= one.imm < len(maps):
            value = f"map[{maps[one.imm]}]"
        else:
            value = f"map[{'idx' if named else 'fd'}:{one.imm}]"
        if one.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE):
            value += f"[0]{one.next_imm:+d}"
    return f"r{one.dst} = {value} ll"


def _memory(one: Instruction) -> str:
    bits = one.size * 8
    if one.kind == op.LDX:
        sign = "s" if one.mode == op.MEMSX else "u"
        return f"r{one.dst} = *({sign}{bits} *)({_where(one.src, one.offset)})"
    place = f"*(u{bits} *)({_where(one.dst, one.offset)})"
    if one.kind == op.ST:
        return f"{place} = {_hex(one.imm)}"
    if one.mode == op.MEM:
        return f"{place} = r{one.src}"
    return _atomic(one, bits)


def _atomic(one: Instruction, bits: int) -> str:
    letter = "r" if bits == 64 else "w"
    dst, src = _where(one.dst, one.offset), f"{letter}{one.src}"
    if one.imm == op.LOAD_ACQ:
        return f"{letter}{one.dst} = load_acquire((u{bits} *)({_where(one.src, one.offset)}))"
    if one.imm == op.STORE_REL:
        return f"store_release((u{bits} *)({dst}), {src})"
    name = "64" if bits == 64 else "32_32"
    glue = "_" if bits == 64 else ""
    if one.imm == op.XCHG:
        return f"{src} = xchg{glue}{name}({dst}, {src})"
    if one.imm == op.CMPXCHG:
        return f"{letter}0 = cmpxchg{glue}{name}({dst}, {letter}0, {src})"
    if one.imm & op.FETCH:
        return f"{src} = atomic_fetch_{_FETCH_OF[one.imm & ~op.FETCH]}((u{bits} *)({dst}), {src})"
    return f"lock *(u{bits} *)({dst}) {_LOCK_OF[one.imm]} {src}"
