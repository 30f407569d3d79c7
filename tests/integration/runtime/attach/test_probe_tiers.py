"""Attached at once with quick code, optimised code swapped in while threads run it; what happens meanwhile."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from probed_programs import build, running
from proc_mem import only_tracers

import workbench as wb
from workbench.errors import MissingCapability, RunFailed, TargetGone
from workbench.objects.model import BpfObject
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.tiers import SLOT_AT, Placed
from workbench.runtime.inventory import programs
from workbench.runtime.jit import Blob, ProbeCode

pytestmark = pytest.mark.needs("clang", "ptrace", "userspace JIT", "userspace maps")

SOURCE = """
#include "workbench.h"
struct registers { __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di; };
__u64 calls, returns, sum, ended, entered, samples, marks;
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__array(values, int(void *));
} next SEC(".maps");

SEC("uprobe") int called(struct registers *ctx)
{
	__sync_fetch_and_add(&calls, 1);
	__sync_fetch_and_add(&sum, (__u64)-(__s32)ctx->di);
	return 0;
}
SEC("uretprobe") int returned(struct registers *ctx)
{
	__sync_fetch_and_add(&returns, ctx->ax == 1);
	return 0;
}
SEC("uprobe") int chained(struct registers *ctx)
{
	bpf_tail_call(ctx, &next, 0);
	return 0;
}
SEC("usdt") int marked(void *ctx)
{
	__sync_fetch_and_add(&marks, 1);
	return 0;
}
SEC("uprobe") int last(struct registers *ctx)
{
	__sync_fetch_and_add(&ended, 1);
	return 0;
}
SEC("raw_tp/sys_enter") int syscalls(void *ctx)
{
	__sync_fetch_and_add(&entered, 1);
	return 0;
}
SEC("perf_event") int sample(void *ctx)
{
	__sync_fetch_and_add(&samples, 1);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
TARGET = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)

def spin(count):
    for _ in range(count):
        libc.abs(-1)

def answer(text):
    print(text, flush=True)

answer("ready")
going, threads = [True], []
for line in sys.stdin:
    word, *rest = line.split()
    if word == "call":
        answer(sum(getattr(libc, rest[1])(-1) for _ in range(int(rest[0]))))
    elif word == "spin":
        def run():
            done = 0
            while going:
                spin(100)
                done += 100
            totals.append(done)
        totals = []
        threads = [threading.Thread(target=run) for _ in range(int(rest[0]))]
        for one in threads:
            one.start()
        answer("spinning")
    elif word == "end":
        going.clear()
        for one in threads:
            one.join()
        answer(sum(totals))
    elif word == "fork":
        pid = os.fork()
        if not pid:
            for one in sys.stdin:
                pass
        answer(pid)
    elif word == "exec":
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], sys.argv[1]])
    elif word == "getppid":
        for _ in range(int(rest[0])):
            os.getppid()
        answer("done")
"""
MARKED = r"""
#include <stdio.h>
#define MARK __asm__ volatile( \
    "990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n" \
    ".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n" \
    "992: .balign 4\n993: .8byte 990b\n.8byte 0\n.8byte 0\n" \
    ".asciz \"shop\"\n.asciz \"sold\"\n.asciz \"\"\n994: .balign 4\n.popsection\n")
__attribute__((noipa)) long sell(long a) { MARK; return a + 1; }
int main(void) {
    long n;
    puts("ready");
    fflush(stdout);
    while (scanf("%ld", &n) == 1) {
        long sold = 0;
        while (sold < n) sold = sell(sold);
        printf("%ld\n", sold);
        fflush(stdout);
    }
}
"""


class Target:
    """A process that does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TARGET, TARGET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()

    def call(self, count: int, function: str = "abs") -> None:
        assert int(self.ask(f"call {count} {function}")) == count

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Compiler:
    """Optimised code is made when `go` is set; every compilation that has begun is in `begun`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun: list[str] = []
        true = ProbeCode._compile

        def compile_when_told(code: ProbeCode, tier: str) -> Blob:
            if tier == "optimised":
                self.begun.append(code.program.name)
                assert self.go.wait(300)
            return self.change(true(code, tier))

        monkeypatch.setattr(ProbeCode, "_compile", compile_when_told)

    def change(self, blob: Blob) -> Blob:
        """What a test makes of the compiler's result."""
        return blob


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("tiers") / "tiers.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Compiler]:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    made = Compiler(monkeypatch)
    yield made
    made.go.set()


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


def _placed(loaded: Any, pid: int, name: str) -> Placed:
    room = loaded._process(pid).room
    code = loaded.programs[name].probe
    return next(one for one in room.tiers.placed.values() if one.program is code)


def _entry(pid: int, one: Placed) -> int:
    memory = Memory(pid)
    try:
        return int(struct.unpack("<Q", memory.read(one.record, 8))[0])
    finally:
        memory.close()


def test_quick_code_runs_at_once_and_is_replaced_under_running_threads(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        program = loaded.programs["called"]
        assert program.tiers == {}
        link = loaded.attach("called", "libc:abs")
        assert program.tiers == {target.pid: "quick"}
        one = _placed(loaded, target.pid, "called")
        first = _entry(target.pid, one)
        target.call(100)
        assert (loaded.globals["calls"], loaded.globals["sum"], link.hits) == (100, 100, 100)
        before = len(loaded._process(target.pid).stopped) + only_tracers()
        assert target.ask("spin 3") == "spinning"
        compiler.go.set()
        program.wait(300)
        assert program.tiers == {target.pid: "optimised"}
        assert len(loaded._process(target.pid).stopped) == before, "nobody was held for it"
        assert _entry(target.pid, one) == one.door != first
        count = 100 + int(target.ask("end"))
        assert (loaded.globals["calls"], loaded.globals["sum"], link.hits) == (count,) * 3
        (info,) = [one for one in programs(loaded.space.name) if one.name == "called"]
        assert info.tiers == {str(target.pid): "optimised"}
    target.call(1)


def test_code_from_the_cache_is_optimised_from_the_start(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    compiler.go.set()
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("called", "libc:abs")
        loaded.programs["called"].wait(300)
    compiler.begun.clear()
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("called", "libc:abs")
        assert loaded.programs["called"].tiers == {target.pid: "optimised"}
        assert not _placed(loaded, target.pid, "called").door
        target.call(10)
        assert link.hits == 10
    assert not compiler.begun


@pytest.mark.needs("sigtrap breakpoint")
def test_every_kind_of_program_is_replaced(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.maps["next"][0] = loaded.programs["last"]
        names = ("returned", "chained", "last", "syscalls", "sample")
        loaded.attach("returned", "libc:abs")
        loaded.attach("chained", "libc:labs")
        loaded.attach_raw_tracepoint("syscalls", "sys_enter")
        loaded.attach_sampling("sample", 1000)

        def use() -> dict[str, int]:
            target.call(50)
            target.call(50, "labs")
            target.ask("getppid 50")
            before = int(loaded.globals["samples"])
            while loaded.globals["samples"] == before:
                target.ask("getppid 1000")
            return {name: int(value) for name, value in loaded.globals.items()}

        assert {loaded.programs[name].tiers[target.pid] for name in names} == {"quick"}
        found = use()
        assert (found["returns"], found["ended"]) == (50, 50)
        assert found["entered"] >= 50
        compiler.go.set()
        for name in names:
            loaded.programs[name].wait(300)
        assert {loaded.programs[name].tiers[target.pid] for name in names} == {"optimised"}
        again = use()
        assert (again["returns"], again["ended"]) == (100, 100)
        assert again["entered"] >= found["entered"] + 50
    target.call(1)


def test_marks_are_replaced(obj: BpfObject, compiler: Compiler, tmp_path: Path) -> None:
    with (
        running([build(tmp_path, "marked", MARKED)]) as program,
        obj.load("userspace", pid=program.pid) as loaded,
    ):
        assert program.read()[0] == "ready"
        loaded.attach("marked", "shop:sold")
        assert program.ask("20")[0] == "20"
        assert loaded.programs["marked"].tiers == {program.pid: "quick"}
        assert loaded.globals["marks"] == 20
        compiler.go.set()
        loaded.programs["marked"].wait(300)
        assert program.ask("20")[0] == "20"
        assert loaded.programs["marked"].tiers == {program.pid: "optimised"}
        assert loaded.globals["marks"] == 40


def test_the_object_is_closed_before_the_compiler_is_done(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("called", "libc:abs")
        program = loaded.programs["called"]
        code, name = program.probe, "called"
        one = _placed(loaded, target.pid, name)
    compiler.go.set()
    with pytest.raises(RunFailed):
        program.wait(300)
    assert code.places == {}
    assert (one.tier, len(one.codes)) == ("quick", 1)
    target.call(10)


def test_the_target_ends_before_the_compiler_is_done(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("called", "libc:abs")
        target.close()
        compiler.go.set()
        loaded.programs["called"].wait(300)
        assert "optimised" not in loaded.programs["called"].tiers.values()


def test_the_target_runs_another_program_before_the_compiler_is_done(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        process = loaded._process(target.pid)
        link = loaded.attach("called", "libc:abs")
        with process.lock:  # nobody looks after it meanwhile
            assert target.ask("exec") == "ready"
            one = _placed(loaded, target.pid, "called")
            compiler.go.set()
            loaded.programs["called"].probe.improve()
            with pytest.raises(TargetGone):
                process.room.memory.read(one.record, 1)
        loaded.programs["called"].wait(300)
        loaded.refresh()
        target.call(25)
        assert link.hits == 25
        assert loaded.programs["called"].tiers == {target.pid: "optimised"}


def test_children_get_it_as_well(obj: BpfObject, target: Target, compiler: Compiler) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("called", "libc:abs")
        process = loaded._process(target.pid)
        known = int(target.ask("fork"))
        process.look()
        assert loaded.programs["called"].tiers == {target.pid: "quick", known: "quick"}
        compiler.go.set()
        loaded.programs["called"].wait(300)
        child = process.family.children[known]
        (one,) = (x for x in child.room.tiers.placed.values())
        assert _entry(known, one) == one.door
        assert loaded.programs["called"].tiers[known] == "optimised"


def test_a_child_that_is_found_later_gets_it(
    obj: BpfObject, target: Target, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("called", "libc:abs")
        process = loaded._process(target.pid)
        with monkeypatch.context() as patched:
            with process.lock:  # nobody looks now
                patched.setattr(process.family, "look", list)
            child = int(target.ask("fork"))
            compiler.go.set()
            loaded.programs["called"].wait(300)
            assert loaded.programs["called"].tiers == {target.pid: "optimised"}
        process.look()
        loaded.programs["called"].wait(300)
        one = _placed(loaded, target.pid, "called")
        assert loaded.programs["called"].tiers == {target.pid: "optimised", child: "optimised"}
        assert _entry(child, one) == one.door


def test_the_compiler_fails_and_quick_code_stays(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    def fail(blob: Blob) -> Blob:
        if blob.tier == "optimised":
            raise MissingCapability("no such instruction")
        return blob

    compiler.change = fail  # type: ignore[method-assign]
    compiler.go.set()
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("called", "libc:abs")
        with pytest.raises(MissingCapability):
            loaded.programs["called"].wait(300)
        assert loaded.programs["called"].tiers == {target.pid: "quick"}
        target.call(10)
        assert link.hits == 10


@pytest.mark.parametrize("writes", range(4))
def test_every_prefix_of_the_swap_leaves_working_code(
    obj: BpfObject, target: Target, compiler: Compiler, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("called", "libc:abs")
        memory = loaded._process(target.pid).room.memory
        left, true = [writes], Memory.write_all

        def write_all(self: Memory, pieces: Iterable[tuple[int, bytes]]) -> None:
            for piece in pieces:
                if self is memory and not left[0]:
                    raise TargetGone("as if the workbench were killed")
                left[0] -= self is memory
                true(self, [piece])

        with monkeypatch.context() as patched:
            patched.setattr(Memory, "write_all", write_all)
            compiler.go.set()
            loaded.programs["called"].wait(300)
        assert left == [0]
        tier = "optimised" if writes == 3 else "quick"
        assert loaded.programs["called"].tiers == {target.pid: tier}
        target.call(10)
        assert (link.hits, loaded.globals["calls"]) == (10, 10)


def test_code_whose_entry_is_far_behind_the_door(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    def far(blob: Blob) -> Blob:
        if blob.tier == "quick":
            return replace(blob, code=bytes([0xCC]) * 1024 + blob.code, entry=blob.entry + 1024)
        return blob

    compiler.change = far  # type: ignore[method-assign]
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("called", "libc:abs")
        target.call(10)
        compiler.go.set()
        loaded.programs["called"].wait(300)
        assert loaded.programs["called"].tiers == {target.pid: "optimised"}
        target.call(10)
        assert (link.hits, loaded.globals["calls"]) == (20, 20)


def test_memory_is_mapped_where_none_is_left(
    obj: BpfObject, target: Target, compiler: Compiler
) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("called", "libc:abs")
        process = loaded._process(target.pid)
        with process.lock:
            for one in process.room.arenas:
                one.take_code(one.data - one.code - one.code_used)
        arenas = len(process.room.arenas)
        compiler.go.set()
        loaded.programs["called"].wait(300)
        assert len(process.room.arenas) == arenas + 1
        assert loaded.programs["called"].tiers == {target.pid: "optimised"}
        target.call(10)
        assert link.hits == 10


def test_the_slot_is_in_memory_of_the_record() -> None:
    from workbench.runtime.attach import layout

    assert layout.PROGRAM.size <= SLOT_AT <= 64 - 8
