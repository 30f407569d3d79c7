"""What a verifier usually refuses, one thing at a time, for the generator of random programs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from workbench.bench.fuzz_bounds import gamble
from workbench.bench.fuzz_builder import (
    CONTEXT,
    DATA,
    FRAME,
    PACKET,
    PACKET_BYTES,
    SCALARS,
    SPARE,
    STACK_USED,
    TABLE,
    VALUE,
    VALUE_BYTES,
    VALUES,
    WIDTHS,
    Builder,
)
from workbench.runtime.isa import BadInstruction, check_targets, decode_slots
from workbench.runtime.isa import opcodes as op

__all__ = ("RISKS", "mutate", "variable_access")


def variable_access(build: Builder, mask: int = 0) -> None:
    """Through a pointer with a bounded number added to it; in the packet, checked again."""
    rng = build.rng
    pointer, index, end = rng.sample(SCALARS, 3)
    width = rng.choice(WIDTHS)
    size = op.SIZES[width]
    most = mask or rng.choice([bound for bound in (1, 3, 7, 15, 31) if bound <= VALUE_BYTES - size])
    build.emit(op.ALU64 | op.AND, index, imm=most)
    base = rng.choice((VALUE, PACKET))
    packet = base == PACKET and build.type in DATA
    build.move(pointer, base)
    build.emit(op.ALU64 | op.ADD | op.X, pointer, index)
    offset = 0 if packet else rng.randint(0, max(VALUE_BYTES - size - most, 0))
    skip = build.label()
    build.set(end, build.number())
    if packet:
        build.emit(op.LDX | op.MEM | op.W, end, CONTEXT, DATA[build.type][1])
        build.emit(op.ALU64 | op.ADD, pointer, imm=size)
        build.emit(op.JMP | op.JGT | op.X, pointer, end, to=skip)
        offset -= size
    if rng.random() < 0.5:
        build.emit(op.LDX | op.MEM | width, index, pointer, offset)
    else:
        build.emit(op.STX | op.MEM | width, pointer, index, offset)
    build.place(skip)
    build.set(pointer, build.number())
    build.set(end, build.number())


def _outside(build: Builder) -> None:
    base, offset = build.rng.choice(
        (
            (FRAME, 0),
            (FRAME, -516),
            (PACKET, PACKET_BYTES),
            (VALUE, VALUE_BYTES),
            (VALUE, -4),
            (PACKET, -1),
        )
    )
    build.emit(op.LDX | op.MEM | op.W, 0, base, offset)


def _unbounded_index(build: Builder) -> None:
    variable_access(build, mask=build.rng.choice((63, 127, 255, 4095, 0x7FFFFFFF)))


def _no_mask(build: Builder) -> None:
    build.move(1, VALUE)
    build.emit(op.ALU64 | op.ADD | op.X, 1, SPARE)
    build.emit(op.LDX | op.MEM | op.B, 1, 1, 0)


def _signed_index(build: Builder) -> None:
    """Checked from one side, as unsigned or as signed."""
    end = build.label()
    opcode = op.JMP | build.rng.choice((op.JSGT, op.JGT, op.JSLT, op.JSGE))
    build.emit(opcode, SPARE, imm=build.rng.choice((32, 63, 64)), to=end)
    build.move(1, VALUE)
    build.emit(op.ALU64 | op.ADD | op.X, 1, SPARE)
    build.emit(op.LDX | op.MEM | op.B, 2, 1, 0)
    build.place(end)
    build.fill((1, 2))


def _no_value(build: Builder) -> None:
    build.emit(op.CALL_IMM, imm=7)
    build.emit(op.ALU64 | op.ADD | op.X, 0, build.rng.randint(1, 5))
    build.fill(SCALARS)


def _maybe_null(build: Builder) -> None:
    build.wide(1, op.PSEUDO_MAP_IDX, TABLE)
    build.move(2, FRAME)
    build.emit(op.ALU64 | op.ADD, 2, imm=-STACK_USED)
    build.emit(op.CALL_IMM, imm=1)
    build.emit(op.LDX | op.MEM | op.DW, 0, 0, 0)
    build.fill(SCALARS[1:])


def _bad_pointer_arithmetic(build: Builder) -> None:
    opcode = build.rng.choice(
        (op.ALU64 | op.MUL, op.ALU64 | op.AND, op.ALU | op.ADD, op.ALU64 | op.LSH)
    )
    build.move(1, build.rng.choice((VALUE, PACKET, FRAME)))
    build.emit(opcode, 1, imm=3)
    build.emit(op.LDX | op.MEM | op.B, 1, 1, 0)


def _write_context(build: Builder) -> None:
    build.emit(op.ST | op.MEM | op.W, CONTEXT, 0, build.rng.choice((0, 4, 16, 100)), 1)


def _leak(build: Builder) -> None:
    build.emit(op.STX | op.MEM | op.DW, VALUE, build.rng.choice((FRAME, CONTEXT, PACKET)), 0)


def _endless(build: Builder) -> None:
    again = build.label()
    build.place(again)
    build.emit(op.ALU64 | op.ADD, 0, imm=build.rng.choice((0, 0, 0, 1)))
    build.emit(op.JMP | op.JNE, 0, imm=build.rng.choice((-1, 1, 1000)), to=again)


def _misaligned(build: Builder) -> None:
    build.emit(op.LDX | op.MEM | op.DW, 0, FRAME, -STACK_USED + build.rng.randint(1, 7))


def _uninitialised_stack(build: Builder) -> None:
    build.emit(op.LDX | op.MEM | op.DW, 0, FRAME, -256)


def _bad_argument(build: Builder) -> None:
    build.wide(1, op.PSEUDO_MAP_IDX, build.rng.choice((VALUES, TABLE)))
    build.move(2, build.rng.choice((CONTEXT, SPARE, FRAME, VALUE)))
    build.emit(op.CALL_IMM, imm=1)
    build.fill(SCALARS)


def _deep(build: Builder) -> None:
    build.emit(op.STX | op.MEM | op.DW, FRAME, SPARE, build.rng.choice((-512, -520, -504)))


def _nothing(build: Builder) -> None:
    """The mutation happens to the finished code."""


RISKS: Final[dict[str, Callable[[Builder], None]]] = {
    "out of bounds": _outside,
    "index too large": _unbounded_index,
    "index without bound": _no_mask,
    "index bounded on one side": _signed_index,
    "register without value": _no_value,
    "null not checked": _maybe_null,
    "pointer arithmetic": _bad_pointer_arithmetic,
    "context written": _write_context,
    "pointer stored": _leak,
    "endless loop": _endless,
    "misaligned stack": _misaligned,
    "uninitialised stack": _uninitialised_stack,
    "argument": _bad_argument,
    "deep stack": _deep,
    "mutation": _nothing,
    "gamble": gamble,
}


def mutate(rng: random.Random, code: bytes) -> bytes:
    """A few bits changed so that it still is RFC 9669 code."""
    for _ in range(40):
        changed = bytearray(code)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed))
            changed[at] ^= 1 << rng.randrange(8)
        try:
            check_targets(decode_slots(bytes(changed)))
        except BadInstruction:
            continue
        return bytes(changed)
    return code
