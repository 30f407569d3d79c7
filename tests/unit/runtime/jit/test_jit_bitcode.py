"""Inlined helpers do what the table's do; without usable bitcode everything works all the same."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest
from test_jit_program import execute

from workbench.native.bitcode import clang
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.isa import Instruction, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit import Program, bitcode
from workbench.runtime.jit import compile as compiling
from workbench.runtime.maps import Space, current_run

needs_clang = pytest.mark.needs("clang")
STRNCMP, PID_TGID, SET_RETVAL, GET_RETVAL, RANDOM = 182, 14, 187, 186, 7


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "namespaces"))


def calling(*instructions, maps=()):
    return LinkedProgram("p", "syscall", "syscall", encode(instructions), ())


def mov(register, value):
    return Instruction(op.ALU64 | op.MOV, register, imm=value)


def helper(number):
    return Instruction(op.CALL_IMM, imm=number)


EXIT = Instruction(op.EXIT_OP)
TEXTS = LinkedMap(".rodata", 2, 4, 16, 1, initial=b"edge\0......", read_only=True)


def compare():
    """strncmp(ctx, 8, "edge")"""
    return calling(
        mov(2, 8),
        Instruction(op.LD_IMM64, 3, op.PSEUDO_MAP_IDX_VALUE, 0, 0),
        helper(STRNCMP),
        EXIT,
    )


@needs_clang
def test_bitcode_was_built_for_all_that_is_inlined():
    assert clang()
    wanted = {one.file for one in (*bitcode.HELPERS.values(), *bitcode.LOOKUPS.values())}
    assert wanted <= bitcode.available()


@pytest.mark.parametrize("tier", ["quick", "optimised"])
def test_helpers_of_both_tiers(tier):
    with Space(None) as space:
        run = current_run(space)
        texts = space.create(TEXTS)
        one = Program(compare(), [TEXTS], [texts]).start(tier)
        for text, expected in ((b"edge", 0), (b"edgf", 1), (b"edg", -1), (b"wedge", 1)):
            buffer = ctypes.create_string_buffer(text, 8)
            assert execute(one, run, ctypes.addressof(buffer)) == expected & (1 << 64) - 1
        ids = Program(calling(helper(PID_TGID), EXIT)).start(tier)
        assert execute(ids, run) == os.getpid() << 32 | threading.get_native_id()
        changed = Program(calling(mov(1, -5), helper(SET_RETVAL), helper(GET_RETVAL), EXIT)).start(
            tier
        )
        assert execute(changed, run) == (1 << 64) - 5
        random = Program(calling(helper(RANDOM), EXIT)).start(tier)
        numbers = {execute(random, run) for _ in range(50)}
        assert len(numbers) > 40
        assert max(numbers) < 1 << 32


@needs_clang
def test_an_inlined_helper_is_not_called_through_the_table():
    program = calling(helper(GET_RETVAL), EXIT)
    with Space(None) as space:
        run = current_run(space)
        one = Program(program).start("optimised")
        empty = (ctypes.c_uint64 * 512)()
        entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(one.entry)
        before = ctypes.c_uint64.from_address(run + 8).value
        ctypes.c_uint64.from_address(run + 8).value = ctypes.addressof(empty)
        try:
            assert entry(0, run) == ctypes.c_uint64.from_address(run + 96).value
        finally:
            ctypes.c_uint64.from_address(run + 8).value = before


@needs_clang
def test_a_ring_s_usual_record_is_made_without_a_call():
    reserve, submit, output = 131, 132, 130
    shape = LinkedMap("ring", 27, 0, 0, 1 << 16)
    ring = Instruction(op.LD_IMM64, 1, op.PSEUDO_MAP_IDX, 0, 0)
    program = calling(
        *(ring, mov(2, 8), mov(3, 0), helper(reserve)),
        Instruction(op.JMP | op.JEQ, 0, offset=4),
        Instruction(op.ST | op.MEM | op.DW, 0, offset=0, imm=7),
        *(Instruction(op.ALU64 | op.MOV | op.X, 1, 0), mov(2, 0), helper(submit)),
        Instruction(op.ST | op.MEM | op.DW, 10, offset=-8, imm=8),
        *(ring, Instruction(op.ALU64 | op.MOV | op.X, 2, 10)),
        Instruction(op.ALU64 | op.ADD, 2, imm=-8),
        *(mov(3, 8), mov(4, 0), helper(output), EXIT),
    )
    with Space(None) as space:
        run = current_run(space)
        made = space.create(shape)
        one = Program(program, [shape], [made]).start("optimised")
        for _ in range(300):  # the ring's bias is this thread's then
            assert execute(one, run) == 0
        before = made.waiting
        empty = (ctypes.c_uint64 * 512)()
        entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(one.entry)
        table = ctypes.c_uint64.from_address(run + 8)
        helpers, table.value = table.value, ctypes.addressof(empty)
        try:
            for _ in range(100):
                assert entry(0, run) == 0
        finally:
            table.value = helpers
        assert made.waiting == before + 100 * 2 * 16
        while execute(one, run) == 0:  # full: the table's helpers refuse and count
            assert made.waiting < 1 << 16
        assert made.dropped in (1, 2)


@pytest.mark.parametrize("damage", ["garbage", "empty"])
def test_unusable_bitcode_is_done_without(monkeypatch, damage):
    asked = []

    def damaged(name):
        asked.append(name)
        return b"BC\xc0\xdegarbage garbage" if damage == "garbage" else b""

    monkeypatch.setattr(compiling, "module", damaged)
    with Space(None) as space:
        run = current_run(space)
        one = Program(calling(helper(PID_TGID), EXIT), cached=False).start("optimised")
        assert execute(one, run) >> 32 == os.getpid()
    assert bool(asked) == bool(bitcode.available())
