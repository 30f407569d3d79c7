"""`obj.load(backend, pid=N)`: the same calls reach that process alone in both backends, or are refused."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.errors import BadSpec, MissingCapability, TargetGone, UnknownSymbol
from workbench.objects.model import BpfObject

pytestmark = pytest.mark.needs("clang", "C compiler", "uprobe", "perf_event BPF", "ptrace")

_CALLS = 7
PROGRAM = r"""
#include <stdio.h>
#include <time.h>
#define MARK __asm__ volatile("990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n" \
	".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n992: .balign 4\n993: .8byte 990b\n" \
	".8byte _.stapsdt.base\n.8byte 0\n.asciz \"work\"\n.asciz \"step\"\n.asciz \"\"\n994: .balign 4\n" \
	".popsection\n.pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n.weak _.stapsdt.base\n" \
	".hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n.size _.stapsdt.base, 1\n.popsection\n")
static volatile long sink;
__attribute__((noinline)) void mine(long a) { sink += a; }
int main(void)
{
	puts("ready"); fflush(stdout);
	while (getchar() != EOF) {
		for (int i = 0; i < 7; i++) { mine(i); MARK; sink += i; }
		clock_t start = clock();
		while (clock() - start < CLOCKS_PER_SEC / 4) sink++;
		puts("done"); fflush(stdout);
	}
	return 0;
}
"""
SOURCE = """
#include "workbench.h"
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u64);
    __type(value, __u64);
} counts SEC(".maps");
static __always_inline int count(__u64 slot)
{
    __u64 key = slot << 32 | bpf_get_current_pid_tgid() >> 32, one = 1;
    __u64 *value = bpf_map_lookup_elem(&counts, &key);
    if (value)
        __sync_fetch_and_add(value, 1);
    else
        bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
    return 0;
}
SEC("uprobe") int called(void *ctx) { return count(0); }
SEC("uprobe.multi") int many(void *ctx) { return count(1); }
SEC("uretprobe") int returned(void *ctx) { return count(2); }
SEC("usdt") int marked(void *ctx) { return count(3); }
SEC("perf_event") int sampled(void *ctx) { return count(4); }
SEC("raw_tp/sys_enter") int entered(void *ctx) { return count(5); }
SEC("tp/raw_syscalls/sys_enter") int entered_too(void *ctx) { return count(6); }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pid")


@pytest.fixture(scope="module")
def obj(folder: Path) -> BpfObject:
    (folder / "where.bpf.c").write_text(SOURCE)
    return wb.compile(folder / "where.bpf.c")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    (folder / "program.c").write_text(PROGRAM)
    subprocess.run(["cc", "-O1", "-g", "-o", folder / "program", folder / "program.c"], check=True)
    return folder / "program"


@pytest.fixture
def two(program: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of one program."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(2):
            process = stack.enter_context(
                subprocess.Popen(
                    [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            started.append(process)
        yield started


def work(processes: list[subprocess.Popen[str]]) -> None:
    """Each calls `mine` seven times and computes for a quarter of a second."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "done\n"


def counted(loaded: Any) -> dict[int, dict[int, int]]:
    """Runs by program and process."""
    found: dict[int, dict[int, int]] = {}
    for key, value in zip(
        *(column.tolist() for column in loaded.maps["counts"].table()), strict=True
    ):
        found.setdefault(key >> 32, {})[key & 0xFFFFFFFF] = value
    return found


@pytest.mark.parametrize("backend", ["kernel", "auto", "userspace"])
def test_the_process_given_at_load_is_the_only_one(
    backend: str, obj: BpfObject, two: list[subprocess.Popen[str]]
) -> None:
    hooks = ["called", "returned", "marked", "sampled"]
    with obj.load(backend, pid=two[0].pid, programs=hooks) as loaded:
        assert loaded.default_pid == two[0].pid
        loaded.attach("called", "mine")
        loaded.attach("returned", "mine")
        loaded.attach("marked", "work:step")
        loaded.attach("sampled", "999")
        work(two)
        found = counted(loaded)
        assert [list(found[slot].values()) for slot in (0, 2, 3)] == [[_CALLS]] * 3
        # Two that compute and everybody else on the machine: only the one is sampled.
        assert found[4].keys() == found[0].keys()
        with pytest.raises(UnknownSymbol, match=r"no USDT mark work:nothing") as refused:
            loaded.attach("marked", "work:nothing")
        assert "work:step" in refused.value.hint


@pytest.mark.needs("uprobe_multi")
@pytest.mark.parametrize("backend", ["kernel", "userspace"])
def test_many_places_of_the_process(
    backend: str, obj: BpfObject, two: list[subprocess.Popen[str]]
) -> None:
    with obj.load(backend, pid=two[0].pid, programs=["many"]) as loaded:
        loaded.attach("many", "min[e]")
        work(two)
        assert list(counted(loaded)[1].values()) == [_CALLS]


@pytest.mark.parametrize("backend", ["kernel", "userspace"])
def test_attach_overrides_load(
    backend: str, obj: BpfObject, two: list[subprocess.Popen[str]]
) -> None:
    with obj.load(backend, pid=two[0].pid, programs=["called", "returned"]) as loaded:
        loaded.attach("called", "mine")
        loaded.attach("returned", "mine", pid=two[1].pid)
        work(two)
        found = counted(loaded)
        assert [list(found[slot].values()) for slot in (0, 2)] == [[_CALLS]] * 2
        assert found[0].keys() != found[2].keys()


@pytest.mark.needs("raw tracepoint", "tracepoint")
def test_what_the_kernel_cannot_restrict_is_refused(obj: BpfObject) -> None:
    hooks = {"entered": "", "entered_too": ""}
    with obj.load("kernel", pid=os.getpid(), programs=list(hooks)) as loaded:
        for name in hooks:
            with pytest.raises(
                BadSpec, match=rf"process {os.getpid()}: .*whole machine"
            ) as refused:
                loaded.attach(name)
            assert "leave pid away" in refused.value.hint
        with pytest.raises(BadSpec, match="whole machine"):
            loaded.attach_raw_tracepoint("entered", "sys_enter")
    with obj.load("kernel", programs=["entered"]) as loaded:
        with pytest.raises(BadSpec, match="whole machine"):
            loaded.attach("entered", pid=os.getpid())
        link = loaded.attach("entered")
        os.getppid()
        assert sum(counted(loaded)[5].values()) > 0
        with pytest.raises(MissingCapability, match="does not count the hits") as refused_hits:
            link.hits  # noqa: B018
        assert "userspace" in refused_hits.value.hint


@pytest.mark.parametrize("backend", ["kernel", "userspace"])
def test_a_process_that_ended(backend: str, obj: BpfObject) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    hooks = {"called": "libc:labs", "sampled": "99"}
    with obj.load(backend, pid=gone.pid, programs=list(hooks)) as loaded:
        for name, target in hooks.items():
            with pytest.raises(TargetGone, match=str(gone.pid)):
                loaded.attach(name, target)
