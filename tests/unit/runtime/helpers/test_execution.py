"""What a run begins and ends with, helpers that steer it, and locks whose holder was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.native import (
    CProgram,
    CRun,
    StandaloneRun,
    call,
    execute,
    execute_many,
    execute_repeat,
)
from workbench.runtime.maps import Space, current_run

ENTRY = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
LINK = ctypes.c_uint64 * 6


class Program:
    """A struct wb_program whose code is a Python function (ctx, run)."""

    def __init__(self, function: Callable[[int, int], int]) -> None:
        self._entry = ENTRY(function)
        entry = ctypes.cast(self._entry, ctypes.c_void_p).value
        self.struct = CProgram(entry=entry, budget=1000)
        self.address = ctypes.addressof(self.struct)


def once(function: Callable[[int, int], int], run: StandaloneRun) -> int:
    program = Program(function)
    return execute(program.address, 0, run.address)


def test_a_run_starts_clean_and_sees_its_context() -> None:
    run = StandaloneRun()
    seen: list[tuple[Any, ...]] = []

    def body(ctx: int, address: int) -> int:
        now = CRun.from_address(address)
        seen.append(
            (ctx, now.ctx, now.busy, now.budget, now.stopped, now.overridden, now.tail_calls)
        )
        now.stopped, now.overridden, now.changed, now.tail_calls, now.budget = 1, 1, 5, 3, 0
        return 42

    program = Program(body)
    for ctx in (7, 8):
        assert execute(program.address, ctx, run.address) == 42
        assert run.struct.busy == 0
        assert run.struct.program == program.address
    assert seen == [(7, 7, 1, 1000, 0, 0, 0), (8, 8, 1, 1000, 0, 0, 0)]


def test_a_nested_program_is_missed_and_counted() -> None:
    run = StandaloneRun()
    link = LINK()
    inner_ran = []
    inner = Program(lambda ctx, address: inner_ran.append(1) or 1)

    def outer_body(ctx: int, address: int) -> int:
        run.struct.link = ctypes.addressof(link)
        return 10 + execute(inner.address, 0, address)

    assert once(outer_body, run) == 10
    assert not inner_ran
    assert link[5] == 1  # missed
    assert execute(inner.address, 0, run.address) == 1


def test_a_run_that_was_left_by_longjmp_does_not_block_the_thread() -> None:
    run = StandaloneRun()
    program = Program(lambda ctx, address: 3)
    assert execute(program.address, 0, run.address) == 3
    here = run.struct.stack
    run.struct.busy, run.struct.stack = (
        1,
        here - 4096,
    )  # it began deeper in the stack: that part is gone
    assert execute(program.address, 0, run.address) == 3
    run.struct.busy, run.struct.stack = 1, here + 4096  # it began further out: we are inside of it
    assert execute(program.address, 0, run.address) == 0
    run.struct.busy = 0


def test_many_contexts_in_one_call() -> None:
    run = StandaloneRun()
    program = Program(lambda ctx, address: ctypes.c_uint32.from_address(ctx).value * 2)
    contexts = b"".join(i.to_bytes(16, "little") for i in range(5))
    assert execute_many(program.address, contexts, 16, run.address) == [0, 2, 4, 6, 8]
    assert execute_many(program.address, b"", 16, run.address) == []


def test_repeated_runs_are_timed() -> None:
    run = StandaloneRun()
    count = []
    program = Program(lambda ctx, address: count.append(1) or len(count))
    result, nanoseconds = execute_repeat(program.address, 0, run.address, 50)
    assert result == len(count) == 50
    assert nanoseconds > 0


@pytest.mark.parametrize("name", ["send_signal", "send_signal_thread"])
def test_signals_are_sent_when_the_program_has_ended(name: str) -> None:
    run = StandaloneRun()
    got = []
    before = signal.signal(signal.SIGUSR1, lambda *_: got.append(run.struct.busy))
    try:

        def body(ctx: int, address: int) -> int:
            assert run.call(name, signal.SIGUSR1) == 0
            assert run.call(name, 0) == 0
            assert run.call(name, 65) == -22
            assert not got
            return 1

        assert once(body, run) == 1
        assert got == [0]
        once(lambda ctx, address: 1, run)
        assert got == [0]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_overrides_and_what_the_attachment_tells() -> None:
    run = StandaloneRun()
    link = LINK(0, 0xC00C1E, 0x401000, 0, 0, 0)
    run.struct.link = ctypes.addressof(link)
    assert run.call("get_attach_cookie", 0) == 0xC00C1E
    assert run.call("get_func_ip", 0) == 0x401000
    assert run.call("override_return", 0, -12) == 0
    assert (run.struct.overridden, run.struct.changed) == (1, 2**64 - 12)
    assert run.call("set_retval", -13) == 0
    assert run.call("get_retval") == -13


def test_arguments_of_traced_functions() -> None:
    run = StandaloneRun()
    context = (ctypes.c_uint64 * 5)(3, 10, 20, 30, 99)  # the count lies before what ctx points to
    ctx = ctypes.addressof(context) + 8
    value = ctypes.c_uint64()
    where = ctypes.addressof(value)
    assert run.call("get_func_arg_cnt", ctx) == 3
    for number, expected in enumerate((10, 20, 30)):
        assert run.call("get_func_arg", ctx, number, where) == 0
        assert value.value == expected
    assert run.call("get_func_arg", ctx, 3, where) == -22
    assert run.call("get_func_ret", ctx, where) == 0
    assert value.value == 99


def test_a_loop_ends_when_the_budget_is_used_up() -> None:
    run = StandaloneRun()
    rounds = []
    kind = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 6)
    callback = kind(lambda index, ctx, *_: rounds.append((index, ctx)) or 0)
    address = ctypes.cast(callback, ctypes.c_void_p).value or 0
    run.struct.budget = 10
    assert run.call("loop", 100, address, 77, 0) == 10
    assert run.struct.stopped == 1
    assert rounds == [(i, 77) for i in range(10)]


# --- locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[tuple[Space, int]]:
    """A namespace and the address of 64 bytes of a map in it."""
    with Space() as space:
        made = space.create(LinkedMap("locks", 2, 4, 64, 1))
        yield space, int(made.struct.values)


def test_a_lock_keeps_threads_apart(shared: tuple[Space, int]) -> None:
    space, lock = shared
    counter = ctypes.c_uint64.from_address(lock + 8)

    def work() -> None:
        run = current_run(space)
        for _ in range(2000):
            call("spin_lock", run, lock)
            counter.value = counter.value + 1
            call("spin_unlock", run, lock)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == 8000
    assert ctypes.c_uint32.from_address(lock).value == 0


def test_a_killed_holder_blocks_nobody(shared: tuple[Space, int]) -> None:
    space, lock = shared
    word = ctypes.c_uint32.from_address(lock)
    for _ in range(5):
        child = os.fork()
        if not child:
            call("spin_lock", current_run(space), lock)
            os.kill(os.getpid(), signal.SIGKILL)
        # The child is left a zombie until the lock was taken over: it is dead, but its number still exists.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        left = word.value
        run = current_run(space)
        call("spin_lock", run, lock)
        assert left not in (0, word.value)
        assert word.value & 0xFFF == CRun.from_address(run).owner
        call("spin_unlock", run, lock)
        os.waitpid(child, 0)


def test_a_private_lock_of_a_thread_that_ended_is_taken_over() -> None:
    word = ctypes.c_uint32()
    lock = ctypes.addressof(word)
    thread = threading.Thread(target=lambda: StandaloneRun().call("spin_lock", lock))
    thread.start()
    thread.join()
    assert word.value
    run = StandaloneRun()
    run.call("spin_lock", lock)
    run.call("spin_unlock", lock)
    assert word.value == 0


# --- stacks -----------------------------------------------------------------------------------------------------------

USER = 1 << 8


class Stack:
    """Registers and frames in memory: pc, then `depth` callers chained by frame pointers."""

    def __init__(self, depth: int) -> None:
        self.frames = (ctypes.c_uint64 * (2 * depth + 2))()
        start = ctypes.addressof(self.frames)
        for i in range(depth):
            self.frames[2 * i] = start + 16 * (i + 1) if i + 1 < depth else 0
            self.frames[2 * i + 1] = 0x1000 + i
        self.registers = (ctypes.c_uint64 * 40)()
        machine = os.uname().machine
        pc, fp = (16, 4) if machine == "x86_64" else (32, 29)
        self.registers[pc], self.registers[fp] = 0xAAAA, start
        self.expected = [0xAAAA, *(0x1000 + i for i in range(depth))]
        self.run = StandaloneRun()
        self.run.struct.frame = ctypes.addressof(self.registers)

    def get(self, size: int, flags: int = USER) -> tuple[int, bytes]:
        out = ctypes.create_string_buffer(b"\xee" * size, size) if size else None
        where = ctypes.addressof(out) if out else 0
        return self.run.call("get_stack", 0, where, size, flags), out.raw if out else b""


def as_bytes(addresses: list[int], size: int) -> bytes:
    data = b"".join(one.to_bytes(8, "little") for one in addresses)
    return data[:size].ljust(size, b"\0")


@pytest.mark.parametrize("depth", [1, 5, 126, 127, 300])
@pytest.mark.parametrize("skip", [0, 1, 3])
def test_get_stack_gives_bytes_and_clears_the_rest(depth: int, skip: int) -> None:
    stack = Stack(depth)
    chain = stack.expected[:127]
    for size in (8, 48, 2048):
        result, out = stack.get(size, USER | skip)
        if skip > len(chain):
            assert (result, out) == (-14, bytes(size))
            continue
        assert result == min(size, 8 * (len(chain) - skip))
        assert out == as_bytes(chain[skip:], size)


def test_get_stack_refuses_as_the_kernel_does() -> None:
    stack = Stack(3)
    assert stack.get(12) == (-22, bytes(12))  # not a multiple of 8
    assert stack.get(16, USER | 1 << 20) == (-22, bytes(16))
    assert stack.get(16, USER | 9) == (-14, bytes(16))  # all skipped, and more
    assert stack.get(16, USER | 4) == (0, bytes(16))
    assert stack.get(16, 0) == (-95, bytes(16))  # there is no kernel stack
    stack.run.struct.frame = 0
    assert stack.get(16) == (-95, bytes(16))


def test_a_stack_that_leads_nowhere_ends_there() -> None:
    stack = Stack(4)
    stack.frames[2] = 0xDEAD0000
    assert stack.get(64) == (24, as_bytes(stack.expected[:3], 64))


def test_at_a_functions_first_instruction_the_caller_is_on_top_of_the_stack() -> None:
    stack = Stack(2)
    link = LINK(0, 0, 0xAAAA, 0, 0, 0)
    stack.run.struct.link = ctypes.addressof(link)
    top = ctypes.c_uint64(0xCA11E4)
    if os.uname().machine == "x86_64":
        stack.registers[19] = ctypes.addressof(top)
    else:
        stack.registers[30] = top.value
    expected = [0xAAAA, 0xCA11E4, 0x1000, 0x1001]
    assert stack.get(64) == (32, as_bytes(expected, 64))
