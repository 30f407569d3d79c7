"""Programs in the running kernel: maps, rings, links and the verifier's refusals."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import MissingCapability, VerifierRejected, WorkbenchError
from workbench.kernel import perf
from workbench.kernel.loaded import Loaded, load
from workbench.kernel.maps import possible_cpus
from workbench.kernel.ring import ColumnReader, RecordReader, Ring
from workbench.objects.model import BpfObject, compile

pytestmark = pytest.mark.needs("ring buffer", "clang", "libbpf")

SOURCE = """
#include "workbench.h"
struct event { __u64 value; __u32 cpu; __u16 kind; __u8 flag; __u8 rest; char name[16]; };
RING(events);
PUBLISH(events, event);
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100000);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} per_cpu SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1000);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} array SEC(".maps");
const volatile __u32 kinds = 1;
const volatile bool mixed = false;
__u64 sequence, lost_ring_full;
int pair[2];

SEC("xdp") int produce(void *ctx)
{
	struct event e = {};
	__u32 zero = 0, at = sequence % 1000;
	__u32 *slot = bpf_map_lookup_elem(&per_cpu, &zero), *cell = bpf_map_lookup_elem(&array, &at);

	if (slot)
		++*slot;
	if (cell)
		*cell = sequence;
	e.value = sequence++;
	e.kind = kinds;
	e.flag = 9;
	e.name[0] = 'x';
	if (mixed && e.value % 3 == 1) { /* a record of another length */
		if (bpf_ringbuf_output(&events, &e, 12, 0))
			lost_ring_full++;
		return 0;
	}
	if (mixed && e.value % 3 == 2) { /* a discarded one */
		void *r = bpf_ringbuf_reserve(&events, sizeof(e), 0);
		if (r)
			bpf_ringbuf_discard(r, 0);
		return 0;
	}
	if (bpf_ringbuf_output(&events, &e, sizeof(e), 0))
		lost_ring_full++;
	return 0;
}
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    source = tmp_path_factory.mktemp("bpf") / "kernel.bpf.c"
    source.write_text(SOURCE)
    return compile(source, output=source.with_suffix(".o"))


def test_ring_to_columns_and_counters(obj: BpfObject) -> None:
    with load(obj, constants={"kinds": 7}, map_sizes={"events": 1 << 16}) as loaded:
        ring = Ring(*loaded.ring_fds["events"])
        reader = ColumnReader(ring, obj.record_dtype("events"), capacity=100)
        loaded.test_run("produce", repeat=1000)
        seen = []
        while rows := reader.drain():
            columns = reader.take(rows)
            assert set(columns["kind"]) == {7} and set(columns["flag"]) == {9}
            assert set(columns["name"]) == {b"x"}
            seen.append(columns["value"].copy())
        assert np.array_equal(np.concatenate(seen), np.arange(1000))
        assert loaded.globals["sequence"][()] == 1000
        assert reader.other == 0 and ring.waiting == 0


def test_wrapping_many_times_loses_nothing_and_reuses_the_columns(obj: BpfObject) -> None:
    with load(obj, map_sizes={"events": 4096}) as loaded:
        ring = Ring(*loaded.ring_fds["events"])
        reader = ColumnReader(ring, obj.record_dtype("events"))
        address = reader.columns["value"].ctypes.data
        following = 0
        for _ in range(40):  # a ring of 4096 bytes holds 102 records
            loaded.test_run("produce", repeat=77)
            rows = reader.drain()
            assert np.array_equal(reader.take(rows)["value"], np.arange(following, following + 77))
            following += 77
        assert reader.columns["value"].ctypes.data == address
        assert loaded.globals["lost_ring_full"][()] == 0


def test_every_loss_is_counted(obj: BpfObject) -> None:
    with load(obj, map_sizes={"events": 4096}) as loaded:
        ring = Ring(*loaded.ring_fds["events"])
        loaded.test_run("produce", repeat=1000)
        reader = ColumnReader(ring, obj.record_dtype("events"))
        received = 0
        while rows := reader.drain():
            received += rows
        assert 0 < received < 1000
        assert received + int(loaded.globals["lost_ring_full"][()]) == 1000


def test_mixed_lengths_and_discards(obj: BpfObject) -> None:
    with load(obj, constants={"mixed": True}, map_sizes={"events": 1 << 16}) as loaded:
        ring = Ring(*loaded.ring_fds["events"])
        loaded.test_run("produce", repeat=300)
        fixed = ColumnReader(ring, obj.record_dtype("events"))
        rows = fixed.drain()
        assert np.array_equal(fixed.take(rows)["value"], np.arange(0, 300, 3))
        assert fixed.other == 100  # short records: passed over, and counted
        loaded.test_run("produce", repeat=300)
        records = RecordReader(ring).drain()
        assert len(records) == 200
        assert sorted(set(records.lengths)) == [12, 32]
        head = records.of_length(32).head(obj.record_dtype("events"))
        assert np.array_equal(head["value"], np.arange(300, 600, 3))
        short = records.of_length(12, 12)
        joined = short.join(short.starts, np.full(100, 8, np.uint64)).view(np.uint64)
        assert np.array_equal(joined, np.arange(301, 600, 3))
        with pytest.raises(ValueError, match="shorter than its header"):
            records.head(obj.record_dtype("events"))


def test_producer_and_consumer_at_once(obj: BpfObject) -> None:
    with load(obj, map_sizes={"events": 1 << 20}) as loaded:
        ring = Ring(*loaded.ring_fds["events"])
        reader = ColumnReader(ring, obj.record_dtype("events"))
        thread = threading.Thread(
            target=loaded.test_run, args=("produce",), kwargs={"repeat": 300_000}
        )
        thread.start()
        values = []
        while thread.is_alive() or ring.waiting:
            rows = reader.drain()
            values.append(reader.take(rows)["value"].copy())
        thread.join()
        got = np.concatenate(values)
        assert np.all(np.diff(got.astype(np.int64)) > 0)
        assert len(got) + int(loaded.globals["lost_ring_full"][()]) == 300_000


def test_asyncio_wakes_up(obj: BpfObject) -> None:
    async def main(loaded: Loaded, ring: Ring) -> int:
        reader = ColumnReader(ring, obj.record_dtype("events"))
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        total = 0

        def drain() -> None:
            nonlocal total
            total += reader.drain()
            if total == 50 and not done.done():
                done.set_result(total)

        stop = ring.watch(asyncio.get_running_loop(), drain)
        await asyncio.to_thread(loaded.test_run, "produce", repeat=50)
        try:
            return await asyncio.wait_for(done, 10)
        finally:
            stop()

    with load(obj, map_sizes={"events": 1 << 16}) as loaded:
        assert asyncio.run(main(loaded, Ring(*loaded.ring_fds["events"]))) == 50


def test_maps_are_mappings_with_bulk_reads(obj: BpfObject) -> None:
    with load(obj, map_sizes={"events": 4096}) as loaded:
        table = loaded.maps["table"]
        table[5] = 50
        assert table[5] == 50 and 5 in table and 6 not in table
        del table[5]
        with pytest.raises(KeyError):
            del table[5]
        keys = np.arange(70_000, dtype=np.uint32)
        table.update_many(keys, keys.astype(np.uint64) * 3)
        got_keys, got_values = table.table()
        order = np.argsort(got_keys)
        assert np.array_equal(got_keys[order], keys)
        assert np.array_equal(got_values[order], keys * np.uint64(3))
        assert len(table) == 70_000
        by_key = table._table_by_key()
        assert np.array_equal(np.sort(by_key[0]), keys)


def test_per_cpu_and_mapped_arrays(obj: BpfObject) -> None:
    with load(obj, map_sizes={"events": 4096}) as loaded:
        loaded.test_run("produce", repeat=1234)
        per_cpu = loaded.maps["per_cpu"]
        assert per_cpu[0].shape == (possible_cpus(),) and per_cpu[0].sum() == 1234
        _keys, values = per_cpu.table()
        assert values.shape == (4, possible_cpus()) and values[0].sum() == 1234
        live = loaded.maps["array"].view()
        assert live.shape == (1000,) and live[233] == 1233 and live[234] == 234
        loaded.test_run("produce", repeat=1)
        assert live[234] == 1234  # no copy: the program's store is seen
        with pytest.raises(MissingCapability, match="cannot be mapped"):
            loaded.maps["table"].view()


def test_globals_are_live_and_writable(obj: BpfObject) -> None:
    with load(obj, map_sizes={"events": 4096}) as loaded:
        loaded.globals["sequence"][()] = 500
        loaded.test_run("produce")
        assert loaded.globals["sequence"][()] == 501
        assert loaded.globals["pair"].shape == (2,)


def test_unknown_constant_or_map_is_refused(obj: BpfObject) -> None:
    with pytest.raises(WorkbenchError, match="no constant named 'knid'"):
        load(obj, constants={"knid": 1})
    with pytest.raises(WorkbenchError, match="no map named 'ring'"):
        load(obj, map_sizes={"ring": 4096})


REJECTED = {
    "unchecked": ("int *v = bpf_map_lookup_elem(&table, &key); return *v;", "return *v", "NULL"),
    "outside": ("char *p = (void *)(long)ctx; return p[key + (1 << 20)];", "return p[", ""),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejection_shows_the_c_line(name: str, tmp_path: Path) -> None:
    body, line, hint = REJECTED[name]
    source = tmp_path / "rejected.bpf.c"
    source.write_text(
        '#include "workbench.h"\n'
        "struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, int); __type(value, int); }"
        ' table SEC(".maps");\n'
        f'SEC("perf_event") int bad(void *ctx)\n{{\n\tint key = 0;\n\n\t{body}\n}}\n'
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    with pytest.raises(VerifierRejected) as caught:
        load(compile(source, output=tmp_path / "rejected.o"))
    assert line in caught.value.message and "'bad'" in caught.value.message
    assert hint in caught.value.hint
    assert "processed" in caught.value.log


@pytest.mark.needs("uprobe_multi")
def test_uprobe_link_detaches_with_its_block(tmp_path: Path) -> None:
    source = tmp_path / "hits.bpf.c"
    source.write_text(
        '#include "workbench.h"\n__u64 hits;\n'
        'SEC("uprobe.multi") int hit(void *ctx) { __sync_fetch_and_add(&hits, 1); return 0; }\n'
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    libc = ctypes.CDLL("libc.so.6")
    address = ctypes.cast(libc.atoi, ctypes.c_void_p).value or 0
    entries = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    start, offset, path = next(
        (int(e[0].split("-")[0], 16), int(e[2], 16), e[5])
        for e in entries
        if int(e[0].split("-")[0], 16) <= address < int(e[0].split("-")[1], 16)
    )
    with load(compile(source, output=tmp_path / "hits.o")) as loaded:
        with loaded.attach_uprobes(
            "hit", path, [address - start + offset], pid=os.getpid()
        ) as link:
            for _ in range(10):
                libc.atoi(b"1")
            assert link.attached
        libc.atoi(b"1")
        assert not link.attached and loaded.globals["hits"][()] == 10


KILLED = """
import sys, time
from workbench.kernel.loaded import load
from workbench.objects.model import open
loaded = load(open(sys.argv[1]), map_sizes={"events": 4096})
print("ready", flush=True)
time.sleep(60)
"""


def test_sigkill_leaves_no_program_in_the_kernel(obj: BpfObject, tmp_path: Path) -> None:
    path = tmp_path / "kernel.bpf.o"
    path.write_bytes(obj.data)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    infos = [p.read_text() for p in Path(f"/proc/{child.pid}/fdinfo").iterdir()]
    (number,) = [
        int(line.split()[1]) for text in infos for line in text.splitlines() if "prog_id" in line
    ]

    def still_there() -> bool:
        fd = perf.bpf(13, struct.pack("<II", number, 0).ljust(16, b"\0"))  # BPF_PROG_GET_FD_BY_ID
        if fd >= 0:
            os.close(fd)
        return fd >= 0

    assert still_there()
    child.kill()
    child.wait()
    child.stdout.close()
    end = time.monotonic() + 10  # the kernel frees programs after a grace period
    while still_there() and time.monotonic() < end:
        time.sleep(0.01)
    assert not still_there()


def test_event_errors_say_what_to_do() -> None:
    attributes = perf.EventAttributes(
        perf.SOFTWARE, perf.CPU_CLOCK, sample=1000000, flags=("disabled",)
    )
    with pytest.raises(WorkbenchError, match="no process or thread") as caught:
        perf.open_event(attributes, pid=2**22 + 1)
    assert "pid" in caught.value.hint
