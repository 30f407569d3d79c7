"""Random programs give the same in the interpreter and in both tiers, with and without vector registers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.runtime.isa import Instruction, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit import run_raw
from workbench.runtime.once import run_interpreted

SETTINGS = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
EDGES = (0, 1, 2, -1, 31, 32, 63, 64, 255, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 63, (1 << 63) - 1)
WIDE = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1)).map(lambda x: x & 2**64 - 1)
IMM = st.one_of(
    st.sampled_from((0, 1, -1, 2, 31, 32, 63, 64, -(1 << 31), (1 << 31) - 1)),
    st.integers(-(2**31), 2**31 - 1),
)
REGISTER = st.integers(0, 9)
KIND = st.sampled_from((op.ALU, op.ALU64))
BINARY = (op.ADD, op.SUB, op.MUL, op.OR, op.AND, op.LSH, op.RSH, op.XOR, op.MOV, op.ARSH)
JUMPS = (op.JEQ, op.JGT, op.JGE, op.JSET, op.JNE, op.JSGT)
JUMPS += (op.JSGE, op.JLT, op.JLE, op.JSLT, op.JSLE)


def wide(register: int, value: int) -> Instruction:
    low = value & 0xFFFFFFFF
    return Instruction(op.LD_IMM64, register, 0, 0, low - (1 << 32) if low >> 31 else low, value)


def arithmetic(registers: st.SearchStrategy[int] = REGISTER) -> st.SearchStrategy[Instruction]:
    """Every arithmetic instruction."""
    make, both = st.builds, st.sampled_from((op.DIV, op.MOD))
    return st.one_of(
        make(
            lambda k, o, d, i: Instruction(k | o, d, 0, 0, i),
            KIND,
            st.sampled_from(BINARY),
            registers,
            IMM,
        ),
        make(
            lambda k, o, d, s: Instruction(k | o | op.X, d, s),
            KIND,
            st.sampled_from(BINARY),
            registers,
            registers,
        ),
        make(
            lambda k, o, d, s, w: Instruction(k | o | op.X, d, s, w),
            KIND,
            both,
            registers,
            registers,
            st.integers(0, 1),
        ),
        make(
            lambda k, o, d, w, i: Instruction(k | o, d, 0, w, i),
            KIND,
            both,
            registers,
            st.integers(0, 1),
            IMM,
        ),
        make(
            lambda k, d, s, b: Instruction(k | op.MOV | op.X, d, s, b),
            KIND,
            registers,
            registers,
            st.sampled_from((8, 16)),
        ),
        make(lambda d, s: Instruction(op.ALU64 | op.MOV | op.X, d, s, 32), registers, registers),
        make(lambda k, d: Instruction(k | op.NEG, d), KIND, registers),
        make(
            lambda o, d, b: Instruction(o, d, imm=b),
            st.sampled_from((op.ALU | op.END, op.ALU | op.END | op.X, op.ALU64 | op.END)),
            registers,
            st.sampled_from((16, 32, 64)),
        ),
    )


def gather() -> list[Instruction]:
    """All registers into r0."""
    found = []
    for register in range(1, 10):
        found.append(Instruction(op.ALU64 | op.MUL, 0, imm=31))
        found.append(Instruction(op.ALU64 | op.XOR | op.X, 0, register))
    return [*found, Instruction(op.EXIT_OP)]


def begin(values: list[int]) -> list[Instruction]:
    return [wide(register, value) for register, value in enumerate(values)]


def same(code: bytes, memory: bytes = b"") -> None:
    expected_memory = bytearray(memory)
    expected = run_interpreted(code, memory)
    for tier, vectors in (("quick", False), ("optimised", False), ("optimised", True)):
        block = bytearray(memory)
        assert run_raw(code, block, tier, vectors=vectors) == expected, tier
        if memory:
            if tier == "quick":
                expected_memory = block
            assert block == expected_memory


@SETTINGS
@given(st.lists(WIDE, min_size=10, max_size=10), st.lists(arithmetic(), min_size=20, max_size=60))
def test_arithmetic(values, body):
    same(encode([*begin(values), *body, *gather()]))


def jump() -> st.SearchStrategy[Instruction]:
    make, width = st.builds, st.sampled_from((op.JMP, op.JMP32))
    any_of, ahead = st.sampled_from(JUMPS), st.integers(0, 5)
    return st.one_of(
        make(
            lambda w, j, d, i, o: Instruction(w | j, d, 0, o, i),
            width,
            any_of,
            REGISTER,
            IMM,
            ahead,
        ),
        make(
            lambda w, j, d, s, o: Instruction(w | j | op.X, d, s, o),
            width,
            any_of,
            REGISTER,
            REGISTER,
            ahead,
        ),
        make(lambda o: Instruction(op.GOTO, offset=o), ahead),
        make(lambda o: Instruction(op.GOTOL, imm=o), ahead),
        make(lambda o: Instruction(op.MAY_GOTO, offset=o), ahead),
    )


@SETTINGS
@given(
    st.lists(WIDE, min_size=10, max_size=10),
    st.lists(st.one_of(jump(), arithmetic()), min_size=10, max_size=60),
)
def test_jumps_forward(values, body):
    pad = [Instruction(op.ALU64 | op.ADD, 0, imm=1)] * 5
    same(encode([*begin(values), *body, *pad, *gather()]))


@SETTINGS
@given(
    st.lists(WIDE, min_size=10, max_size=10),
    st.lists(arithmetic(st.integers(0, 8)), min_size=1, max_size=8),
    st.lists(st.one_of(jump(), arithmetic(st.integers(0, 8))), min_size=1, max_size=8),
    st.integers(1, 9),
)
def test_loops(values, before, body, rounds):
    """r9 counts down; jumps inside the body stay inside."""
    body = [one for one in body if one.dst != 9 or one.is_jump]
    pad = [Instruction(op.ALU64 | op.ADD, 0, imm=1)] * 5
    inner = [*body, *pad, Instruction(op.ALU64 | op.SUB, 9, imm=1)]
    back = Instruction(op.JMP | op.JNE, 9, 0, -(len(inner) + 1), 0)
    set_counter = Instruction(op.ALU64 | op.MOV, 9, imm=rounds)
    same(encode([*begin(values), *before, set_counter, *inner, back, *gather()]))


SIZE = st.sampled_from((op.B, op.H, op.W, op.DW))
BYTES = {op.B: 1, op.H: 2, op.W: 4, op.DW: 8}
PLACE = st.integers(0, 7)
VALUE = st.integers(1, 5)  # registers that hold numbers; r6 is the memory, r10 the stack
BASE = st.sampled_from((6, 10))


def at(base: int, size: int, place: int, part: int) -> int:
    """A naturally aligned offset within eight words of memory (r6) or stack (r10)."""
    offset = 8 * place + part // BYTES[size] * BYTES[size]
    return offset if base == 6 else offset - 64


def memory_access() -> st.SearchStrategy[Instruction]:
    make, part = st.builds, st.integers(0, 7)
    atomics = st.sampled_from(
        [o | f for o in (op.ADD, op.OR, op.AND, op.XOR) for f in (0, op.FETCH)]
        + [op.XCHG, op.CMPXCHG]
    )
    return st.one_of(
        make(
            lambda z, d, b, p, q: Instruction(op.LDX | op.MEM | z, d, b, at(b, z, p, q)),
            SIZE,
            VALUE,
            BASE,
            PLACE,
            part,
        ),
        make(
            lambda z, d, b, p, q: Instruction(op.LDX | op.MEMSX | z, d, b, at(b, z, p, q)),
            st.sampled_from((op.B, op.H, op.W)),
            VALUE,
            BASE,
            PLACE,
            part,
        ),
        make(
            lambda z, b, s, p, q: Instruction(op.STX | op.MEM | z, b, s, at(b, z, p, q)),
            SIZE,
            BASE,
            VALUE,
            PLACE,
            part,
        ),
        make(
            lambda z, b, i, p, q: Instruction(op.ST | op.MEM | z, b, 0, at(b, z, p, q), i),
            SIZE,
            BASE,
            IMM,
            PLACE,
            part,
        ),
        make(
            lambda z, b, s, a, p, q: Instruction(op.STX | op.ATOMIC | z, b, s, at(b, z, p, q), a),
            st.sampled_from((op.W, op.DW)),
            BASE,
            VALUE,
            atomics,
            PLACE,
            part,
        ),
        make(
            lambda z, b, s, p, q: Instruction(
                op.STX | op.ATOMIC | z, b, s, at(b, z, p, q), op.STORE_REL
            ),
            SIZE,
            BASE,
            VALUE,
            PLACE,
            part,
        ),
        make(
            lambda z, d, b, p, q: Instruction(
                op.STX | op.ATOMIC | z, d, b, at(b, z, p, q), op.LOAD_ACQ
            ),
            SIZE,
            VALUE,
            BASE,
            PLACE,
            part,
        ),
    )


@SETTINGS
@given(
    st.lists(WIDE, min_size=10, max_size=10),
    st.lists(st.one_of(memory_access(), arithmetic(VALUE)), min_size=10, max_size=50),
    st.binary(min_size=64, max_size=64),
)
def test_memory(values, body, memory):
    head = [Instruction(op.ALU64 | op.MOV | op.X, 6, 1)]
    head += [Instruction(op.ST | op.MEM | op.DW, 10, 0, -8 * (k + 1), k * 77) for k in range(8)]
    head += begin(values[:6])
    tail = [Instruction(op.LDX | op.MEM | op.DW, 6, 6, 8)]
    tail += [wide(register, 0) for register in (7, 8, 9)]
    same(encode([*head, *body, *tail, *gather()]), memory)
