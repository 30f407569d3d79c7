"""Code is written on kernels that let a process's tracer alone do so, or ptrace(2) alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from calling_programs import code_of
from probed_programs import Running, build, counting, running
from proc_mem import restricted

import workbench as wb
from workbench.errors import MissingCapability, NotPermitted, TargetGone
from workbench.runtime.attach import Process, collect
from workbench.runtime.attach.memory import PAGE, Memory, mappings
from workbench.runtime.attach.stop import Stop, status_fields

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
volatile uint64_t words[8];
volatile long factor = 3;
__attribute__((noipa)) long work(long a) { return a * factor + 1; }
int main(void) {
    long n;
    char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mprotect(pages + 4096, 4096, PROT_READ | PROT_EXEC)) return 1;
    printf("%p %p\n", (void *)words, (void *)pages);
    fflush(stdout);
    while (scanf("%ld", &n) == 1) {
        long sum = 0;
        while (n-- > 0) sum += work(syscall(SYS_getppid) * 0 + 2);
        printf("%ld\n", sum);
        fflush(stdout);
    }
}
"""
PROGRAM = """
#include "workbench.h"
__u64 calls, returns;
SEC("uprobe") int called(void *ctx)
{
	__sync_fetch_and_add(&calls, 1);
	return 0;
}
SEC("uretprobe") int returned(void *ctx)
{
	__sync_fetch_and_add(&returns, 1);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
GETPPID = 110


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("forced"), "target", SOURCE)


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int, int]]:
    with running([program]) as one:
        words, pages = (int(word, 16) for word in one.read())
        yield one, words, pages


@pytest.fixture(params=["ptrace", "never"])
def refused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    pages: list[int] = []
    monkeypatch.setattr(os, "pwrite", restricted(request.param, pages, os.pwrite))
    return pages


def work(target: Running, times: int = 10) -> None:
    assert target.ask(str(times)) == [str(7 * times)]


def maps_of(pid: int) -> list[tuple[int, int, str, str]]:
    return [
        (one.start, one.end, one.mode, one.path) for one in mappings(pid) if one.path != "[stack]"
    ]


def test_probes_and_system_calls_come_and_go(
    target: tuple[Running, int, int], refused: list[int]
) -> None:
    program, words, _ = target
    work(program)
    code, maps = code_of(program.pid), maps_of(program.pid)
    with Process(program.pid) as process:
        entry = process.attach(counting(words), "work")
        back = process.attach(counting(words + 8), "work", "uretprobe")
        call = process.system_calls.attach(counting(words + 16), "enter", number=GETPPID)
        work(program)
        assert (entry.hits, back.hits, call.hits) == (10, 10, 10)
        process.detach([entry])
        work(program)
        assert (entry.hits, back.hits) == (10, 20)
        process.system_calls.detach([call])
        process.detach([back])
        assert code_of(program.pid) == code
    assert refused
    assert status_fields(program.pid)["TracerPid"] == "0"
    work(program)  # it leaves the call that it slept in, which a trampoline of ours may have made
    assert not any(one.problem for one in collect() if one.pid == program.pid)
    assert (code_of(program.pid), maps_of(program.pid)) == (code, maps)
    work(program)


@pytest.mark.needs("clang", "userspace JIT", "userspace maps")
def test_optimised_code_is_swapped_in(
    target: tuple[Running, int, int],
    tmp_path: Path,
    refused: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    path = tmp_path / "forced.bpf.c"
    path.write_text(PROGRAM)
    program, _, _ = target
    code, maps = code_of(program.pid), maps_of(program.pid)
    with wb.compile(path).load("userspace", pid=program.pid) as loaded:
        links = [loaded.attach("called", "target:work"), loaded.attach("returned", "target:work")]
        work(program)
        for one in ("called", "returned"):
            loaded.programs[one].wait(300)
            assert loaded.programs[one].tiers == {program.pid: "optimised"}
        work(program)
        assert [one.hits for one in links] == [20, 20]
        assert (loaded.globals["calls"], loaded.globals["returns"]) == (20, 20)
    assert refused
    assert (code_of(program.pid), maps_of(program.pid)) == (code, maps)
    work(program)


def test_any_bytes_at_any_place(target: tuple[Running, int, int], refused: list[int]) -> None:
    program, _, pages = target
    memory = Memory(program.pid)
    try:
        expected = bytearray(3 * PAGE)
        for number, (at, size) in enumerate(
            (at, size)
            for at in (PAGE - 11, PAGE - 8, PAGE, PAGE + 3, 2 * PAGE - 9, 2 * PAGE - 4)
            for size in (1, 2, 5, 8, 9, 24)
        ):
            data = bytes([number + 1]) * size
            expected[at : at + size] = data
            memory.write(pages + at, data)
            assert memory.read(pages, 3 * PAGE) == expected, (at, size)
        held = len(memory.stopped)
        assert 0 < held <= number
        whole = os.urandom(3 * PAGE)
        memory.write_all([(pages, whole[:PAGE]), (pages + PAGE, whole[PAGE:])])
        assert memory.read(pages, 3 * PAGE) == whole
        assert len(memory.stopped) == held + 1
        refused.clear()
        memory.write(pages, bytes(PAGE))
        assert (refused, len(memory.stopped)) == ([], held + 1)
        with Stop(program.pid):
            memory.write(pages + PAGE, bytes(PAGE))
            assert status_fields(program.pid)["TracerPid"] == str(threading.get_native_id())
        assert len(memory.stopped) == held + 1
    finally:
        memory.close()
    work(program)


def test_what_cannot_be_written_is_refused(
    target: tuple[Running, int, int], refused: list[int]
) -> None:
    program, _, pages = target
    memory = Memory(program.pid)
    try:
        with pytest.raises(MissingCapability, match="cannot be written"):
            memory.write(PAGE, b"x")  # nothing is mapped there
        assert memory.stopped == []
        data = next((one for one in mappings(program.pid) if one.path == "[vvar]"), None)
        if data is not None:
            with pytest.raises(MissingCapability, match="cannot be written"):
                memory.write(data.start, b"x")
        with _debugger(program.pid), pytest.raises(NotPermitted, match="traced already"):
            memory.write(pages + PAGE, b"x")
        memory.write(pages + PAGE, b"x")
        work(program)
        program.process.kill()
        program.process.wait()
        with pytest.raises(TargetGone):
            memory.write(pages + PAGE, b"x")
    finally:
        memory.close()


def _debugger(pid: int) -> subprocess.Popen[bytes]:
    """Another process that traces this one, until its context ends."""
    code = (
        "import sys; from workbench.runtime.attach import ptrace; "
        f"ptrace.seize({pid}); print('seized', flush=True); sys.stdin.read()"
    )
    debugger = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert debugger.stdout is not None
    assert debugger.stdout.readline() == b"seized\n"
    return debugger
