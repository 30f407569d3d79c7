"""Helpers where they are used: in programs attached to a running process, by the kernel and in user space."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import Running, build, running

import workbench as wb
from workbench.errors import BadSpec, MissingCapability
from workbench.native.ring_reader import RecordReader
from workbench.objects.model import BpfObject
from workbench.runtime.maps.rings import PerfEventArray, UserRing

pytestmark = pytest.mark.needs("clang", "ptrace")

TARGET = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
static volatile int signals;
static void on(int number) { signals++; }
__attribute__((noinline)) long probed(unsigned long a, long b)
{ asm volatile("nop; nop; nop; nop; nop; nop; nop; nop"); return a * 3 + b; }
__attribute__((noinline)) static long caller(unsigned long a) { long r = probed(a, 1); asm volatile(""); return r + 1; }
int main(int count, char **arguments)
{
	char line[64];
	signal(SIGUSR1, on);
	if (count > 1) { /* as a target that lets nobody else handle its faults */
		sigset_t all;
		sigfillset(&all);
		sigdelset(&all, SIGUSR1);
		sigprocmask(SIG_BLOCK, &all, NULL);
		signal(SIGSEGV, SIG_IGN);
	}
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		long r = caller(strtoul(line, NULL, 0));
		printf("%ld %d\n", r, signals);
		fflush(stdout);
	}
	return 0;
}
"""

SOURCE = r"""
#include "workbench.h"
struct registers { __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di; };
#define MAP(name, kind, entries) struct { __uint(type, kind); __uint(max_entries, entries); \
	__type(key, __u32); __type(value, __u64); } name SEC(".maps")
MAP(table, BPF_MAP_TYPE_HASH, 64);
MAP(array, BPF_MAP_TYPE_ARRAY, 5);
MAP(each, BPF_MAP_TYPE_PERCPU_ARRAY, 5);
MAP(recent, BPF_MAP_TYPE_LRU_PERCPU_HASH, 64);
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 65536); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_STACK_TRACE); __uint(max_entries, 1024); __uint(key_size, 4);
	__uint(value_size, 64); } stacks SEC(".maps");
struct locked { struct bpf_spin_lock lock; __u32 hits; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct locked); }
	guarded SEC(".maps");

__u64 cookie, ip, sums[4], top, read, bad, begun, rounds, ended, same_stack, hits;
__s64 visited[5], dynptr[8], length, output[2];
char text[64], part[8];

static long add(void *map, __u32 *key, __u64 *value, __u64 *sum) { *sum += *key * 1000 + *value; return 0; }
static long values(void *map, __u32 *key, __u64 *value, __u64 *sum) { *sum += *value; return 0; }
static long stop(void *map, __u32 *key, __u64 *value, __u64 *sum) { return 1; }

SEC("uprobe") int helpers(struct registers *ctx)
{
	__u64 x = 0x1122334455667788, sum = 0, record[2] = {ctx->di, 9}, stack[2] = {};
	struct bpf_dynptr d;
	cookie = bpf_get_attach_cookie(ctx);
	ip = bpf_get_func_ip(ctx);
	for (__u32 i = 0; i < 5; i++) {
		__u64 v = i * 7;
		bpf_map_update_elem(&table, &i, &v, 0);
		bpf_map_update_elem(&array, &i, &v, 0);
		bpf_map_update_elem(&each, &i, &v, 0);
		bpf_map_update_elem(&recent, &i, &v, 0);
	}
	visited[0] = bpf_for_each_map_elem(&table, add, &sum, 0); sums[0] = sum; sum = 0;
	visited[1] = bpf_for_each_map_elem(&array, add, &sum, 0); sums[1] = sum; sum = 0;
	visited[2] = bpf_for_each_map_elem(&each, values, &sum, 0); sums[2] = sum; sum = 0;
	visited[3] = bpf_for_each_map_elem(&recent, values, &sum, 0); sums[3] = sum;
	visited[4] = bpf_for_each_map_elem(&table, stop, &sum, 0);
	dynptr[0] = bpf_ringbuf_reserve_dynptr(&ring, 24, 0, &d);
	dynptr[1] = bpf_dynptr_write(&d, 4, &x, 8, 0);
	dynptr[2] = bpf_dynptr_write(&d, 20, &x, 8, 0);
	dynptr[3] = bpf_dynptr_read(part, 8, &d, 4, 0);
	dynptr[4] = bpf_dynptr_read(part, 8, &d, 17, 0);
	dynptr[5] = !bpf_dynptr_data(&d, 16, 8);
	dynptr[6] = !bpf_dynptr_data(&d, 17, 8);
	bpf_ringbuf_submit_dynptr(&d, 0);
	length = BPF_SNPRINTF(text, sizeof(text), "%d %x %5llu|%c", -5, 0xbeef, 7ull, 'q');
	output[0] = bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record, sizeof(record));
	output[1] = bpf_perf_event_output(ctx, &events, 1 << 20, record, sizeof(record));
	bpf_get_stack(ctx, stack, sizeof(stack), BPF_F_USER_STACK);
	top = stack[0];
	same_stack = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK) == bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	return 0;
}
SEC("uprobe") int locks(void *ctx) /* the kernel lets no probe take a lock: it may interrupt the holder */
{
	__u32 zero = 0;
	struct locked *one = bpf_map_lookup_elem(&guarded, &zero);
	if (one) {
		bpf_spin_lock(&one->lock);
		one->hits++;
		hits = one->hits;
		bpf_spin_unlock(&one->lock);
	}
	return 0;
}
struct { __uint(type, BPF_MAP_TYPE_USER_RINGBUF); __uint(max_entries, 65536); } orders SEC(".maps");
SEC("uprobe") int emits(struct registers *ctx)
{
	__u64 record[2] = {ctx->di, bpf_get_current_pid_tgid()};
	output[0] = bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, record, sizeof(record));
	return 0;
}
static long take(struct bpf_dynptr *record, void *none)
{
	__u64 value = 0;
	bpf_dynptr_read(&value, sizeof(value), record, 0, 0);
	hits += value;
	return value == 4;
}
SEC("uprobe") int drains(void *ctx)
{
	output[1] = bpf_user_ringbuf_drain(&orders, take, NULL, 0);
	return 0;
}
#define TRY(address) { if (bpf_probe_read_user(&value, 8, (void *)(address))) bad++; else read++; }
SEC("uprobe") int reads(struct registers *ctx)
{
	__u64 value;
	char name[16];
	TRY(ctx->di)
	TRY(0xdead0000)
	TRY(0x00007ffffffffffcULL)
	TRY(0x8000000000000000ULL)
	TRY(&value)
	if (bpf_probe_read_user_str(name, sizeof(name), (void *)ctx->di) < 0)
		bad++;
	return 0;
}
static long count(__u32 i, void *none) { rounds++; return 0; }
static long again(__u32 i, void *none) { bpf_loop(1 << 23, count, none, 0); return 0; }
SEC("uprobe") int runs_away(void *ctx)
{
	begun++;
	bpf_loop(1 << 23, again, NULL, 0);
	ended++;
	return 0;
}
SEC("uprobe") int sends(void *ctx) { return bpf_send_signal(10); }
SEC("uprobe") int skips(struct registers *ctx)
{
	if (ctx->di == 7)
		bpf_override_return((void *)ctx, 4242);
	return 0;
}
SEC("uretprobe") int skips_late(struct registers *ctx) { bpf_override_return((void *)ctx, 1); return 0; }
SEC("uprobe") int replaces(struct registers *ctx) { return ctx->di + ctx->si; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("helpers") / "helpers.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("target"), "helped", TARGET)


@pytest.fixture(params=["plain", "faults blocked"])
def target(request: pytest.FixtureRequest, program: Path) -> Iterator[Running]:
    more = ["block"] if request.param == "faults blocked" else []
    with running([program, *more]) as process:
        assert process.read() == ["ready"]
        yield process


def at(program: Path) -> str:
    return f"{program}:probed"


def seen(obj: BpfObject, backend: str, program: Path, target: Running) -> dict[str, object]:
    with obj.load(backend, programs=["helpers"]) as loaded:
        with loaded.attach("helpers", at(program), pid=target.pid, cookie=1 << 40):
            assert target.ask("5") == ["17", "0"]
            assert target.ask("5") == ["17", "0"]
        found = {name: value.tolist() for name, value in loaded.globals.items()}
        found["table"] = sorted(loaded.maps["table"].items())
        return found


@pytest.mark.needs("uprobe", "ring buffer")
def test_as_the_kernel(obj: BpfObject, program: Path) -> None:
    with running([program]) as target:
        assert target.read() == ["ready"]
        kernel = seen(obj, "kernel", program, target)
        assert kernel["sums"] == [10070, 10070, 70, 70] and kernel["visited"] == [5, 5, 5, 5, 1]
        assert seen(obj, "userspace", program, target) == kernel


def test_in_a_target(obj: BpfObject, program: Path, target: Running) -> None:
    found = seen(obj, "userspace", program, target)
    assert found["visited"] == [5, 5, 5, 5, 1] and found["cookie"] == 1 << 40
    assert found["ip"] == found["top"] != 0 and found["same_stack"]
    assert found["dynptr"] == [0, 0, -7, 0, -7, 0, 1, 0]
    assert found["text"] == b"-5 beef     7|q" and found["length"] == 16


def test_locks(obj: BpfObject, program: Path, target: Running) -> None:
    with obj.load("userspace", programs=["locks"], pid=target.pid) as loaded:
        loaded.attach("locks", at(program))
        for _ in range(3):
            target.ask("1")
        assert int(loaded.globals["hits"][()]) == 3


def test_perf_output_is_read(obj: BpfObject, program: Path, target: Running) -> None:
    with obj.load("userspace", programs=["emits"], pid=target.pid) as loaded:
        events = loaded.maps["events"]
        assert isinstance(events, PerfEventArray)
        events.enable()
        loaded.attach("emits", at(program))
        for number in range(20):
            target.ask(str(number))
        found = []
        for ring in events.rings:
            records = RecordReader(ring).drain()
            for start, length in zip(records.starts, records.lengths, strict=True):
                found.append(bytes(records.buffer[int(start) : int(start) + int(length)])[:16])
        assert int(loaded.globals["output"][0]) == 0 and events.dropped == 0
        who = target.pid << 32 | target.pid
        assert sorted(found) == sorted(struct.pack("<QQ", number, who) for number in range(20))


def test_orders_are_drained(obj: BpfObject, program: Path, target: Running) -> None:
    with obj.load("userspace", programs=["drains"], pid=target.pid) as loaded:
        orders = loaded.maps["orders"]
        assert isinstance(orders, UserRing)
        for number in (1, 2, 4, 8):
            orders.put(struct.pack("<Q", number))
        loaded.attach("drains", at(program))
        target.ask("1")
        assert int(loaded.globals["hits"][()]) == 7 and int(loaded.globals["output"][1]) == 3
        target.ask("1")
        assert int(loaded.globals["hits"][()]) == 15 and int(loaded.globals["output"][1]) == 1


def test_no_pointer_harms_the_target(obj: BpfObject, program: Path, target: Running) -> None:
    addresses = [0, 8, 0x7FFF00000000, 1 << 63, (1 << 64) - 1, 0xFFFFFFFFFF600000]
    with obj.load("userspace", programs=["reads"], pid=target.pid) as loaded:
        with loaded.attach("reads", at(program)):
            for address in addresses:
                target.ask(str(address))
        assert int(loaded.globals["read"][()]) == len(addresses)  # the program's own stack
        assert int(loaded.globals["bad"][()]) == 5 * len(addresses)
    assert target.ask("1") == ["5", "0"]


def test_a_program_that_would_run_for_ages_ends(
    obj: BpfObject, program: Path, target: Running
) -> None:
    with obj.load("userspace", programs=["runs_away"], pid=target.pid) as loaded:
        with loaded.attach("runs_away", at(program)):
            assert target.ask("5") == ["17", "0"] and target.ask("6") == ["20", "0"]
        assert int(loaded.globals["begun"][()]) == 2 and int(loaded.globals["ended"][()]) == 0
        assert 0 < int(loaded.globals["rounds"][()]) < 1 << 30


def test_signals_overrides_and_replacements(obj: BpfObject, program: Path, target: Running) -> None:
    names = ["sends", "skips", "replaces", "skips_late"]
    with obj.load("userspace", programs=names, pid=target.pid) as loaded:
        with loaded.attach("sends", at(program)):
            assert target.ask("5") == ["17", "1"] and target.ask("5") == ["17", "2"]
        with loaded.attach("skips", at(program)):
            assert target.ask("7") == ["4243", "2"] and target.ask("8") == ["26", "2"]
        with loaded.attach("replaces", at(program), replace=True):
            assert target.ask("7") == ["9", "2"]
        assert target.ask("7") == ["23", "2"]
        with pytest.raises(BadSpec, match="at its return"):
            loaded.attach("skips_late", at(program))
    assert target.ask("7") == ["23", "2"]


REFUSED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("%s") int prog(void *ctx) { return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.parametrize(
    "section",
    ["fentry/vfs_read", "fexit.s/vfs_read", "lsm/file_open", "tp_btf/sched_switch", "kprobe/vfs_read",
     "kprobe.multi/vfs_*", "ksyscall/read", "xdp", "tc", "iter/task", "uprobe.session", "cgroup_skb/ingress",
     "struct_ops/x", "raw_tp/sched_switch", "tp/sched/sched_switch", "sockops"],
)  # fmt: skip
def test_what_the_kernel_alone_has_is_named(section: str, tmp_path: Path) -> None:
    path = tmp_path / "refused.bpf.c"
    path.write_text(REFUSED % section)
    made = wb.compile(path)
    with pytest.raises(MissingCapability) as refused, made.load("userspace") as loaded:
        loaded.attach("prog", pid=os.getpid())
    assert "kernel" in refused.value.hint


LACKING = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_DEVMAP); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); }
	ports SEC(".maps");
SEC("uprobe") int maps(void *ctx) { return 0; }
SEC("tc") int helpers(struct __sk_buff *ctx) { char byte; return bpf_skb_load_bytes(ctx, 0, &byte, 1); }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.parametrize(
    ("program", "what"), [("maps", "type devmap"), ("helpers", "bpf_skb_load_bytes")]
)
def test_maps_and_helpers_of_the_kernel_alone_are_named(
    program: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "lacking.bpf.c"
    path.write_text(LACKING)
    with pytest.raises(MissingCapability, match=what) as refused:
        wb.compile(path).load("userspace", programs=[program])
    assert "backend='kernel'" in refused.value.hint
