"""Signs and names of the operations, shared by both syntaxes and by the disassembler."""

from __future__ import annotations

from typing import Final

from workbench.runtime.isa import opcodes as op

__all__ = (
    "ATOMIC_FETCH",
    "ATOMIC_SIGNS",
    "COMPARISONS",
    "MNEMONIC_ALU",
    "MNEMONIC_JUMPS",
    "SIGNS",
    "WIDTHS",
)

# Assignment sign -> (operation, offset), as LLVM and bpftool write arithmetic.
SIGNS: Final = {
    "+=": (op.ADD, 0),
    "-=": (op.SUB, 0),
    "*=": (op.MUL, 0),
    "/=": (op.DIV, 0),
    "s/=": (op.DIV, 1),
    "|=": (op.OR, 0),
    "&=": (op.AND, 0),
    "<<=": (op.LSH, 0),
    ">>=": (op.RSH, 0),
    "%=": (op.MOD, 0),
    "s%=": (op.MOD, 1),
    "^=": (op.XOR, 0),
    "=": (op.MOV, 0),
    "s>>=": (op.ARSH, 0),
}

COMPARISONS: Final = {
    "==": op.JEQ,
    "!=": op.JNE,
    ">": op.JGT,
    ">=": op.JGE,
    "<": op.JLT,
    "<=": op.JLE,
    "s>": op.JSGT,
    "s>=": op.JSGE,
    "s<": op.JSLT,
    "s<=": op.JSLE,
    "&": op.JSET,
}

ATOMIC_SIGNS: Final = {"+=": op.ADD, "|=": op.OR, "&=": op.AND, "^=": op.XOR}
ATOMIC_FETCH: Final = {"add": op.ADD, "or": op.OR, "and": op.AND, "xor": op.XOR}

# Width as written in C style (u8) or as the suffix of a mnemonic (b).
WIDTHS: Final = {"8": op.B, "16": op.H, "32": op.W, "64": op.DW}

# Names of the public conformance suite's assembler -> (operation, offset) and operation.
MNEMONIC_ALU: Final = {
    "add": (op.ADD, 0),
    "sub": (op.SUB, 0),
    "mul": (op.MUL, 0),
    "div": (op.DIV, 0),
    "sdiv": (op.DIV, 1),
    "or": (op.OR, 0),
    "and": (op.AND, 0),
    "lsh": (op.LSH, 0),
    "rsh": (op.RSH, 0),
    "mod": (op.MOD, 0),
    "smod": (op.MOD, 1),
    "xor": (op.XOR, 0),
    "mov": (op.MOV, 0),
    "arsh": (op.ARSH, 0),
}
MNEMONIC_JUMPS: Final = {
    "jeq": op.JEQ,
    "jgt": op.JGT,
    "jge": op.JGE,
    "jset": op.JSET,
    "jne": op.JNE,
    "jsgt": op.JSGT,
    "jsge": op.JSGE,
    "jlt": op.JLT,
    "jle": op.JLE,
    "jslt": op.JSLT,
    "jsle": op.JSLE,
}
