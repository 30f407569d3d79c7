"""The assembler syntax of ubpf and of the public conformance suite: `ldxw %r0, [%r1+4]`, `jeq %r1, 5, label`."""

from __future__ import annotations

import re

from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.instruction import Instruction
from workbench.runtime.isa.operators import ATOMIC_FETCH, MNEMONIC_ALU, MNEMONIC_JUMPS
from workbench.runtime.isa.statement import (
    Statement,
    SyntaxProblem,
    immediate32,
    number,
    offset16,
    register,
)

__all__ = ("is_mnemonic", "parse_mnemonic")

_WIDTH = {"b": op.B, "h": op.H, "w": op.W, "dw": op.DW}
_ADDRESS = re.compile(r"\[\s*(%?\w+)\s*([-+]\s*\w+)?\s*\]")
_LOAD = re.compile(r"ldx(s?)(b|h|w|dw)")
_STORE = re.compile(r"st(x?)(b|h|w|dw)")
_PACKET = re.compile(r"ld(abs|ind)(b|h|w)")
_SWAP = re.compile(r"(le|be|b?swap)(16|32|64)")
_MOVSX = re.compile(r"movsx(8|16|32)(32|64)")
_ALU = re.compile(rf"({'|'.join(MNEMONIC_ALU)}|neg)(32|64)?")
_JUMP = re.compile(rf"({'|'.join(MNEMONIC_JUMPS)})(32)?")
_WORDS = re.compile(r"lddw|ja|ja32|call|callx|exit|lock|may_goto")
_FORMS = (_LOAD, _STORE, _PACKET, _SWAP, _MOVSX, _ALU, _JUMP, _WORDS)


def is_mnemonic(word: str) -> bool:
    """The word begins a line of this syntax."""
    return any(form.fullmatch(word) for form in _FORMS)


def parse_mnemonic(line: str) -> Statement:
    """The instruction that one line without comment and label stands for."""
    word, _, rest = line.partition(" ")
    if word in ("call", "lock"):  # these have words before their operands
        operands = rest.replace(",", " ").split()
    else:
        operands = [part.strip() for part in rest.split(",")] if rest.strip() else []
    if word == "call":
        return _call(operands)
    if word == "lock":
        return Statement(_lock(operands))
    if word in ("ja", "ja32", "may_goto"):
        opcode = {"ja": op.GOTO, "ja32": op.GOTOL, "may_goto": op.MAY_GOTO}[word]
        (target,) = _exactly(1, word, operands)
        return _to(Instruction(opcode), target, wide=word == "ja32")
    if found := _JUMP.fullmatch(word):
        dst, second, target = _exactly(3, word, operands)
        opcode = MNEMONIC_JUMPS[found[1]] | (op.JMP32 if found[2] else op.JMP)
        return _to(_second(opcode, register(dst), second, 0), target)
    return Statement(_plain(word, operands))


def _exactly(count: int, word: str, operands: list[str]) -> list[str]:
    if len(operands) != count:
        raise SyntaxProblem(f"{word} has {len(operands)} operands", f"it takes {count}")
    return operands


def _plain(word: str, operands: list[str]) -> Instruction:
    if word == "exit":
        _exactly(0, word, operands)
        return Instruction(op.EXIT_OP)
    if word == "callx":
        return Instruction(op.CALLX, register(_exactly(1, word, operands)[0]))
    if word == "lddw":
        dst, value = _exactly(2, word, operands)
        return wide_immediate(register(dst), number(value))
    if found := _LOAD.fullmatch(word):
        dst, where = _exactly(2, word, operands)
        mode = op.MEMSX if found[1] else op.MEM
        base, offset = _address(where)
        return Instruction(op.LDX | mode | _WIDTH[found[2]], register(dst), base, offset)
    if found := _STORE.fullmatch(word):
        where, value = _exactly(2, word, operands)
        base, offset = _address(where)
        if found[1]:
            return Instruction(op.STX | op.MEM | _WIDTH[found[2]], base, register(value), offset)
        return Instruction(op.ST | op.MEM | _WIDTH[found[2]], base, 0, offset, immediate32(value))
    if found := _PACKET.fullmatch(word):
        if found[1] == "abs":
            return Instruction(
                op.LD | op.ABS | _WIDTH[found[2]], imm=immediate32(*_exactly(1, word, operands))
            )
        source, value = _exactly(2, word, operands)
        return Instruction(
            op.LD | op.IND | _WIDTH[found[2]], src=register(source), imm=immediate32(value)
        )
    if found := _SWAP.fullmatch(word):
        opcode = {"le": op.ALU | op.END, "be": op.ALU | op.END | op.X}.get(
            found[1], op.ALU64 | op.END
        )
        return Instruction(opcode, register(*_exactly(1, word, operands)), imm=int(found[2]))
    if found := _MOVSX.fullmatch(word):
        dst, source = _exactly(2, word, operands)
        kind = op.ALU64 if found[2] == "64" else op.ALU
        return Instruction(kind | op.MOV | op.X, register(dst), register(source), int(found[1]))
    return _arithmetic(word, operands)


def _arithmetic(word: str, operands: list[str]) -> Instruction:
    found = _ALU.fullmatch(word)
    if not found:
        raise SyntaxProblem(f"{word!r} is no instruction", "see docs/runtime.md for both syntaxes")
    kind = op.ALU if found[2] == "32" else op.ALU64
    if found[1] == "neg":
        return Instruction(kind | op.NEG, register(*_exactly(1, word, operands)))
    operation, offset = MNEMONIC_ALU[found[1]]
    dst, second = _exactly(2, word, operands)
    return _second(kind | operation, register(dst), second, offset)


def _second(opcode: int, dst: int, text: str, offset: int) -> Instruction:
    if text.startswith(("%", "r")):
        return Instruction(opcode | op.X, dst, register(text), offset)
    return Instruction(opcode, dst, 0, offset, immediate32(text))


def wide_immediate(dst: int, value: int) -> Instruction:
    """64-bit immediate load of a number."""
    if not -(1 << 63) <= value < 1 << 64:
        raise SyntaxProblem(f"{value} does not fit in 64 bits", "a register has 64")
    value &= (1 << 64) - 1
    low = value & 0xFFFFFFFF
    return Instruction(op.LD_IMM64, dst, 0, 0, low - (1 << 32) if low >> 31 else low, value)


def _address(text: str) -> tuple[int, int]:
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise SyntaxProblem(f"{text!r} is no address", "write [%r1+4]")
    return register(found[1]), offset16(found[2].replace(" ", "")) if found[2] else 0


def _to(one: Instruction, target: str, *, wide: bool = False) -> Statement:
    """A jump: by a signed distance, or to a label."""
    if not target.startswith(("+", "-")):
        return Statement(one, target, wide)
    distance = immediate32(target) if wide else offset16(target)
    offset, imm = (0, distance) if wide else (distance, one.imm)
    return Statement(Instruction(one.opcode, one.dst, one.src, offset, imm))


def _call(operands: list[str]) -> Statement:
    if len(operands) == 1:
        operands = ["helper", *operands]
    mode, target = _exactly(2, "call", operands)
    if mode == "local":
        return _to(Instruction(op.CALL_IMM, src=op.CALL_LOCAL), target, wide=True)
    if mode == "runtime":
        return Statement(Instruction(op.CALL_IMM, src=op.CALL_KFUNC, imm=immediate32(target)))
    if mode != "helper":
        raise SyntaxProblem(f"call {mode!r}", "calls are helper, local or runtime")
    if target.startswith("%"):
        return Statement(Instruction(op.CALLX, register(target)))
    return Statement(Instruction(op.CALL_IMM, imm=immediate32(target)))


def _lock(operands: list[str]) -> Instruction:
    fetch = bool(operands) and operands[0] == "fetch"
    name, where, value = _exactly(3, "lock", operands[fetch:])
    opcode = op.STX | op.ATOMIC | (op.W if name.endswith("32") else op.DW)
    name = name.removesuffix("32").removesuffix("64")
    if name in ("xchg", "cmpxchg"):
        imm = op.XCHG if name == "xchg" else op.CMPXCHG
    elif name in ATOMIC_FETCH:
        imm = ATOMIC_FETCH[name] | fetch
    else:
        raise SyntaxProblem(
            f"there is no atomic operation {name!r}", "add, or, and, xor, xchg, cmpxchg"
        )
    base, offset = _address(where)
    return Instruction(opcode, base, register(value), offset, imm)
