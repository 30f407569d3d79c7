"""Timers that programs start inside targets: the kernel's answers, and callbacks that run once for each start.

The kernel lets no tracing program have timers, so there the same functions run at a packet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from probed_programs import Running, build, running

import workbench as wb

pytestmark = pytest.mark.needs("clang", "ptrace")

TARGET = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
__attribute__((noinline)) long probed(long a) { asm volatile("nop; nop; nop; nop; nop; nop"); return a + 1; }
__attribute__((noinline)) long second(long a) { asm volatile("nop; nop; nop; nop; nop; nop"); return a + 2; }
int main(void)
{
	char line[64];
	setvbuf(stdout, 0, _IONBF, 0);
	setvbuf(stdin, 0, _IONBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'f') { /* a child hits it, and is gone before the timer is due */
			int status = 0;
			pid_t child = fork();
			if (!child)
				_exit(probed(1) != 2);
			waitpid(child, &status, 0);
			printf("%d\n", status);
		} else
			printf("%ld\n", line[0] == 's' ? second(1) : probed(1));
	}
	return 0;
}
"""

SOURCE = r"""
#include "workbench.h"
char LICENSE[] SEC("license") = "GPL";
struct value { struct bpf_timer timer; __u64 count, key, answer; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, struct value); }
	table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, struct value); }
	array SEC(".maps");
__u64 op, number, flags, rounds, runs, pids[2];
__u32 key;
__s64 result;

static int counts(void *map, __u32 *at, struct value *value)
{
	value->count++;
	value->key = *at;
	pids[0] = PROCESS;
	__sync_fetch_and_add(&runs, 1);
	return 0;
}
static int cancels(void *map, __u32 *at, struct value *value)
{
	value->answer = bpf_timer_cancel(&value->timer);
	value->count++;
	__sync_fetch_and_add(&runs, 1);
	return 0;
}
static int repeats(void *map, __u32 *at, struct value *value)
{
	value->count++;
	if (value->count < rounds)
		value->answer = bpf_timer_start(&value->timer, 1000, 0);
	__sync_fetch_and_add(&runs, 1);
	return 0;
}
static int deletes(void *map, __u32 *at, struct value *value)
{
	__u32 zero = *at;
	bpf_map_delete_elem(&table, &zero);
	__sync_fetch_and_add(&runs, 1);
	return 0;
}
static __always_inline __s64 work(struct value *value, void *map)
{
	switch (op) {
	case 1: return bpf_timer_set_callback(&value->timer, counts);
	case 2: return bpf_timer_set_callback(&value->timer, cancels);
	case 3: return bpf_timer_set_callback(&value->timer, repeats);
	case 4: return bpf_timer_set_callback(&value->timer, deletes);
	case 5: return bpf_timer_start(&value->timer, number, flags);
	case 6: return bpf_timer_cancel(&value->timer);
	}
	return 0;
}
static __always_inline int run(void)
{
	struct value fresh = {}, *value;
	__u32 at = key;
	if (op == 7) {
		result = bpf_map_update_elem(&table, &at, &fresh, 0);
		return 0;
	}
	if (op == 8) {
		result = bpf_map_delete_elem(&table, &at);
		return 0;
	}
	if (flags & 1 << 16) {
		flags &= 3;
		value = bpf_map_lookup_elem(&array, &at);
		if (value)
			result = op == 9 ? bpf_timer_init(&value->timer, &array, 1) : work(value, &array);
		return 0;
	}
	value = bpf_map_lookup_elem(&table, &at);
	if (!value)
		result = -1000;
	else if (op == 9)
		result = bpf_timer_init(&value->timer, &table, 1);
	else
		result = work(value, &table);
	return 0;
}
SEC("PLACE") int one(void *ctx) { pids[1] = PROCESS; return run(); }
SEC("PLACE") int other(void *ctx)
{
	__u32 at = key;
	struct value *value = bpf_map_lookup_elem(&table, &at);
	result = value ? bpf_timer_start(&value->timer, number, 0) : -1000;
	return 0;
}
"""

HOUR = 3600 * 10**9
COUNTS, CANCELS, REPEATS, DELETES, START, CANCEL, UPDATE, DELETE, INIT = range(1, 10)
OTHER = 100
ARRAY = 1 << 16
#: (operation, key, number, flags), or how many callbacks have to have run by then.
STEPS: list[tuple[int, int, int, int] | int] = [
    (UPDATE, 1, 0, 0), (START, 1, 0, 0), (COUNTS, 1, 0, 0), (INIT, 1, 0, 0), (INIT, 1, 0, 0), (START, 1, 0, 0),
    (COUNTS, 1, 0, 0), (START, 1, 1000, 0), 1, (START, 1, 0, 0), 2, (CANCEL, 1, 0, 0), (START, 1, 0, 0),
    (COUNTS, 1, 0, 0), (START, 1, HOUR, 0), (START, 1, 0, 0), 3, (START, 1, HOUR, 0), (CANCEL, 1, 0, 0),
    (CANCEL, 1, 0, 0),
    (CANCELS, 1, 0, 0), (START, 1, 0, 0), 4,
    (UPDATE, 2, 0, 0), (INIT, 2, 0, 0), (REPEATS, 2, 0, 0), (START, 2, 0, 0), 9, (CANCEL, 2, 0, 0),
    (COUNTS, 1, 0, 0), (START, 1, HOUR, 0), (UPDATE, 1, 0, 0), (CANCEL, 1, 0, 0), (INIT, 1, 0, 0),
    (COUNTS, 1, 0, 0), (START, 1, HOUR, 0), (DELETE, 1, 0, 0), (CANCEL, 1, 0, 0),
    (UPDATE, 3, 0, 0), (INIT, 3, 0, 0), (DELETES, 3, 0, 0), (START, 3, 0, 0), 10, (CANCEL, 3, 0, 0),
    (UPDATE, 4, 0, 0), (INIT, 4, 0, 0), (COUNTS, 4, 0, 0), (OTHER, 4, 1000, 0), 11,
    (INIT, 3, 0, ARRAY), (COUNTS, 3, 0, ARRAY), (START, 3, 1000, ARRAY), 12, (CANCEL, 3, 0, ARRAY),
]  # fmt: skip


def wait(loaded: Any, runs: int) -> None:
    end = time.monotonic() + 60
    while int(loaded.globals["runs"][()]) < runs:
        assert time.monotonic() < end, f"{loaded.globals['runs']} of {runs} callbacks ran"
        time.sleep(0.002)


def answers(loaded: Any, hit: Callable[[str], object]) -> list[Any]:
    """What every step answers, and what is in the maps at the end."""
    found: list[Any] = []
    loaded.globals["rounds"][...] = 5
    for step in STEPS:
        if isinstance(step, int):
            wait(loaded, step)
            continue
        for name, value in zip(("op", "key", "number", "flags"), step, strict=True):
            loaded.globals[name][...] = value
        hit("other" if step[0] == OTHER else "one")
        found.append((step, int(loaded.globals["result"][()])))
    values = [
        [int(one[name]) for name in ("count", "key", "answer")]
        for one in (loaded.maps["table"][2], loaded.maps["table"][4], loaded.maps["array"][3])
    ]
    return [
        *found,
        values,
        sorted(int(one) for one in loaded.maps["table"]),
        int(loaded.globals["runs"][()]),
    ]


def written(folder: Path, place: str) -> Path:
    path = folder / f"{place}.bpf.c"
    process = "bpf_get_current_pid_tgid() >> 32" if place == "uprobe" else "0"
    path.write_text(SOURCE.replace("PLACE", place).replace("PROCESS", process))
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("timers"), "target", TARGET)


@pytest.fixture
def target(program: Path) -> Iterator[Running]:
    with running([program]) as made:
        yield made


def attach(loaded: Any, program: Path) -> None:
    loaded.attach("one", f"{program}:probed")
    loaded.attach("other", f"{program}:second")


def arm(loaded: Any, number: int, callback: int = COUNTS, key: int = 3) -> Iterator[None]:
    """Let the next hits of `probed` make a timer of the array and start it."""
    for op in (INIT, callback, START):
        for name, value in (("op", op), ("key", key), ("number", number), ("flags", ARRAY)):
            loaded.globals[name][...] = value
        yield
        assert int(loaded.globals["result"][()]) == 0


@pytest.mark.needs("raw tracepoint")
def test_answers_are_the_kernels(tmp_path: Path, program: Path, target: Running) -> None:
    with wb.compile(written(tmp_path, "xdp")).load("kernel") as loaded:
        kernel = answers(loaded, loaded.test_run)
    with wb.compile(written(tmp_path, "uprobe")).load("userspace", pid=target.pid) as loaded:
        attach(loaded, program)
        ours = answers(loaded, lambda name: target.ask("s" if name == "other" else "p"))
        assert loaded.globals["pids"].tolist() == [os.getpid(), target.pid]
    assert ours == kernel


def test_it_fires_after_its_process_has_ended(
    tmp_path: Path, program: Path, target: Running
) -> None:
    with wb.compile(written(tmp_path, "uprobe")).load("userspace", pid=target.pid) as loaded:
        attach(loaded, program)
        for _ in arm(loaded, 200_000_000):
            target.ask()
        target.process.kill()
        target.process.wait()
        wait(loaded, 1)
        assert int(loaded.maps["array"][3]["count"]) == 1


def test_a_child_of_the_target_starts_one(tmp_path: Path, program: Path, target: Running) -> None:
    with wb.compile(written(tmp_path, "uprobe")).load("userspace", pid=target.pid) as loaded:
        attach(loaded, program)
        for _ in arm(loaded, 1000):
            assert target.ask("f") == ["0"]
        wait(loaded, 1)
        assert int(loaded.globals["pids"][1]) not in (target.pid, os.getpid())


def test_it_goes_on_without_its_probe(tmp_path: Path, program: Path, target: Running) -> None:
    """A timer that starts itself again outlives the attachment, as the kernel's does, but not the object."""
    with wb.compile(written(tmp_path, "uprobe")).load("userspace", pid=target.pid) as loaded:
        attach(loaded, program)
        loaded.globals["rounds"][...] = 1 << 40
        for _ in arm(loaded, 1000, REPEATS):
            target.ask()
        wait(loaded, 1)
        loaded.detach()
        wait(loaded, int(loaded.globals["runs"][()]) + 5)
    assert target.ask() == ["2"]


def test_two_objects_two_targets(tmp_path: Path, program: Path, target: Running) -> None:
    obj = wb.compile(written(tmp_path, "uprobe"))
    with (
        running([program]) as more,
        obj.load("userspace", pid=target.pid) as first,
        obj.load("userspace", pid=more.pid) as second,
    ):
        attach(first, program)
        attach(second, program)
        for loaded, asked in ((first, target), (second, more), (first, target)):
            key = 3 - int(loaded.globals["runs"][()])
            for _ in arm(loaded, 1000, key=key):
                asked.ask()
            wait(loaded, int(loaded.globals["runs"][()]) or 1)
        wait(first, 2)
        assert [int(one["count"]) for one in first.maps["array"].values()] == [0, 0, 1, 1]
        assert [int(one["count"]) for one in second.maps["array"].values()] == [0, 0, 0, 1]
        second.close()
        for _ in arm(first, 1000, key=0):
            target.ask()
        wait(first, 3)


DIES = """
import sys, time
import workbench as wb
loaded = wb.compile(sys.argv[1]).load("userspace", pid=int(sys.argv[2]))
loaded.attach("one", f"{sys.argv[3]}:probed")
for name, value in (("op", 9), ("key", 3), ("flags", 1 << 16)):
    loaded.globals[name][...] = value
print("ready", flush=True)
sys.stdin.readline()
for name, value in (("op", 1), ("flags", 1 << 16)):
    loaded.globals[name][...] = value
print("set", flush=True)
time.sleep(600)
"""


def test_nobody_fires_for_a_killed_workbench(
    tmp_path: Path, program: Path, target: Running
) -> None:
    path = written(tmp_path, "uprobe")
    with subprocess.Popen(
        [sys.executable, "-c", DIES, str(path), str(target.pid), str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        target.ask()
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert target.ask() == ["2"]  # its programs still run, and call the helpers
    with wb.compile(path).load(
        "userspace", pid=target.pid
    ) as loaded:  # takes the killed one's hooks out
        attach(loaded, program)
        for _ in arm(loaded, 1000):
            target.ask()
        wait(loaded, 1)
