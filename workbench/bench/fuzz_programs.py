"""Random BPF programs for differential testing: most of them what a verifier should accept, some of them not.

A program checks its packet (one without a packet looks up a second array element in its place), looks up an array
element, then does random arithmetic, memory accesses, branches, bounded loops, calls of helpers, subprograms and
callbacks, and leaves its registers in a map, so that a difference anywhere shows. A `risky` program does one thing
more that is usually refused.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from workbench.bench.fuzz_bounds import (
    context_access,
    helper_memory,
    may_goto,
    packet_load,
    spills,
)
from workbench.bench.fuzz_builder import (
    CONTEXT,
    DATA,
    FRAME,
    MAPS,
    PACKET,
    PACKET_BYTES,
    RESULTS,
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
from workbench.bench.fuzz_risks import RISKS, mutate, variable_access
from workbench.objects.linked import Function, LinkedObject, LinkedProgram
from workbench.runtime.isa import opcodes as op

__all__ = ("MAPS", "PACKET_BYTES", "FuzzProgram", "generate")

_ALU: Final = (
    op.ADD,
    op.SUB,
    op.MUL,
    op.OR,
    op.AND,
    op.XOR,
    op.MOV,
    op.LSH,
    op.RSH,
    op.ARSH,
    op.DIV,
    op.MOD,
)
_JUMPS: Final = (
    op.JEQ, op.JNE, op.JGT, op.JGE, op.JLT, op.JLE, op.JSGT, op.JSGE, op.JSLT, op.JSLE, op.JSET,
)  # fmt: skip
_ATOMICS: Final = (
    *(base | fetch for base in (op.ADD, op.OR, op.AND, op.XOR) for fetch in (0, op.FETCH)),
    op.XCHG,
    op.CMPXCHG,
)


_OFTEN: Final = {"endless loop": 0.05, "gamble": 8.0}  # verifiers walk an endless loop for seconds
_TYPES: Final = {"xdp": 5, "sched_cls": 3, "kprobe": 1, "syscall": 1}


@dataclass(frozen=True, slots=True)
class FuzzProgram:
    """One program and what it runs on.

    Attributes
    ----------
    seed : int
        `generate(seed)` makes it again.
    program : LinkedProgram
        Of type xdp, sched_cls, kprobe or syscall.
    packet : bytes
    risky : str
        The name of what it does that is usually refused; empty for nothing.
    """

    seed: int
    program: LinkedProgram
    packet: bytes
    risky: str

    @property
    def object(self) -> LinkedObject:
        """The object it belongs to."""
        return LinkedObject("fuzz", "GPL", {self.program.name: self.program}, MAPS, {})


def generate(seed: int, *, risky: bool | None = None) -> FuzzProgram:
    """The program of a seed.

    Parameters
    ----------
    seed : int
    risky : bool, optional
        By default one in three.
    """
    rng = random.Random(seed)
    type = rng.choices(list(_TYPES), list(_TYPES.values()))[0]
    build = Builder(rng, type)
    hazard = ""
    if rng.random() < 0.35 if risky is None else risky:
        hazard = rng.choices(list(RISKS), [_OFTEN.get(name, 1.0) for name in RISKS])[0]
    _prologue(build)
    pieces = rng.randint(3, 30)
    at = rng.randrange(pieces)
    functions: list[str] = []
    callbacks: list[str] = []
    for number in range(pieces):
        if hazard and number == at:
            RISKS[hazard](build)
        _piece(build, functions, callbacks, 0)
    _epilogue(build)
    starts = [("main", 0)]
    for name in functions:
        starts.append((name, build.size))
        _subprogram(build, name)
    for name in callbacks:
        starts.append((name, build.size))
        _callback(build, name)
    code = build.finish()
    if hazard == "mutation":
        code = mutate(rng, code)
    ends = [start for _, start in starts[1:]] + [len(code) // 8]
    table = tuple(
        Function(name, start, end - start) for (name, start), end in zip(starts, ends, strict=True)
    )
    packet = rng.randbytes(rng.choice((PACKET_BYTES, PACKET_BYTES, PACKET_BYTES + 36, 20)))
    return FuzzProgram(seed, LinkedProgram("main", type, type, code, table), packet, hazard)


def _prologue(build: Builder) -> None:
    """Packet checked in r7, a map value in r9, scalars on the stack and in r0 to r5 and r8."""
    build.move(CONTEXT, 1)
    if build.type in DATA:
        start, end = DATA[build.type]
        build.emit(op.LDX | op.MEM | op.W, PACKET, CONTEXT, start)
        build.emit(op.LDX | op.MEM | op.W, 3, CONTEXT, end)
        build.move(2, PACKET)
        build.emit(op.ALU64 | op.ADD, 2, imm=PACKET_BYTES)
        build.emit(op.JMP | op.JGT | op.X, 2, 3, to="short")
    else:
        _lookup(build, 1)
        build.move(PACKET, 0)
    for at in range(1, STACK_USED // 8 + 1):
        build.emit(op.ST | op.MEM | op.DW, FRAME, 0, -8 * at, build.number())
    _lookup(build, build.rng.randrange(4))
    build.move(VALUE, 0)
    build.set(SPARE, build.number())
    build.fill(SCALARS)


def _lookup(build: Builder, index: int) -> None:
    build.emit(op.ST | op.MEM | op.W, FRAME, 0, -STACK_USED - 8, index)
    build.move(2, FRAME)
    build.emit(op.ALU64 | op.ADD, 2, imm=-STACK_USED - 8)
    build.wide(1, op.PSEUDO_MAP_IDX, VALUES)
    build.emit(op.CALL_IMM, imm=1)
    build.emit(op.JMP | op.JEQ, 0, to="short")


def _epilogue(build: Builder) -> None:
    """Registers to the results map, and folded into r0."""
    build.wide(CONTEXT, op.PSEUDO_MAP_IDX_VALUE, RESULTS)
    for register in (*SCALARS, SPARE):
        build.emit(op.STX | op.MEM | op.DW, CONTEXT, register, 8 * min(register, 6))
    for register in SCALARS[1:]:
        build.emit(op.ALU64 | op.MUL, 0, imm=31)
        build.emit(op.ALU64 | op.XOR | op.X, 0, register)
    build.emit(op.EXIT_OP)
    build.place("short")
    build.set(0, 77)
    build.emit(op.EXIT_OP)


def _piece(build: Builder, functions: list[str], callbacks: list[str], depth: int) -> None:
    """One random thing; afterwards r0 to r5 and r8 are scalars and r6, r7, r9 what they were."""
    rng = build.rng
    chance = rng.random()
    if chance < 0.38:
        _arithmetic(build)
    elif chance < 0.50:
        _access(build)
    elif chance < 0.56:
        variable_access(build)
    elif chance < 0.61:
        _atomic(build)
    elif chance < 0.65:
        spills(build)
    elif chance < 0.68:
        helper_memory(build)
    elif chance < 0.70 and depth == 0:
        may_goto(build)
    elif chance < 0.74:
        if build.type == "sched_cls" and rng.random() < 0.5:
            packet_load(build)
        else:
            context_access(build)
    elif chance < 0.84:
        _branch(build, functions, callbacks, depth)
    elif chance < 0.88 and depth < 2:
        _loop(build, functions, callbacks, depth)
    elif chance < 0.94:
        _map_call(build)
    elif chance < 0.98 and len(functions) < 3:
        functions.append(f"sub{len(functions)}")
        build.emit(op.CALL_IMM, src=op.CALL_LOCAL, to=functions[-1])
        build.fill(SCALARS[1:])
    elif depth == 0 and len(callbacks) < 2:
        _bpf_loop(build, callbacks)


def _arithmetic(build: Builder, registers: tuple[int, ...] = (*SCALARS, SPARE)) -> None:
    rng = build.rng
    kind = rng.choice((op.ALU, op.ALU64))
    dst, src = rng.choice(registers), rng.choice(registers)
    chance = rng.random()
    if chance < 0.08:
        build.emit(kind | op.NEG, dst)
    elif chance < 0.16:
        opcode = rng.choice((op.ALU | op.END, op.ALU | op.END | op.X, op.ALU64 | op.END))
        build.emit(opcode, dst, imm=rng.choice((16, 32, 64)))
    elif chance < 0.26:
        sizes = (8, 16, 32) if kind == op.ALU64 else (8, 16)
        build.emit(kind | op.MOV | op.X, dst, src, rng.choice(sizes))
    else:
        operation = rng.choice(_ALU)
        offset = rng.randrange(2) if operation in (op.DIV, op.MOD) else 0
        if rng.random() < 0.5:
            build.emit(kind | operation | op.X, dst, src, offset)
            return
        imm = build.number()
        if operation in (op.LSH, op.RSH, op.ARSH):
            imm = rng.randrange(64 if kind == op.ALU64 else 32)
        elif operation in (op.DIV, op.MOD):
            imm = imm or 3
        build.emit(kind | operation, dst, 0, offset, imm)


def _place(build: Builder, size: int) -> tuple[int, int]:
    """A register and an offset at which `size` bytes may be read and written."""
    rng = build.rng
    area = rng.randrange(3)
    if area == 0:
        return FRAME, -STACK_USED + size * rng.randrange(STACK_USED // size)
    if area == 1:
        return PACKET, rng.randint(0, PACKET_BYTES - size)
    return VALUE, rng.randint(0, VALUE_BYTES - size)


def _access(build: Builder) -> None:
    rng = build.rng
    width = rng.choice(WIDTHS)
    base, offset = _place(build, op.SIZES[width])
    chance = rng.random()
    if chance < 0.4:
        build.emit(op.LDX | op.MEM | width, rng.choice(SCALARS), base, offset)
    elif chance < 0.55 and width != op.DW:
        build.emit(op.LDX | op.MEMSX | width, rng.choice(SCALARS), base, offset)
    elif chance < 0.75:
        build.emit(op.ST | op.MEM | width, base, 0, offset, build.number())
    else:
        build.emit(op.STX | op.MEM | width, base, rng.choice(SCALARS), offset)


def _atomic(build: Builder) -> None:
    rng = build.rng
    width = rng.choice((op.W, op.DW))
    size = op.SIZES[width]
    base, least, room = rng.choice(((FRAME, -STACK_USED, STACK_USED), (VALUE, 0, VALUE_BYTES)))
    offset = least + size * rng.randrange(room // size)
    chance = rng.random()
    if chance < 0.1:
        build.emit(op.STX | op.ATOMIC | width, rng.choice(SCALARS), base, offset, op.LOAD_ACQ)
    elif chance < 0.2:
        build.emit(op.STX | op.ATOMIC | width, base, rng.choice(SCALARS), offset, op.STORE_REL)
    else:
        build.emit(
            op.STX | op.ATOMIC | width, base, rng.choice(SCALARS), offset, rng.choice(_ATOMICS)
        )


def _condition(build: Builder, to: str) -> None:
    rng = build.rng
    opcode = rng.choice((op.JMP, op.JMP32)) | rng.choice(_JUMPS)
    if rng.random() < 0.5:
        build.emit(opcode | op.X, rng.choice(SCALARS), rng.choice(SCALARS), to=to)
    else:
        build.emit(opcode, rng.choice(SCALARS), imm=build.number(), to=to)


def _branch(build: Builder, functions: list[str], callbacks: list[str], depth: int) -> None:
    other, end = build.label(), build.label()
    _condition(build, other)
    for _ in range(build.rng.randint(1, 3)):
        _piece(build, functions, callbacks, depth + 1)
    both = build.rng.random() < 0.4
    if both:
        build.emit(build.rng.choice((op.GOTO, op.GOTOL)), to=end)
    build.place(other)
    if both:
        _piece(build, functions, callbacks, depth + 1)
    build.place(end)


def _loop(build: Builder, functions: list[str], callbacks: list[str], depth: int) -> None:
    """A counter on the stack, because everything else may be changed by the body."""
    place = -STACK_USED - 16 - 8 * depth
    again = build.label()
    build.emit(op.ST | op.MEM | op.DW, FRAME, 0, place, build.rng.randint(1, 6))
    build.place(again)
    for _ in range(build.rng.randint(1, 2)):
        if build.rng.random() < 0.7:
            _arithmetic(build)
        else:
            _access(build)
    build.emit(op.LDX | op.MEM | op.DW, 5, FRAME, place)
    build.emit(op.ALU64 | op.ADD, 5, imm=-1)
    build.emit(op.STX | op.MEM | op.DW, FRAME, 5, place)
    build.emit(op.JMP | op.JNE, 5, to=again)


def _map_call(build: Builder) -> None:
    """Update, delete or look up the hash table with a key and a value on the stack."""
    rng = build.rng
    which = rng.choice((1, 2, 2, 3))
    build.emit(op.ST | op.MEM | op.W, FRAME, 0, -STACK_USED - 8, rng.randrange(12))
    build.wide(1, op.PSEUDO_MAP_IDX, TABLE)
    build.move(2, FRAME)
    build.emit(op.ALU64 | op.ADD, 2, imm=-STACK_USED - 8)
    if which == 2:
        build.move(3, FRAME)
        build.emit(op.ALU64 | op.ADD, 3, imm=-STACK_USED)
        build.set(4, rng.randrange(3))
    build.emit(op.CALL_IMM, imm=which)
    if which == 1:
        end = build.label()
        build.emit(op.JMP | op.JEQ, 0, to=end)
        build.emit(op.LDX | op.MEM | op.DW, 0, 0, rng.choice((0, 8)))
        build.place(end)
    build.fill(SCALARS[1:])


def _bpf_loop(build: Builder, callbacks: list[str]) -> None:
    """bpf_loop over a callback that works on this frame."""
    name = f"callback{len(callbacks)}"
    callbacks.append(name)
    build.set(1, build.rng.randint(0, 9))
    build.wide(2, op.PSEUDO_FUNC, 0, to=name)
    build.move(3, FRAME)
    build.emit(op.ALU64 | op.ADD, 3, imm=-STACK_USED)
    build.set(4, 0)
    build.emit(op.CALL_IMM, imm=181)
    build.fill(SCALARS[1:])


def _callback(build: Builder, name: str) -> None:
    """r1 = round, r2 = the caller's stack; stops after a random round."""
    build.place(name)
    place = 8 * build.rng.randrange(STACK_USED // 8)
    build.emit(op.LDX | op.MEM | op.DW, 3, 2, place)
    build.emit(op.ALU64 | op.MUL, 3, imm=build.number() | 1)
    build.emit(op.ALU64 | op.ADD | op.X, 3, 1)
    build.emit(op.STX | op.MEM | op.DW, 2, 3, place)
    build.set(0, 0)
    stay = build.label()
    build.emit(op.JMP | op.JNE, 1, imm=build.rng.randrange(12), to=stay)
    build.set(0, 1)
    build.place(stay)
    build.emit(op.EXIT_OP)


def _subprogram(build: Builder, name: str) -> None:
    """Scalars in, a scalar out, with its own stack."""
    build.place(name)
    build.set(0, build.number())
    build.emit(op.STX | op.MEM | op.DW, FRAME, build.rng.randint(1, 5), -8)
    for _ in range(build.rng.randint(1, 8)):
        _arithmetic(build, SCALARS)
    build.emit(op.LDX | op.MEM | op.DW, 3, FRAME, -8)
    build.emit(op.ALU64 | op.XOR | op.X, 0, 3)
    build.emit(op.EXIT_OP)
