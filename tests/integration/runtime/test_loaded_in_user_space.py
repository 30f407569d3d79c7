"""One object, both backends: the same calls give the same results; user space needs no privilege."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench.errors import BadSpec, MissingCapability, MissingFrame, VerifierRejected
from workbench.kernel.ring import ColumnReader
from workbench.objects.model import BpfObject
from workbench.runtime.inventory import programs

pytestmark = pytest.mark.needs("clang", "ptrace")

SOURCE = """
#include "workbench.h"
#include <bpf/bpf_endian.h>
#include <linux/if_ether.h>
struct call { __u64 size, cookie; __u32 pid, tid; char comm[16]; };
RING(calls);
PUBLISH(calls, call);
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} sizes SEC(".maps");
struct registers { __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di; };
const volatile __u64 most = 1 << 20;
__u64 total, lost;
__u32 kinds[3] = {5, 6, 7};

static __always_inline void count(__u32 slot)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &slot);
	if (value)
		*value += 1;
}

SEC("uprobe") int called(struct registers *ctx)
{
	__u64 size = (__s32)ctx->di, one = 1, *found = bpf_map_lookup_elem(&sizes, &size);
	struct call *call;
	if (size < -most)
		count(3);
	count(0);
	if (found)
		__sync_fetch_and_add(found, 1);
	else
		bpf_map_update_elem(&sizes, &size, &one, BPF_ANY);
	__sync_fetch_and_add(&total, 1);
	call = bpf_ringbuf_reserve(&calls, sizeof(*call), 0);
	if (!call) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	call->size = size;
	call->cookie = bpf_get_attach_cookie(ctx);
	call->pid = bpf_get_current_pid_tgid() >> 32;
	call->tid = bpf_get_current_pid_tgid();
	bpf_get_current_comm(call->comm, sizeof(call->comm));
	bpf_ringbuf_submit(call, 0);
	return 0;
}
SEC("uretprobe") int returned(struct registers *ctx)
{
	count(1);
	kinds[1] = ctx->ax;
	return 0;
}
SEC("xdp") int classify(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *head = data;
	if (data + sizeof(*head) > end)
		return 1;
	count(2);
	return bpf_ntohs(head->h_proto);
}
char LICENSE[] SEC("license") = "GPL";
"""

TARGET = """
import ctypes, sys
libc = ctypes.CDLL(None)
print("ready", flush=True)
for line in sys.stdin:
    print(sum(libc.abs(-(i % 10)) for i in range(int(line))), flush=True)
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("loaded") / "calls.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


@pytest.fixture
def target() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.communicate("")


def call(target: subprocess.Popen[str], times: int) -> None:
    assert target.stdin is not None and target.stdout is not None
    target.stdin.write(f"{times}\n")
    target.stdin.flush()
    assert int(target.stdout.readline()) == 45 * times // 10


def results(obj: BpfObject, backend: str, target: subprocess.Popen[str]) -> dict[str, object]:
    with obj.load(backend, programs=["called", "returned"], map_sizes={"calls": 1 << 20}) as loaded:
        assert loaded.backend == backend and loaded.why == "it was asked for"
        ring = loaded.ring("calls")
        reader = ColumnReader(ring, obj.record_dtype("calls"))
        loaded.attach("returned", "libc:abs", pid=target.pid)
        link = loaded.attach("called", "libc:abs", pid=target.pid, cookie=42)
        call(target, 1000)
        link.close()
        call(target, 10)
        rows = reader.drain()
        columns = {name: column.copy() for name, column in reader.take(rows).items()}
        ring.close()
        keys, values = loaded.maps["sizes"].table()
        return {
            "sizes": sorted(zip(keys.tolist(), values.tolist(), strict=True)),
            "counts": [int(np.sum(loaded.maps["counts"][i])) for i in range(4)],
            "total": int(loaded.globals["total"][()]),
            "lost": int(loaded.globals["lost"][()]),
            "kinds": loaded.globals["kinds"].tolist(),
            "size": columns["size"].tolist(),
            "cookie": set(columns["cookie"].tolist()),
            "who": set(zip(columns["pid"].tolist(), columns["tid"].tolist(), strict=True)),
            "comm": set(columns["comm"].tolist()),
        }


@pytest.mark.needs("uprobe", "ring buffer")
def test_kernel_and_user_space_see_the_same(obj: BpfObject, target: subprocess.Popen[str]) -> None:
    kernel = results(obj, "kernel", target)
    assert kernel["total"] == 1000 and kernel["counts"] == [1000, 1010, 0, 100]
    assert results(obj, "userspace", target) == kernel


def test_user_space(obj: BpfObject, target: subprocess.Popen[str]) -> None:
    found = results(obj, "userspace", target)
    assert found["size"] == [(1 << 64) - i % 10 if i % 10 else 0 for i in range(1000)]
    assert (
        found["cookie"] == {42} and found["lost"] == 0 and found["counts"] == [1000, 1010, 0, 100]
    )
    assert found["kinds"] == [5, 9, 7]
    assert found["who"] == {(target.pid, target.pid)}


@pytest.mark.parametrize(
    "backend",
    ["userspace", pytest.param("kernel", marks=pytest.mark.needs("uprobe", "ring buffer"))],
)
def test_records_as_a_frame(
    obj: BpfObject, target: subprocess.Popen[str], backend: str
) -> None:
    with obj.load(backend, programs=["called"], map_sizes={"calls": 1 << 20}) as loaded:
        assert len(loaded.records("calls")) == 0
        loaded.attach("called", "libc:abs", pid=target.pid, cookie=3)
        call(target, 20)
        frame = loaded.records("calls")
        assert frame.columns.tolist() == ["size", "cookie", "pid", "tid", "comm"]
        assert len(frame) == 20 and set(frame["cookie"]) == {3}
        assert set(frame["pid"]) == {target.pid} and set(frame["comm"].map(type)) == {str}
        assert len(loaded.records("calls")) == 0
        call(target, 10)
        assert len(loaded.records("calls", "call")) == 10
        with pytest.raises(MissingFrame, match="no struct"):
            loaded.records("calls", "nothing")


def test_objects_share_a_target(obj: BpfObject, target: subprocess.Popen[str]) -> None:
    with obj.load("userspace", pid=target.pid) as one, obj.load("userspace", pid=target.pid) as two:
        one.attach("called", "libc:abs")
        two.attach("called", "libc:abs")
        call(target, 100)
        one.detach()
        call(target, 100)
        assert int(one.globals["total"][()]) == 100 and int(two.globals["total"][()]) == 200
        names = {(info.name, info.pid) for info in programs()}
        assert {("called", os.getpid()), ("returned", os.getpid())} <= names
    assert not [info for info in programs() if info.pid == os.getpid()]
    call(target, 10)


@pytest.mark.parametrize("kind", [b"\x08\x00", b"\x86\xdd"])
def test_test_run_as_in_the_kernel(obj: BpfObject, kind: bytes) -> None:
    packet = bytes(12) + kind + bytes(50)
    with obj.load("userspace", programs=["classify"]) as loaded:
        value, spent = loaded.test_run("classify", packet, 10)
        assert value == int.from_bytes(kind, "big") and spent >= 0
        assert int(np.sum(loaded.maps["counts"][2])) == 10
        with pytest.raises(BadSpec, match="packet"):
            loaded.test_run("classify", b"short")


def test_auto_says_why(obj: BpfObject) -> None:
    with obj.load("auto", programs=["classify"]) as loaded:
        assert loaded.backend in ("kernel", "userspace") and loaded.why


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_privilege(obj: BpfObject, tmp_path: Path) -> None:
    file = tmp_path / "calls.bpf.o"
    file.write_bytes(obj.data)
    tmp_path.chmod(0o777)
    script = tmp_path / "work.py"
    script.write_text(
        "import subprocess, sys\n"
        "import workbench as wb\n"
        f"target = subprocess.Popen([sys.executable, '-c', {TARGET!r}], stdin=subprocess.PIPE,\n"
        "    stdout=subprocess.PIPE, text=True)\n"
        "target.stdout.readline()\n"
        f"with wb.open({str(file)!r}).load(programs=['called', 'returned'], pid=target.pid) as loaded:\n"
        "    loaded.attach('called', 'libc:abs')\n"
        "    target.stdin.write('500\\n'); target.stdin.flush(); target.stdout.readline()\n"
        "    print(loaded.backend, int(loaded.globals['total'][()]), loaded.why)\n"
        "target.communicate('')\n"
    )
    for parent in [tmp_path, *tmp_path.parents][:4]:
        if parent != Path("/tmp") and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False,
        user=65534, group=65534, extra_groups=[], cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
             "WORKBENCH_NAMESPACES": str(tmp_path / "namespaces")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("userspace 500 the kernel does not take it")


BAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
__u64 table[8];
SEC("uprobe") int outside(void *ctx) { return table[bpf_get_prandom_u32() & 15]; }
SEC("uprobe") int elsewhere(void *ctx) { return bpf_current_task_under_cgroup(&table, 0); }
SEC("xdp") int sent(struct xdp_md *ctx) { return bpf_redirect(1, 0); }
char LICENSE[] SEC("license") = "GPL";
"""


def test_what_is_refused(tmp_path: Path, obj: BpfObject) -> None:
    path = tmp_path / "bad.bpf.c"
    path.write_text(BAD)
    bad = wb.compile(path)
    with pytest.raises(VerifierRejected, match="table") as refused:
        bad.load("userspace", programs=["outside"])
    assert "outside" in str(refused.value)
    with pytest.raises((MissingCapability, VerifierRejected), match="bpf_redirect"):
        bad.load("userspace", programs=["sent"])
    with obj.load("userspace") as loaded:
        with pytest.raises(BadSpec, match="one process at a time"):
            loaded.attach("called", "libc:abs")
        with pytest.raises(BadSpec, match="no ring"):
            loaded.ring("nothing")


TALKS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct value { struct bpf_timer timer; __u64 fired; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct value);
} timers SEC(".maps");
static int tick(void *map, __u32 *key, struct value *value) { value->fired++; return 0; }
SEC("syscall") int start(void *ctx)
{
	__u32 zero = 0;
	struct value *value = bpf_map_lookup_elem(&timers, &zero);
	if (!value || bpf_timer_init(&value->timer, &timers, 1) || bpf_timer_set_callback(&value->timer, tick))
		return 1;
	return bpf_timer_start(&value->timer, 1000, 0);
}
SEC("uprobe") int say(void *ctx) { bpf_printk("hello %d", 42); return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_printed_lines_and_timers(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    path = tmp_path / "talks.bpf.c"
    path.write_text(TALKS)
    with wb.compile(path).load("userspace", pid=target.pid) as loaded:
        loaded.attach("say", "libc:abs")
        call(target, 10)
        lines = list(loaded.printed)
        assert [line.text for line in lines] == ["hello 42"] * 10
        assert {line.pid for line in lines} == {target.pid}
        assert loaded.test_run("start", bytes(8))[0] == 0
        end = time.monotonic() + 60
        while not loaded.maps["timers"][0]["fired"] and time.monotonic() < end:
            time.sleep(0.01)
        assert loaded.maps["timers"][0]["fired"] == 1


NESTED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u64); };
struct inner first SEC(".maps"), second SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { &first, &second } };
int one(void *ctx);
int two(void *ctx);
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(void *));
} jumps SEC(".maps") = { .values = { [1] = &one, [3] = &two } };
SEC("syscall") int start(__u32 *ctx)
{
	__u32 which = *ctx & 1, zero = 0;
	void *map = bpf_map_lookup_elem(&outer, &which);
	__u64 *value = map ? bpf_map_lookup_elem(map, &zero) : 0;
	if (value)
		*value += 10;
	bpf_tail_call(ctx, &jumps, *ctx);
	return 7;
}
SEC("syscall") int one(void *ctx) { return 100; }
SEC("syscall") int two(void *ctx) { bpf_tail_call(ctx, &jumps, 1); return 200; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_maps_of_maps_and_tail_calls(tmp_path: Path) -> None:
    path = tmp_path / "nested.bpf.c"
    path.write_text(NESTED)
    with wb.compile(path).load("userspace") as loaded:
        results = [loaded.test_run("start", number.to_bytes(8, "little"))[0] for number in range(5)]
        assert results == [7, 100, 7, 100, 7]
        assert loaded.maps["first"][0] == 30 and loaded.maps["second"][0] == 20


NESTED_PROBES = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u64); };
struct inner first SEC(".maps"), second SEC(".maps"), third SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { &first, &second } };
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct inner);
} hashed SEC(".maps");
int one(void *ctx);
int two(void *ctx);
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(void *));
} jumps SEC(".maps") = { .values = { [1] = &one } };
__u64 fell_through, ran[3];
struct registers { __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di; };
static __always_inline void add(void *map)
{
	__u32 zero = 0;
	__u64 *value = map ? bpf_map_lookup_elem(map, &zero) : 0;
	if (value)
		__sync_fetch_and_add(value, 1);
}
SEC("uprobe") int start(struct registers *ctx)
{
	__u32 which = -(int)ctx->di;
	add(bpf_map_lookup_elem(&outer, &which));
	add(bpf_map_lookup_elem(&hashed, &which));
	bpf_tail_call(ctx, &jumps, which);
	__sync_fetch_and_add(&fell_through, 1);
	return 0;
}
SEC("uprobe") int one(void *ctx) { __sync_fetch_and_add(&ran[1], 1); return 0; }
SEC("uprobe") int two(void *ctx) { __sync_fetch_and_add(&ran[2], 1); bpf_tail_call(ctx, &jumps, 1); return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_maps_of_maps_and_tail_calls_in_a_target(
    tmp_path: Path, target: subprocess.Popen[str]
) -> None:
    path = tmp_path / "nested.bpf.c"
    path.write_text(NESTED_PROBES)
    with wb.compile(path).load("userspace") as loaded:
        maps = loaded.maps

        def state() -> list[int]:
            """Counted in each inner map, in the order of the calls that ran."""
            values = [int(maps[name][0]) for name in ("first", "second", "third")]
            ran = loaded.globals["ran"]
            return [*values, int(ran[1]), int(ran[2]), int(loaded.globals["fell_through"])]

        loaded.attach("start", "libc:abs", pid=target.pid)
        call(target, 10)  # of 0, -1, ... -9
        assert state() == [1, 1, 0, 1, 0, 9]
        # What is stored while the target is entered is seen there as well.
        maps["outer"][2] = maps["third"]
        maps["hashed"][7] = maps["second"]
        maps["jumps"][2] = loaded.programs["two"]
        call(target, 10)
        assert state() == [2, 3, 1, 3, 1, 17]
        maps["outer"][0] = maps["third"]
        del maps["jumps"][1]
        call(target, 10)
        assert state() == [2, 5, 3, 3, 2, 26]


PINNED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} kept SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} own SEC(".maps");
static int add(void *map)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(map, &zero);
	if (value)
		*value += 1;
	return 0;
}
SEC("syscall") int count(void *ctx) { return add(&kept) + add(&own); }
char LICENSE[] SEC("license") = "GPL";
"""


def test_a_named_namespace_keeps_what_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.runtime.maps import Space

    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "namespaces"))
    path = tmp_path / "pinned.bpf.c"
    path.write_text(PINNED)
    obj = wb.compile(path)
    for round in (1, 2, 3):
        with obj.load("userspace", namespace="shop") as loaded:
            loaded.test_run("count", bytes(8))
            assert loaded.maps["kept"][0] == round and loaded.maps["own"][0] == 1
    with Space("shop") as space:
        assert space.names() == ["kept"]
        space.remove()
