"""One object at system calls, both backends: the same records; what only user space or only the kernel has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from calling_programs import calling_program
from probed_programs import Running, running

import workbench as wb
from workbench.errors import MissingCapability
from workbench.kernel.ring import ColumnReader
from workbench.objects.model import BpfObject

pytestmark = pytest.mark.needs("clang", "ptrace")

SOURCE = """
#include "workbench.h"
struct seen { __u64 number, first, result, entered, task; };
RING(calls);
PUBLISH(calls, seen);
struct registers { __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip; };
const volatile __u32 wanted = 0;
__u64 opened, closed, results, lost;

static __always_inline void put(struct registers *registers, __u64 number, __u64 result, __u64 entered)
{
	struct seen *seen;
	__u64 first = 0, own = 0;

	if (bpf_get_current_pid_tgid() >> 32 != wanted)
		return;
	bpf_probe_read_kernel(&first, sizeof(first), &registers->di);
	bpf_probe_read_kernel(&own, sizeof(own), &registers->orig_ax);
	seen = bpf_ringbuf_reserve(&calls, sizeof(*seen), 0);
	if (!seen) {
		lost++;
		return;
	}
	seen->number = own;
	seen->first = number == 3 || number == -1ull ? (__u32)first : 0;
	seen->result = result;
	seen->entered = entered;
	seen->task = bpf_get_current_pid_tgid();
	bpf_ringbuf_submit(seen, 0);
}
SEC("raw_tp/sys_enter") int enter(struct bpf_raw_tracepoint_args *ctx)
{
	put((void *)ctx->args[0], ctx->args[1], 0, 1);
	return 0;
}
SEC("raw_tp/sys_exit") int leave(struct bpf_raw_tracepoint_args *ctx)
{
	put((void *)ctx->args[0], 0, ctx->args[1], 0);
	return 0;
}
struct sys_enter_close { __u64 common; int number; __u32 pad; __u64 fd; };
struct sys_exit_close { __u64 common; int number; __u32 pad; long result; };
SEC("tracepoint/syscalls/sys_enter_close") int close_enter(struct sys_enter_close *ctx)
{
	if (ctx->number == 3 && (int)ctx->fd == -1)
		__sync_fetch_and_add(&closed, 1);
	return 0;
}
SEC("tracepoint/syscalls/sys_exit_close") int close_exit(struct sys_exit_close *ctx)
{
	if (ctx->number == 3)
		__sync_fetch_and_add(&results, -ctx->result);
	return 0;
}
SEC("tracepoint/raw_syscalls/sys_enter") int every(struct sys_enter_close *ctx)
{
	if (ctx->number == 110)
		__sync_fetch_and_add(&opened, 1);
	return 0;
}
SEC("tracepoint/syscalls/sys_enter_getppid") int replace(void *ctx)
{
	bpf_override_return(ctx, 424242);
	return 0;
}
SEC("raw_tp/sched_switch") int switched(void *ctx) { return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("points") / "points.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calling_program(tmp_path_factory.mktemp("points"), "calling", "-ldl")


@pytest.fixture
def target(program: Path) -> Iterator[Running]:
    with running([program]) as one:
        one.read()
        yield one


def records(obj: BpfObject, backend: str, target: Running) -> list[tuple[int, ...]]:
    with obj.load(
        backend, programs=["enter", "leave"], constants={"wanted": target.pid}, map_sizes={"calls": 1 << 20}
    ) as loaded:  # fmt: skip
        ring = loaded.ring("calls")
        reader = ColumnReader(ring, obj.record_dtype("calls"))
        where = {"pid": target.pid} if backend == "userspace" else {}
        target.ask("ppid 1")
        for name in ("leave", "enter"):
            loaded.attach(name, **where)
        target.ask("bad 5")
        target.ask("ppid 3")
        loaded.detach()
        columns = reader.take(reader.drain())
        rows = list(
            zip(*(columns[name].tolist() for name in obj.record_dtype("calls").names), strict=True)
        )
        ring.close()
        assert int(loaded.globals["lost"][()]) == 0
    # Reading the next line is under way when hooks come and go.
    return [row for row in rows if row[0] != 0]


@pytest.mark.needs("raw tracepoint", "ring buffer")
def test_kernel_and_user_space_see_the_same(obj: BpfObject, target: Running) -> None:
    kernel = records(obj, "kernel", target)
    assert [row[0] for row in kernel].count(3) == 10
    assert records(obj, "userspace", target) == kernel


def test_records_of_one_call_and_of_all(obj: BpfObject, target: Running) -> None:
    names = ["close_enter", "close_exit", "every"]
    with obj.load("userspace", programs=names, pid=target.pid) as loaded:
        links = [loaded.attach(name) for name in names]
        target.ask("bad 7")
        target.ask("ppid 4")
        assert int(loaded.globals["closed"][()]) == 7
        assert int(loaded.globals["results"][()]) == 7 * 9
        assert int(loaded.globals["opened"][()]) == 4
        assert [link.hits for link in links[:2]] == [7, 7]
        assert all(link.missed == 0 for link in links)
        links[0].close()
        target.ask("bad 7")
        assert int(loaded.globals["closed"][()]) == 7
        assert int(loaded.globals["results"][()]) == 14 * 9


def test_a_call_is_skipped(obj: BpfObject) -> None:
    script = "import os, sys\nprint('ready', flush=True)\nfor _ in sys.stdin: print(os.getppid(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout

        def ask() -> int:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return int(process.stdout.readline())  # type: ignore[union-attr]

        assert process.stdout.readline() == "ready\n"
        true = ask()
        with obj.load("userspace", programs=["replace"], pid=process.pid) as loaded:
            link = loaded.attach("replace")
            assert [ask(), ask()] == [424242, 424242]
            assert link.hits == 2
        assert ask() == true


def test_tracepoints_of_the_kernel_alone(obj: BpfObject, target: Running) -> None:
    with obj.load("userspace", programs=["switched"], pid=target.pid) as loaded:
        for wrong in (
            lambda: loaded.attach("switched"),
            lambda: loaded.attach_tracepoint("switched", "sched", "sched_switch"),
            lambda: loaded.attach_tracepoint("switched", "syscalls", "sys_enter_nonsense"),
        ):
            with pytest.raises(MissingCapability, match="kernel alone"):
                wrong()
