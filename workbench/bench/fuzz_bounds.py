"""Pieces of random programs about what a verifier knows of a number, and about what lies on the stack.

A gamble computes an index in a random way, bounds it in a random way and uses it: verifiers refuse most of them, and
what one accepts must be inside. The other pieces are accepted: spills and fills, memory given to helpers, packet
loads, loads and stores of the context, may_goto.
"""

from __future__ import annotations

from typing import Final

from workbench.bench.fuzz_builder import (
    CONTEXT,
    CONTEXT_BYTES,
    FRAME,
    PACKET,
    PACKET_BYTES,
    SCALARS,
    STACK_USED,
    TABLE,
    VALUE,
    VALUE_BYTES,
    WIDTHS,
    Builder,
)
from workbench.runtime.isa import opcodes as op

__all__ = ("context_access", "gamble", "helper_memory", "may_goto", "packet_load", "spills")

_SPILL: Final = -STACK_USED - 48  # two slots of their own
_MASKS: Final = (1, 3, 7, 15, 31, 56, 63, 127, 255, 0xFFFF, -8, -64, 0x7FFFFFFF)
_LIMITS: Final = (-64, -9, -8, -1, 0, 1, 7, 8, 15, 31, 55, 56, 57, 60, 62, 63, 64, 65, 127, 255)
_SHIFTS: Final = (1, 2, 3, 4, 8, 16, 24, 26, 28, 31, 32, 48, 56, 58, 60, 63)
_DIVISORS: Final = (1, 2, 3, 7, 8, 16, 33, 64, 255, 0x10000, -1, -3, -8)
_COMPARES: Final = (
    op.JEQ, op.JNE, op.JGT, op.JGE, op.JLT, op.JLE, op.JSGT, op.JSGE, op.JSLT, op.JSLE, op.JSET,
)  # fmt: skip


def _source(build: Builder, register: int) -> None:
    """A number that only the input decides."""
    rng = build.rng
    width = rng.choice(WIDTHS)
    base, room = rng.choice(((PACKET, PACKET_BYTES), (VALUE, VALUE_BYTES)))
    mode = op.MEMSX if width != op.DW and rng.random() < 0.3 else op.MEM
    build.emit(op.LDX | mode | width, register, base, rng.randint(0, room - op.SIZES[width]))


def _compute(build: Builder, index: int, other: int) -> None:
    rng = build.rng
    kind = rng.choice((op.ALU, op.ALU64, op.ALU64))
    operation = rng.choice(
        (op.AND, op.AND, op.ADD, op.SUB, op.MUL, op.OR, op.XOR, op.LSH, op.RSH, op.ARSH, op.DIV, op.MOD, op.NEG,
         op.MOV, op.END)
    )  # fmt: skip
    if operation == op.NEG:
        build.emit(kind | op.NEG, index)
    elif operation == op.END:
        opcode = rng.choice((op.ALU | op.END, op.ALU | op.END | op.X, op.ALU64 | op.END))
        build.emit(opcode, index, imm=rng.choice((16, 32, 64)))
    elif operation == op.MOV:
        sizes = (0, 8, 16, 32) if kind == op.ALU64 else (0, 8, 16)
        build.emit(kind | op.MOV | op.X, index, index, rng.choice(sizes))
    elif rng.random() < 0.25:
        offset = rng.randrange(2) if operation in (op.DIV, op.MOD) else 0
        build.emit(kind | operation | op.X, index, other, offset)
    elif operation in (op.LSH, op.RSH, op.ARSH):
        by = rng.choice([n for n in _SHIFTS if kind == op.ALU64 or n < 32])
        build.emit(kind | operation, index, imm=by)
    elif operation in (op.DIV, op.MOD):
        build.emit(kind | operation, index, 0, rng.randrange(2), rng.choice(_DIVISORS))
    else:
        imms = _MASKS if operation == op.AND else _LIMITS
        build.emit(kind | operation, index, imm=rng.choice(imms))


def _compare(build: Builder, index: int, other: int, skip: str) -> None:
    """One side goes on, the other leaves; of the number, of a copy, of its low half."""
    rng = build.rng
    opcode = rng.choice((op.JMP, op.JMP, op.JMP32)) | rng.choice(_COMPARES)
    chance = rng.random()
    left = index
    if chance < 0.2:
        build.move(other, index)
        left = other
    elif chance < 0.3:
        build.emit(op.ALU | op.MOV | op.X, other, index)
        left = other
    to = skip if rng.random() < 0.7 else build.label()
    if chance > 0.85:
        build.emit(opcode | op.X, left, other, to=to)
    else:
        build.emit(opcode, left, imm=rng.choice(_LIMITS), to=to)
    if to != skip:
        build.emit(op.GOTO, to=skip)
        build.place(to)


def _through_the_stack(build: Builder, index: int) -> None:
    rng = build.rng
    wide = rng.random() < 0.6
    build.emit(op.ST | op.MEM | op.DW, FRAME, 0, _SPILL, rng.choice((0, -1)))
    build.emit(op.STX | op.MEM | (op.DW if wide else op.W), FRAME, index, _SPILL)
    if rng.random() < 0.3:
        build.emit(op.ST | op.MEM | op.B, FRAME, 0, _SPILL + rng.randrange(8), build.number())
    width = rng.choice((*WIDTHS, op.DW if wide else op.W))
    at = _SPILL + (op.SIZES[width] if width != op.DW and rng.random() < 0.2 else 0)
    mode = op.MEMSX if width != op.DW and rng.random() < 0.3 else op.MEM
    build.emit(op.LDX | mode | width, index, FRAME, at)


def gamble(build: Builder) -> None:
    """An index of which a verifier may or may not know that it is inside."""
    rng = build.rng
    pointer, index, other = rng.sample(SCALARS, 3)
    skip = build.label()
    build.set(pointer, 0)
    _source(build, index)
    if rng.random() < 0.5:
        _source(build, other)
        build.emit(op.ALU64 | op.AND, other, imm=rng.choice(_MASKS))
    else:
        build.set(other, rng.choice(_LIMITS))
    for _ in range(rng.randint(1, 5)):
        chance = rng.random()
        if chance < 0.5:
            _compute(build, index, other)
        elif chance < 0.85:
            _compare(build, index, other, skip)
        else:
            _through_the_stack(build, index)
    size = op.SIZES[width := rng.choice(WIDTHS)]
    if rng.random() < 0.4:
        opcode = rng.choice((op.JGT, op.JGT, op.JSGT, op.JGE)) | rng.choice(
            (op.JMP, op.JMP, op.JMP32)
        )
        build.emit(opcode, index, imm=VALUE_BYTES - size + rng.choice((0, 0, 0, 1)), to=skip)
    build.move(pointer, VALUE)
    build.emit(op.ALU64 | rng.choice((op.ADD, op.ADD, op.ADD, op.SUB)) | op.X, pointer, index)
    offset = rng.choice((0, 0, 0, 1, 8, -1, -8))
    if rng.random() < 0.6:
        build.emit(op.LDX | op.MEM | width, other, pointer, offset)
    else:
        build.emit(op.STX | op.MEM | width, pointer, index, offset)
    build.place(skip)
    build.set(pointer, build.number())


def spills(build: Builder) -> None:
    """A pointer and a number over the stack; the pointer is used behind it."""
    rng = build.rng
    pointer, held = rng.sample(SCALARS, 2)
    width = rng.choice(WIDTHS)
    base, room = rng.choice(((VALUE, VALUE_BYTES), (PACKET, PACKET_BYTES)))
    build.emit(op.STX | op.MEM | op.DW, FRAME, base, _SPILL)
    build.emit(op.STX | op.MEM | op.DW, FRAME, held, _SPILL - 8)
    if rng.random() < 0.5:
        _compute(build, held, held)
    build.emit(op.LDX | op.MEM | op.DW, pointer, FRAME, _SPILL)
    build.emit(op.LDX | op.MEM | width, held, pointer, rng.randint(0, room - op.SIZES[width]))
    build.emit(op.LDX | op.MEM | op.DW, pointer, FRAME, _SPILL - 8)


def helper_memory(build: Builder) -> None:
    """Memory at a variable place, or of a variable size, given to a helper."""
    rng = build.rng
    key, value, index = 2, 3, 4
    _source(build, index)
    if build.type in ("kprobe", "syscall") and rng.random() < 0.6:
        build.emit(op.ALU64 | op.AND, index, imm=rng.choice((7, 15, 31)))
        build.move(1, FRAME)
        build.emit(op.ALU64 | op.ADD, 1, imm=-rng.choice((32, 40, 64)))
        build.move(3, FRAME)
        build.emit(op.ALU64 | op.ADD, 3, imm=-64)
        build.move(2, index)
        build.emit(op.CALL_IMM, imm=113)
    else:
        build.emit(op.ALU64 | op.AND, index, imm=rng.choice((3, 7, 15)))
        build.move(key, rng.choice((FRAME, VALUE, PACKET)))
        if build.code[-1][0].src == FRAME:
            build.emit(op.ALU64 | op.ADD, key, imm=-rng.choice((24, 32, 64)))
        if build.code[-1][0].src != PACKET:
            build.emit(op.ALU64 | op.ADD | op.X, key, index)
        build.move(value, rng.choice((VALUE, PACKET)))
        build.emit(op.ALU64 | op.ADD, value, imm=rng.choice((0, 8, 48)))
        build.set(index, 0)
        build.wide(1, op.PSEUDO_MAP_IDX, TABLE)
        build.emit(op.CALL_IMM, imm=2)
    build.fill(SCALARS[1:])


def packet_load(build: Builder) -> None:
    """LD_ABS and LD_IND of classifiers: outside of the packet the program ends."""
    rng = build.rng
    width = rng.choice((op.B, op.H, op.W))
    if rng.random() < 0.6:
        build.emit(op.LD | op.ABS | width, imm=rng.randint(0, PACKET_BYTES))
    else:
        index = rng.choice(SCALARS)
        _source(build, index)
        build.emit(op.ALU64 | op.AND, index, imm=rng.choice((7, 31, 63)))
        build.emit(op.LD | op.IND | width, 0, index, imm=rng.choice((-4, 0, 1, 8)))
    build.fill(SCALARS[1:])


def context_access(build: Builder) -> None:
    """Numbers of the context."""
    rng = build.rng
    register = rng.choice(SCALARS)
    if build.type == "sched_cls":
        at = 48 + 4 * rng.randrange(5)  # cb
        build.emit(op.STX | op.MEM | op.W, CONTEXT, register, at)
        width = rng.choice((op.B, op.H, op.W))
        build.emit(op.LDX | op.MEM | width, rng.choice(SCALARS), CONTEXT, at)
    elif build.type in CONTEXT_BYTES:
        width = rng.choice(WIDTHS)
        size = op.SIZES[width]
        at = size * rng.randrange(CONTEXT_BYTES[build.type] // size)
        if build.type == "syscall" and rng.random() < 0.4:
            build.emit(op.STX | op.MEM | width, CONTEXT, register, at)
        else:
            build.emit(op.LDX | op.MEM | width, register, CONTEXT, at)


def may_goto(build: Builder) -> None:
    """A loop that ends by its counter long before the budget does."""
    rng = build.rng
    again, end = build.label(), build.label()
    build.set(5, 0)
    build.place(again)
    build.emit(op.MAY_GOTO, to=end)
    build.emit(rng.choice((op.ALU, op.ALU64)) | op.ADD, rng.choice(SCALARS[:5]), imm=build.number())
    build.emit(op.ALU64 | op.ADD, 5, imm=1)
    build.emit(op.JMP | op.JGT, 5, imm=rng.randint(0, 6), to=end)
    build.emit(op.GOTO, to=again)
    build.place(end)
