"""Calls, callbacks, tail calls, budgets: what ends a run early and what comes back."""

from __future__ import annotations

import ctypes

import pytest
from jit_runs import HELPER, VARIANTS, execute

from workbench.errors import BadSpec, MissingCapability
from workbench.objects.linked import LinkedMap
from workbench.runtime.isa import Instruction, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.assembler import assemble
from workbench.runtime.jit import compile_program
from workbench.runtime.jit.layout import MAX_LOOPS, RUN

variants = pytest.mark.parametrize(("tier", "vectors"), VARIANTS)


def mov(register, value):
    return Instruction(op.ALU64 | op.MOV, register, imm=value)


def copy(to, source):
    return Instruction(op.ALU64 | op.MOV | op.X, to, source)


def add(to, source):
    return Instruction(op.ALU64 | op.ADD | op.X, to, source)


def callback(register, slots):
    return Instruction(op.LD_IMM64, register, op.PSEUDO_FUNC, 0, slots, slots & 0xFFFFFFFF)


def helper(number):
    return Instruction(op.CALL_IMM, imm=number)


def local(slots):
    return Instruction(op.CALL_IMM, src=op.CALL_LOCAL, imm=slots)


def goto(slots):
    return Instruction(op.GOTO, offset=slots)


EXIT = Instruction(op.EXIT_OP)


@variants
def test_endless_loop_stops_when_the_budget_is_used_up(tier, vectors):
    code = encode([mov(0, 7), Instruction(op.ALU64 | op.ADD, 0, imm=1), goto(-2), EXIT])
    ran = execute(code, tier=tier, vectors=vectors, budget=1000)
    assert (ran.r0, ran.stopped, ran.budget) == (0, 1, 0)


@variants
def test_a_loop_within_the_budget_is_counted_exactly(tier, vectors):
    loop = [mov(0, 100), Instruction(op.ALU64 | op.SUB, 0, imm=1)]
    loop += [Instruction(op.JMP | op.JNE, 0, 0, -2, 0), EXIT]
    ran = execute(encode(loop), tier=tier, vectors=vectors, budget=1000)
    assert (ran.r0, ran.stopped, ran.budget) == (0, 0, 1000 - 99)
    assert execute(encode(loop), tier=tier, vectors=vectors, budget=99).stopped == 0
    assert execute(encode(loop), tier=tier, vectors=vectors, budget=98).stopped == 1


@variants
def test_every_frame_returns_when_a_function_was_stopped(tier, vectors):
    """Two calls deep; the callers would store to memory that the test looks at, were they to go on."""
    memory = (ctypes.c_uint64 * 1)()
    code = encode(
        [
            copy(6, 1),
            local(3),
            Instruction(op.ST | op.MEM | op.DW, 6, 0, 0, 1),
            mov(0, 5),
            EXIT,
            local(2),  # first function
            mov(0, 6),
            EXIT,
            goto(-1),  # second function
        ]
    )
    ran = execute(code, tier=tier, vectors=vectors, ctx=ctypes.addressof(memory))
    assert (ran.r0, ran.stopped, memory[0]) == (0, 1, 0)


@variants
def test_may_goto_leaves_its_loop_and_the_program_goes_on(tier, vectors):
    loop = [mov(0, 0), Instruction(op.MAY_GOTO, offset=2)]
    loop += [Instruction(op.ALU64 | op.ADD, 0, imm=1), goto(-3), EXIT]
    # The backward jump is known to be bounded: only may_goto counts.
    ran = execute(encode(loop), tier=tier, vectors=vectors, budget=500, verdict=bounded(len(loop)))
    assert (ran.r0, ran.stopped, ran.budget) == (500, 0, 0)


def bounded(slots, unbounded=()):
    import numpy as np

    from workbench.runtime.verifier.kinds import NUMBER
    from workbench.runtime.verifier.verdict import Verdict

    kinds = np.full((slots, 11), NUMBER, np.uint8)
    return Verdict("test", kinds, np.zeros((slots, 11), np.int32), frozenset(unbounded))


@variants
def test_only_unbounded_jumps_count_once_verified(tier, vectors):
    loop = [mov(0, 100), Instruction(op.ALU64 | op.SUB, 0, imm=1)]
    loop += [Instruction(op.JMP | op.JNE, 0, 0, -2, 0), EXIT]
    free = execute(encode(loop), tier=tier, vectors=vectors, budget=10, verdict=bounded(4))
    assert (free.r0, free.stopped, free.budget) == (0, 0, 10)
    counted = execute(encode(loop), tier=tier, vectors=vectors, budget=10, verdict=bounded(4, {2}))
    assert counted.stopped == 1


def bpf_loop(end: int, *, through_table: bool = False) -> bytes:
    """bpf_loop(r2, callback, &sum, 0); the callback adds its index and returns 1 at `end`. r0 = result << 32 | sum."""
    head = [
        copy(1, 2),
        callback(2, 0),  # where to, below
        copy(3, 10),
        Instruction(op.ALU64 | op.ADD, 3, imm=-8),
        Instruction(op.ST | op.MEM | op.DW, 10, 0, -8, 0),
        mov(4, 0),
    ]
    if through_table:  # the callback's address by way of memory: nobody can know it when compiling
        head += [
            Instruction(op.STX | op.MEM | op.DW, 10, 2, -16),
            Instruction(op.LDX | op.MEM | op.DW, 2, 10, -16),
        ]
    tail = [
        helper(181),
        Instruction(op.LDX | op.MEM | op.DW, 6, 10, -8),
        Instruction(op.ALU64 | op.LSH, 0, imm=32),
        Instruction(op.ALU64 | op.OR | op.X, 0, 6),
        EXIT,
    ]
    function = [
        Instruction(op.LDX | op.MEM | op.DW, 3, 2, 0),
        add(3, 1),
        Instruction(op.STX | op.MEM | op.DW, 2, 3, 0),
        mov(0, 0),
        Instruction(op.JMP | op.JNE, 1, 0, 1, end),
        mov(0, 1),
        EXIT,
    ]
    before = sum(one.slots for one in [*head, *tail])
    place = 1  # slot of the callback's LD_IMM64
    head[1] = callback(2, before - place - 1)
    return encode([*head, *tail, *function])


@variants
@pytest.mark.parametrize("through_table", [False, True])
def test_bpf_loop(tier, vectors, through_table):
    code = bpf_loop(1 << 30, through_table=through_table)

    def run(rounds, budget=1 << 20):
        return execute(code, tier=tier, vectors=vectors, second=rounds, budget=budget)

    assert run(10).r0 == 10 << 32 | 45
    assert run(0).r0 == 0
    assert run(10).budget in (
        (1 << 20) - 10,
        (1 << 20) - 20,
    )  # by the table: helper and callback count
    assert run(MAX_LOOPS + 1).r0 == ((-7 << 32) & (1 << 64) - 1)
    short = run(1000, budget=100)
    assert (short.r0, short.stopped) == (0, 1)
    stops = execute(bpf_loop(3, through_table=through_table), tier=tier, second=10)
    assert stops.r0 == 4 << 32 | 6


@variants
def test_helpers_get_five_arguments_and_give_r0(tier, vectors):
    seen = []

    @HELPER
    def sum_of(run, *arguments):
        seen.append(arguments)
        return sum(arguments) & (1 << 64) - 1

    code = encode([*(mov(r, r * -11) for r in range(1, 6)), helper(400), EXIT])
    ran = execute(code, tier=tier, vectors=vectors, helpers={400: sum_of})
    assert ran.r0 == (-11 * 15) & (1 << 64) - 1
    assert [x - (1 << 64) for x in seen[0]] == [-11, -22, -33, -44, -55]


@variants
def test_callx_calls_a_helper_by_number_and_survives_nonsense(tier, vectors):
    @HELPER
    def forty_two(run, *arguments):
        return 42

    code = assemble("mov %r3, %r2\ncall %r3\nexit")
    for number, expected in ((400, 42), (401, 0), (512, 0), (1 << 40, 0)):
        ran = execute(code, tier=tier, vectors=vectors, helpers={400: forty_two}, second=number)
        assert ran.r0 == expected


@variants
def test_tail_call_does_not_return(tier, vectors):
    entered = []

    @HELPER
    def other_program(ctx, run, *rest):
        entered.append(ctx)
        return 77

    @HELPER
    def tail_call(run, ctx, array, index, *rest):
        ctypes.c_uint64.from_address(run + RUN["maps"]).value = 0xDEAD
        return ctypes.cast(other_program, ctypes.c_void_p).value if index == 3 else 0

    shape = LinkedMap("programs", 3, 4, 4, 8)
    code = encode(
        [
            copy(3, 2),
            Instruction(op.LD_IMM64, 2, op.PSEUDO_MAP_IDX, 0, 0),
            helper(12),
            mov(0, 1),
            EXIT,
        ]
    )
    options = {"tier": tier, "vectors": vectors, "helpers": {12: tail_call}, "shapes": [shape]}
    assert execute(code, second=3, handles=[0x1000], ctx=0x77, **options).r0 == 77
    assert entered == [0x77]
    assert execute(code, second=2, handles=[0x1000], **options).r0 == 1


def test_recursion_is_refused():
    with pytest.raises(BadSpec, match="calls itself"):
        execute(encode([local(-1), EXIT]))


def test_code_that_runs_past_its_end_is_refused():
    with pytest.raises(BadSpec, match="past its last instruction"):
        execute(encode([mov(0, 1)]))


def test_a_kernel_function_is_refused_by_slot():
    code = encode([Instruction(op.CALL_IMM, 0, op.CALL_KFUNC, 0, 5), EXIT])
    with pytest.raises(MissingCapability, match="slot 0 calls a kernel function"):
        execute(code)


def test_an_unknown_tier_is_refused():
    from workbench.objects.linked import LinkedProgram

    program = LinkedProgram("p", "", "syscall", encode([mov(0, 1), EXIT]), ())
    with pytest.raises(BadSpec, match="no tier 'fast'"):
        compile_program(program, (), tier="fast")


@variants
def test_packet_loads_are_big_endian_and_end_the_program_outside(tier, vectors):
    packet = (ctypes.c_uint8 * 16)(*range(0x10, 0x20))
    start = ctypes.addressof(packet)
    context = (ctypes.c_uint64 * 2)(start, start + 16)

    def load(mode, size, imm, index=0):
        code = [
            copy(6, 1),
            copy(7, 2),
            Instruction(op.LD | mode | size, 0, 7 if mode == op.IND else 0, 0, imm),
            Instruction(op.ALU64 | op.ADD, 0, imm=1),
            EXIT,
        ]
        given = {"tier": tier, "vectors": vectors, "ctx": ctypes.addressof(context)}
        return execute(encode(code), second=index, **given).r0

    assert load(op.ABS, op.B, 3) == 0x13 + 1
    assert load(op.ABS, op.H, 4) == 0x1415 + 1
    assert load(op.ABS, op.W, 12) == 0x1C1D1E1F + 1
    assert load(op.ABS, op.W, 13) == 0
    assert load(op.ABS, op.B, 16) == 0
    assert load(op.ABS, op.B, -1) == 0
    assert load(op.IND, op.H, 2, 3) == 0x1516 + 1
    assert load(op.IND, op.H, 2, 13) == 0
    assert load(op.IND, op.W, 2, (1 << 64) - 2) == 0x10111213 + 1


@variants
def test_clearing_the_stack_needs_no_library(tier, vectors):
    """512 bytes of zeros, then copied: what LLVM would like to call memset and memcpy for."""

    @HELPER
    def total(run, address, *rest):
        return sum((ctypes.c_uint64 * 32).from_address(address)) & (1 << 64) - 1

    code = [Instruction(op.ST | op.MEM | op.DW, 10, 0, -8 * (k + 1), 0) for k in range(64)]
    code += [Instruction(op.LDX | op.MEM | op.DW, 3, 1, 0)]
    code += [Instruction(op.STX | op.MEM | op.DW, 10, 3, -512)]
    for k in range(32):
        code.append(Instruction(op.LDX | op.MEM | op.DW, 3, 10, -512 + 8 * k))
        code.append(Instruction(op.STX | op.MEM | op.DW, 10, 3, -256 + 8 * k))
    code += [copy(1, 10), Instruction(op.ALU64 | op.ADD, 1, imm=-256), helper(400), EXIT]
    value = ctypes.c_uint64(77)
    given = {"tier": tier, "vectors": vectors, "helpers": {400: total}}
    assert execute(encode(code), ctx=ctypes.addressof(value), **given).r0 == 77


@variants
def test_a_copying_loop_needs_no_library(tier, vectors):
    source = (ctypes.c_uint8 * 4096)(*([1, 2, 3, 4] * 512), *[0] * 2048)
    code = assemble(
        """
        mov %r2, %r1
        add %r2, 2048
        mov %r3, 0
        loop:
        ldxb %r4, [%r1]
        stxb [%r2], %r4
        add %r1, 1
        add %r2, 1
        add %r3, 1
        jlt %r3, 2048, loop
        mov %r0, %r3
        exit
        """
    )
    verdict = bounded(len(code) // 8)
    address = ctypes.addressof(source)
    ran = execute(code, tier=tier, vectors=vectors, ctx=address, verdict=verdict)
    assert ran.r0 == 2048
    assert bytes(source)[2048:] == bytes([1, 2, 3, 4] * 512)


@variants
def test_loads_through_kernel_addresses_are_fault_safe(tier, vectors):
    """The verifier's kind `probed`: the load goes through bpf_probe_read_kernel, which gives 0 for a bad address."""
    from workbench.runtime.verifier.kinds import PROBED

    asked = []

    @HELPER
    def probe_read_kernel(run, to, size, address, *rest):
        asked.append((size, address))
        ctypes.memmove(to, (0x1122334455667788).to_bytes(8, "little"), size)
        return 0

    for size, opcode, expected in (
        (8, op.LDX | op.MEM | op.DW, 0x1122334455667788),
        (4, op.LDX | op.MEM | op.W, 0x55667788),
        (1, op.LDX | op.MEM | op.B, 0x88),
        (1, op.LDX | op.MEMSX | op.B, 0xFFFFFFFFFFFFFF88),
    ):
        code = encode([Instruction(opcode, 0, 2, 16), EXIT])
        verdict = bounded(2)
        verdict.kinds[0, 2] = PROBED
        given = {"tier": tier, "vectors": vectors, "helpers": {113: probe_read_kernel}}
        assert execute(code, second=0xDEAD0000, verdict=verdict, **given).r0 == expected
        assert asked.pop() == (size, 0xDEAD0010)
