"""Numbers of the instruction set: RFC 9669 sections 3 to 5, and include/uapi/linux/bpf.h for what came after it.

An opcode byte is `class | source | operation` for arithmetic and jumps, `class | size | mode` for loads and stores.
"""

from __future__ import annotations

from typing import Final

# Classes: the low three bits (RFC 9669 section 3.1).
LD: Final = 0x00
LDX: Final = 0x01
ST: Final = 0x02
STX: Final = 0x03
ALU: Final = 0x04
JMP: Final = 0x05
JMP32: Final = 0x06
ALU64: Final = 0x07

# Source of the second operand: immediate or register (section 3.2).
K: Final = 0x00
X: Final = 0x08

# Arithmetic (section 4.1). DIV and MOD are signed with offset 1; MOV extends the sign of offset bits, if not 0.
ADD: Final = 0x00
SUB: Final = 0x10
MUL: Final = 0x20
DIV: Final = 0x30
OR: Final = 0x40
AND: Final = 0x50
LSH: Final = 0x60
RSH: Final = 0x70
NEG: Final = 0x80
MOD: Final = 0x90
XOR: Final = 0xA0
MOV: Final = 0xB0
ARSH: Final = 0xC0
END: Final = 0xD0  # ALU: K = to little endian, X = to big endian; ALU64: swap

# Jumps (section 4.3).
JA: Final = 0x00
JEQ: Final = 0x10
JGT: Final = 0x20
JGE: Final = 0x30
JSET: Final = 0x40
JNE: Final = 0x50
JSGT: Final = 0x60
JSGE: Final = 0x70
CALL: Final = 0x80
EXIT: Final = 0x90
JLT: Final = 0xA0
JLE: Final = 0xB0
JSLT: Final = 0xC0
JSLE: Final = 0xD0
JCOND: Final = 0xE0  # may_goto

# Sizes of loads and stores (section 5).
W: Final = 0x00
H: Final = 0x08
B: Final = 0x10
DW: Final = 0x18
SIZES: Final = {B: 1, H: 2, W: 4, DW: 8}

# Modes of loads and stores (section 5).
IMM: Final = 0x00
ABS: Final = 0x20
IND: Final = 0x40
MEM: Final = 0x60
MEMSX: Final = 0x80
ATOMIC: Final = 0xC0

# imm of an atomic instruction: ADD, OR, AND or XOR, alone or with FETCH; or one of these (section 5.3).
FETCH: Final = 0x01
XCHG: Final = 0xE0 | FETCH
CMPXCHG: Final = 0xF0 | FETCH
LOAD_ACQ: Final = 0x100
STORE_REL: Final = 0x110

# src of a call (section 4.3.1).
CALL_HELPER: Final = 0
CALL_LOCAL: Final = 1  # BPF_PSEUDO_CALL
CALL_KFUNC: Final = 2  # BPF_PSEUDO_KFUNC_CALL: helper by BTF id

# src of a 64-bit immediate load (section 5.4).
PSEUDO_NONE: Final = 0
PSEUDO_MAP_FD: Final = 1
PSEUDO_MAP_VALUE: Final = 2
PSEUDO_BTF_ID: Final = 3
PSEUDO_FUNC: Final = 4
PSEUDO_MAP_IDX: Final = 5
PSEUDO_MAP_IDX_VALUE: Final = 6

# Whole opcodes that are asked for by name.
LD_IMM64: Final = LD | DW | IMM
GOTO: Final = JMP | JA
GOTOL: Final = JMP32 | JA
MAY_GOTO: Final = JMP | JCOND
CALL_IMM: Final = JMP | CALL
CALLX: Final = JMP | CALL | X
EXIT_OP: Final = JMP | EXIT

REGISTERS: Final = 11
FRAME_POINTER: Final = 10
