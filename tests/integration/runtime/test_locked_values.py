"""BPF_F_LOCK: values with a bpf_spin_lock read and written under it, as the kernel does; and what a kill leaves."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_victims import killed_at_step

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.native.library import load
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Map, Space, current_run
from workbench.runtime.maps.core import CSegment
from workbench.runtime.maps.hash_check import problems, settle

ANY, NOEXIST, EXIST, LOCK = 0, 1, 2, 4
SOURCE = """
#include "workbench.h"
struct guarded {
	__u64 first;
	struct bpf_spin_lock lock;
	__u32 middle;
	__u64 last[6];
};
#define MAP(name, kind, what) \\
	struct { \\
		__uint(type, kind); \\
		__uint(max_entries, 4); \\
		__type(key, __u32); \\
		__type(value, what); \\
	} name SEC(".maps")
MAP(table, BPF_MAP_TYPE_HASH, struct guarded);
MAP(row, BPF_MAP_TYPE_ARRAY, struct guarded);
MAP(plain_table, BPF_MAP_TYPE_HASH, __u64);
MAP(plain_row, BPF_MAP_TYPE_ARRAY, __u64);
MAP(lru, BPF_MAP_TYPE_LRU_HASH, __u64);
MAP(rows, BPF_MAP_TYPE_PERCPU_ARRAY, __u64);
__u64 flags;
__s64 result;
SEC("xdp") int change(void *ctx)
{
	struct guarded value = { .first = 70, .middle = 71, .last = { 72, 73, 74, 75, 76, 77 } };
	__u32 key = 1;
	struct guarded *found;

	result = bpf_map_update_elem(&table, &key, &value, flags);
	if (!result)
		result = bpf_map_update_elem(&row, &key, &value, flags);
	found = bpf_map_lookup_elem(&row, &key);
	if (found) {
		bpf_spin_lock(&found->lock);
		found->first++;
		bpf_spin_unlock(&found->lock);
	}
	found = bpf_map_lookup_elem(&table, &key);
	if (found) {
		bpf_spin_lock(&found->lock);
		found->first++;
		bpf_spin_unlock(&found->lock);
	}
	return 2;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("locked") / "locked.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


def guarded(dtype: np.dtype[Any], number: int) -> Any:
    """A value whose words all say the same, with something where the lock is."""
    raw = np.full(dtype.itemsize // 8, number, "<u8").view("u1")
    raw[8:12] = 0xFF
    value = raw.view(dtype)[0]
    value["middle"] = number
    return value


def outcome(do: Any, *arguments: Any) -> tuple[str, Any]:
    """What an operation gives, or how it is refused."""
    try:
        value = do(*arguments)
    except KeyError:
        return "no such key", None
    except WorkbenchError as error:
        words = {"E2BIG": "too long", "EEXIST": "exists", "EINVAL": "Invalid", "ENOENT": "No such"}
        text = str(error)
        for name, word in words.items():
            if name in text or word in text:
                return name, None
        raise
    return "done", value.tobytes() if isinstance(value, np.void) else value


def scenario(loaded: Any) -> list[Any]:
    """The same calls for either backend."""
    found: list[Any] = []
    for name in ("table", "row"):
        one = loaded.maps[name]
        for key, number, flags in (
            (0, 1, LOCK), (0, 2, LOCK), (0, 3, LOCK | NOEXIST), (0, 4, LOCK | EXIST), (1, 5, LOCK | EXIST),
            (1, 6, ANY), (1, 7, LOCK), (9, 8, LOCK), (0, 9, LOCK | 3), (0, 9, LOCK | 8), (2, 10, LOCK | NOEXIST),
            (0, 11, EXIST),
        ):  # fmt: skip
            value = guarded(one.value_dtype, number)
            found.append((name, key, flags, outcome(one.update, key, value, flags)))
            found += [
                outcome(one.lookup, key, flags) for flags in (ANY, LOCK, NOEXIST, LOCK | EXIST)
            ]
        keys, values = one.table()
        found.append(sorted((int(k), v.tobytes()) for k, v in zip(keys, values, strict=True)))
    for name in ("plain_table", "plain_row", "lru", "rows"):
        one = loaded.maps[name]
        found.append((name, outcome(one.update, 1, 5, LOCK)))
        found.append((name, outcome(one.lookup, 1, LOCK)))
    for flags in (ANY, LOCK, LOCK | NOEXIST, LOCK | EXIST):
        loaded.globals["flags"][()] = flags
        loaded.test_run("change", bytes(64))
        found.append(int(loaded.globals["result"][()]))
        found += [outcome(loaded.maps[name].lookup, 1, LOCK) for name in ("table", "row")]
    return found


@pytest.mark.needs("clang", "ring buffer")
def test_as_the_kernel(obj: Any) -> None:
    with obj.load("kernel") as kernel, obj.load("userspace") as ours:
        wanted, found = scenario(kernel), scenario(ours)
    assert [(w, f) for w, f in zip(wanted, found, strict=True) if w != f] == []
    seen = repr(wanted)
    for one in ("done", "EEXIST", "EINVAL", "E2BIG", "ENOENT", "no such key"):
        assert f"'{one}'" in seen


def locked_map(space: Space, kind: int) -> Map:
    """Values of 64 bytes with a lock at 8, as an object's BTF would say."""
    made = space.create(LinkedMap("guarded", kind, 4, 64, 4))
    segment = CSegment.from_buffer(made._memory)
    segment.spin_lock = 8 + 1
    return made


def words(number: int, lock: int = 0) -> bytes:
    value = np.full(8, number, "<u8")
    value[1] = number << 32 | lock
    return value.tobytes()


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


@pytest.mark.parametrize("kind", [1, 2], ids=["hash", "array"])
def test_a_dead_holder_s_lock_is_taken_over_and_a_live_one_s_waited_for(
    space: Space, kind: int
) -> None:
    made, key = locked_map(space, kind), (1).to_bytes(4, "little")
    made.update(key, words(3))
    where = made._memory.raw.index(words(3)) + 8
    lock = np.frombuffer(made._memory, "<u4", 1, where)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            made.lookup(key)  # joins
            acquire = load().wb_spin_acquire
            acquire.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
            acquire(current_run(space), ctypes.addressof(made._memory) + where)
            os.write(write, b"x")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(read, 1) == b"x"
    holder = int(lock[0])
    assert holder
    assert bytes(made.lookup(key))[:8] == words(3)[:8], "without the flag nobody waits"
    waiting = os.fork()
    if waiting == 0:
        status = 1
        try:
            made.update(key, words(4), LOCK)
            status = 0
        finally:
            os._exit(status)
    time.sleep(0.05)
    assert int(lock[0]) == holder
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0), "written without the lock"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert os.waitpid(waiting, 0)[1] == 0
    os.close(read), os.close(write)
    got = made.lookup(key, LOCK)
    assert bytes(got) == words(4)
    assert int(lock[0]) == 0


@pytest.mark.needs("ptrace")
def test_update_under_the_lock_killed_at_its_instructions(space: Space) -> None:
    made = locked_map(space, 1)
    key, stride = (5).to_bytes(4, "little"), 1 if os.environ.get("WORKBENCH_LONG") else 11
    made.update(key, words(1))
    outcomes = set()
    for steps in range(1, 20_000, stride):
        over = killed_at_step(space, "wb_map_write", made, key, words(77), LOCK, steps)
        found = bytes(made.lookup(key, LOCK))
        assert found in (words(1), words(77)), steps
        outcomes.add(found)
        made.update(key, words(1), LOCK)
        assert bytes(made.lookup(key)) == words(1)
        if over:
            break
    assert over
    assert outcomes == {words(1), words(77)}
    assert settle(made) == 0
    assert problems(made) == []
