"""Programs with maps of a namespace; better code is swapped in while they run."""

from __future__ import annotations

import ctypes
import os
import threading

import numpy as np
import pytest

from workbench.errors import BadSpec, RunFailed
from workbench.native.library import load as core
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.isa import Instruction, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.assembler import assemble
from workbench.runtime.jit import Program, background
from workbench.runtime.jit import program as programs
from workbench.runtime.maps import Space, current_run

ARRAY, PERCPU_ARRAY, HASH, PERCPU_HASH, LRU = 2, 6, 1, 5, 9


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "namespaces"))


def count_program(key_size: int) -> bytes:
    """Looks the key at ctx up in map 0, adds 1 to the value; r0 = 1 when it was there."""
    size = {4: op.W, 8: op.DW, 16: op.DW}[key_size]
    key = [
        Instruction(op.LDX | op.MEM | size, 3, 1, at) if not turn
        else Instruction(op.STX | op.MEM | size, 10, 3, -16 + at)
        for at in range(0, key_size, min(key_size, 8))
        for turn in (0, 1)
    ]  # fmt: skip
    return encode(
        [
            *key,
            Instruction(op.ALU64 | op.MOV | op.X, 2, 10),
            Instruction(op.ALU64 | op.ADD, 2, imm=-16),
            Instruction(op.LD_IMM64, 1, op.PSEUDO_MAP_IDX, 0, 0),
            Instruction(op.CALL_IMM, imm=1),
            Instruction(op.JMP | op.JEQ, 0, 0, 4, 0),
            Instruction(op.LDX | op.MEM | op.DW, 1, 0, 0),
            Instruction(op.ALU64 | op.ADD, 1, imm=1),
            Instruction(op.STX | op.MEM | op.DW, 0, 1, 0),
            Instruction(op.ALU64 | op.MOV, 0, imm=1),
            Instruction(op.EXIT_OP),
        ]
    )


def execute(program: Program, run: int, ctx: int = 0) -> int:
    function = core().wb_execute
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = ctypes.c_uint64
    return int(function(program.address, ctx, run))


@pytest.mark.parametrize("tier", ["quick", "optimised"])
@pytest.mark.parametrize(
    ("kind", "key_size"),
    [(ARRAY, 4), (PERCPU_ARRAY, 4), (HASH, 4), (HASH, 8), (HASH, 16), (PERCPU_HASH, 8), (LRU, 8)],
)
def test_lookups_of_every_inlined_kind(kind, key_size, tier):
    shape = LinkedMap("counts", kind, key_size, 8, 5)
    code = LinkedProgram("count", "syscall", "syscall", count_program(key_size), ())
    with Space(None) as space:
        one = space.create(shape)
        keys = [number.to_bytes(key_size, "little") for number in range(8)]
        for key in keys[:5:2]:
            one[key] = np.full(one.cpus, 10, "<u8").tobytes()
        program = Program(code, [shape], [one]).start(tier)
        run = current_run(space)
        found = [
            execute(program, run, ctypes.addressof(ctypes.create_string_buffer(key, key_size)))
            for key in keys
            for _ in range(2)
        ][::2]
        array = kind in (ARRAY, PERCPU_ARRAY)
        there = [number < 5 if array else number in (0, 2, 4) for number in range(8)]
        assert found == list(map(int, there))
        for number, key in enumerate(keys[:5]):
            if there[number]:
                before = 10 if number % 2 == 0 else 0
                values = np.frombuffer(np.asarray(one.lookup(key)).tobytes(), "<u8")
                assert values.max() == before + 2
                assert list(values).count(before + 2) == 1
                assert set(values.tolist()) <= {before, before + 2}
        program.close()


LOOP = LinkedProgram(
    "loop",
    "syscall",
    "syscall",
    assemble("mov %r0, 0\nmov %r1, 1000\nadd %r0, %r1\nsub %r1, 1\njne %r1, 0, -3\nexit"),
    (),
)


def test_quick_code_first_then_optimised_while_it_runs():
    began = threading.Event()
    go_on = threading.Event()
    background.submit(lambda: (began.set(), go_on.wait(60)))
    assert began.wait(60)
    program = Program(LOOP).start()
    assert program.tier == "quick"
    quick = program.entry
    with Space(None) as space:
        run = current_run(space)
        assert execute(program, run) == 500500
        with pytest.raises(RunFailed, match="quick code"):
            program.wait(timeout=0)
        results = set()

        def keep_running():
            mine = current_run(space)
            while not stop.is_set():
                results.add(execute(program, mine))

        stop = threading.Event()
        threads = [threading.Thread(target=keep_running) for _ in range(2)]
        for thread in threads:
            thread.start()
        go_on.set()
        program.wait("optimised", timeout=60)
        assert program.entry != quick
        assert execute(program, run) == 500500
        stop.set()
        for thread in threads:
            thread.join()
        assert results <= {500500}
    program.close()


def test_optimised_code_from_the_cache_is_used_at_once():
    Program(LOOP).start().wait(timeout=60).close()
    again = Program(LOOP).start()
    assert again.tier == "optimised"
    again.close()


def test_an_error_in_the_background_is_raised_where_it_is_waited_for(monkeypatch):
    real = programs.compile_program

    def fail(*arguments, **options):
        if options["tier"] == "optimised":
            raise BadSpec("the optimiser is ill")
        return real(*arguments, **options)

    monkeypatch.setattr(programs, "compile_program", fail)
    program = Program(LOOP).start()
    with pytest.raises(BadSpec, match="the optimiser is ill"):
        program.wait(timeout=60)
    assert program.tier == "quick"
    program.close()


def test_the_budget_of_a_program_ends_its_run():
    endless = LinkedProgram("endless", "syscall", "syscall", assemble("ja -1\nexit"), ())
    with Space(None) as space:
        run = current_run(space)
        for tier in ("quick", "optimised"):
            program = Program(endless, budget=10_000).start(tier)
            assert execute(program, run) == 0
            assert ctypes.c_uint32.from_address(run + 64).value == 1
            program.close()


def test_a_map_of_another_shape_is_refused():
    with Space(None) as space:
        one = space.create(LinkedMap("counts", ARRAY, 4, 8, 5))
        with pytest.raises(BadSpec, match="map 'counts' has"):
            Program(LOOP, [LinkedMap("counts", ARRAY, 4, 8, 6)], [one])
        with pytest.raises(BadSpec, match="1 map shapes, but 0 maps"):
            Program(LOOP, [LinkedMap("counts", ARRAY, 4, 8, 6)], [])


def test_a_program_that_was_not_started_says_so():
    with pytest.raises(RunFailed, match="not started"):
        Program(LOOP).wait()


def test_a_child_of_fork_has_a_background_of_its_own():
    Program(LOOP, cached=False).start().wait(timeout=60).close()
    pid = os.fork()
    if not pid:
        try:
            Program(LOOP, cached=False).start().wait(timeout=60)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
