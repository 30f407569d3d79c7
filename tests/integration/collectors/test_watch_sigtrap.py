"""Watchpoints by SIGTRAP: without BPF, without privilege, in this process and in commands."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from memory_sink import MemorySink
from watched import attach, compile_program, finish, run, signed

from workbench.collectors.base import Target
from workbench.collectors.watch import watch_spec_for_array
from workbench.errors import NotPermitted
from workbench.native.build import agent

pytestmark = pytest.mark.needs("sigtrap breakpoint", "ptrace", "C compiler", "native core")
SUPPORT = str(Path(__file__).parents[2] / "support")

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long counter;
__attribute__((noinline)) void store(long value) { counter = value; }
static void *worker(void *unused) { for (int i = 0; i < 200; i++) store(i); return unused; }
int main(int count, char **words) {
	pthread_t threads[3];
	for (int i = 0; i < 100; i++) store(i);
	if (count > 1 && words[1][0] == 't') {
		for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, worker, 0);
		for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
	}
	if (count > 1 && words[1][0] == 'f') {
		pid_t child = fork();
		if (!child) { store(500); _exit(0); }
		waitpid(child, 0, 0);
	}
	if (count > 1 && words[1][0] == 'h') {
		long n = atol(words[2]);
		for (long i = 0; i < n; i++) counter = i;
	}
	/* What the agent needed to get in is not handed on. */
	return getenv("LD_PRELOAD") && strstr(getenv("LD_PRELOAD"), "sigtrap.so") ? 3 : 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(
        PROGRAM, tmp_path_factory.mktemp("sigtrap"), "program", "-fno-omit-frame-pointer"
    )


def ourselves(spec: str) -> tuple[list, MemorySink]:
    sink = MemorySink()
    return attach([spec], Target(os.getpid(), pids={os.getpid()}), sink), sink


def test_a_command_with_threads(program: Path) -> None:
    got = run([program, "t"], "watch:counter,mode=sigtrap,values=yes,stacks=fp")
    assert got.status == 0 and len(got.hits) == 700
    assert sorted(got.hits.groupby("tid").size()) == [100, 200, 200, 200]
    assert got.hits.exact.all() and set(got.hits.access) == {"write"} and got.hits.ip.nunique() <= 3
    assert set(got.hits.comm) == {"program"}
    main = got.hits[got.hits.tid == got.pid]
    assert signed(main.after).tolist() == list(range(100))
    assert signed(main.before).tolist() == [0, *range(99)]
    stack = got.sink.stacks[main["stack"].iloc[0]][1]
    assert stack[0] == main.ip.iloc[0] and len(stack) >= 2
    assert got.collectors[0].name == "watch" and not any(got.losses.values())
    assert got.overhead.hits[0] == 700 and got.overhead.cost[0] > 500


def test_forked_children_go_on_with_what_the_parent_saw(program: Path) -> None:
    got = run([program, "f"], "watch:counter,mode=sigtrap,values=yes")
    child = got.hits[got.hits.pid != got.pid]
    assert signed(child.before).tolist() == [99] and signed(child.after).tolist() == [500]


def test_signals_that_merge_are_counted(program: Path) -> None:
    """Two watches of one address trap at once, and the kernel queues one signal."""
    got = run([program], "watch:counter,mode=sigtrap,access=rw", "watch:counter,mode=sigtrap")
    assert got.status == 0 and len(got.hits) >= 100
    merged = got.sink.frame("losses").query("cause == 'signals merged'").lost.sum()
    assert len(got.hits) + merged == 200


def test_the_budget_disarms(program: Path) -> None:
    got = run([program, "h", "20000000"], "watch:counter,mode=sigtrap,hits=300")
    assert got.status == 0 and len(got.hits) == 300
    assert got.windows.hits[0] == 300 + got.lost("hit budget spent") < 200_000


def test_a_preload_of_the_user_stays(program: Path) -> None:
    got = run([program], "watch:counter,mode=sigtrap", env={"LD_PRELOAD": "libm.so.6"})
    assert got.status == 0 and len(got.hits) == 100


def test_a_static_program_says_why_it_cannot(tmp_path: Path) -> None:
    static = compile_program(
        "volatile int x; int main(void) { x = 1; return 0; }", tmp_path, "static", "-static"
    )
    with pytest.raises(NotPermitted, match="did not load"):
        run([static], "watch:x,mode=sigtrap")


def test_our_own_array_and_threads() -> None:
    array = np.zeros(4)
    made, sink = ourselves(f"watch:{watch_spec_for_array(array, 2)},mode=sigtrap,values=yes")
    address = array.ctypes.data + 16

    def store() -> None:
        for value in range(50):
            ctypes.c_double.from_address(address).value = value

    store()
    other = threading.Thread(target=store)
    other.start()
    other.join()
    finish(made)
    hits = sink.frame("watches")
    assert len(hits) == 100 and hits.tid.nunique() == 2 and hits.exact.all()
    values = np.array(hits.after.tolist(), np.uint64).view(np.float64)
    assert values.tolist() == [*range(50), *range(50)]


def test_the_handler_that_was_there_gets_other_traps_and_comes_back() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTRAP, lambda number, _: seen.append(number))
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    try:
        installed = libc.signal(signal.SIGTRAP, None)
        libc.signal(signal.SIGTRAP, installed)
        array = np.zeros(1)
        made, sink = ourselves(f"watch:{watch_spec_for_array(array, 0)},mode=sigtrap")
        array[0] = 1
        os.kill(os.getpid(), signal.SIGTRAP)
        finish(made)
        assert seen == [signal.SIGTRAP] and len(sink.frame("watches")) == 1
        os.kill(os.getpid(), signal.SIGTRAP)
        assert seen == [signal.SIGTRAP] * 2
        assert libc.signal(signal.SIGTRAP, installed) == installed
    finally:
        signal.signal(signal.SIGTRAP, before)


UNPRIVILEGED = """
import ctypes, json, os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from memory_sink import MemorySink
from watched import attach, finish, run
from workbench.collectors.base import Target
from workbench.collectors.watch import signals, watch_spec_for_array
from pathlib import Path
signals.agent = lambda name: Path(sys.argv[2])
array = np.zeros(4)
def once(mode):
    sink = MemorySink()
    here = Target(os.getpid(), pids={os.getpid()})
    made = attach(["watch:" + watch_spec_for_array(array, 2) + ",mode=" + mode], here, sink)
    for value in range(30):
        array[2] = value
    notes = next(iter(made[0].notes().values()))
    finish(made)
    return notes, sink.frame("watches")
once("sigtrap")  # imports everything while the interpreter's own files can be read
run([sys.argv[3]], "watch:counter,mode=sigtrap")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which a change of user clears
notes, hits = once("auto")
command = run([sys.argv[3], "t"], "watch:counter")
print(json.dumps({"uid": os.getuid(), "mode": notes["mode"], "why": notes["why"], "own": len(hits),
    "exact": bool(hits.exact.all()), "command": len(command.hits), "command_exact": bool(command.hits.exact.all()),
    "lost": sum(command.losses.values()), "status": command.status}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_as_a_user_without_privilege(program: Path, tmp_path: Path) -> None:
    open_folder = Path("/tmp") / f"workbench-test-{os.getpid()}"
    open_folder.mkdir()
    try:
        open_folder.chmod(0o755)
        for file in (program, agent("sigtrap")):
            shutil.copy(file, open_folder)
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, SUPPORT, open_folder / "sigtrap.so", open_folder / "program"],
            capture_output=True, text=True, cwd="/", env={**os.environ, "WORKBENCH_CACHE": str(open_folder / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        said = json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(open_folder)
    assert said["uid"] == 65534 and said["mode"] == "sigtrap" and "BPF" in said["why"]
    assert said["own"] == 30 and said["exact"] and said["command"] == 700 and said["command_exact"]
    assert said["lost"] == 0 and said["status"] == 0


HARNESS = r"""
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "agents/watch_area.h"
int wb_watch_map(const char *path); int wb_watch_unmap(int number);
uint32_t wb_watch_take(void *memory, uint64_t bytes, void *out, uint32_t capacity, int skip, uint32_t *skipped);
void wb_watch_layout(uint32_t *header, uint32_t *record);
static volatile long word;
static void *stores(void *unused) { for (int i = 0; i < 2000; i++) word = i; return unused; }
int main(void) {
	size_t bytes = WATCH_HEADER + 256 * sizeof(struct watch_record);
	int file = memfd_create("area", 0), number, event;
	char path[64];
	struct watch_header *area;
	static struct watch_record out[64];
	struct perf_event_attr attr = { .type = PERF_TYPE_BREAKPOINT, .size = sizeof(attr), .sample_period = 1 };
	pthread_t threads[4];
	uint64_t got = 0, last = 0;
	uint32_t skipped = 0, n;

	if (ftruncate(file, (off_t)bytes)) return 1;
	area = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	area->magic = WATCH_MAGIC; area->version = WATCH_VERSION; area->records = 256; area->token = 5;
	area->record_bytes = sizeof(struct watch_record); area->want_values = area->want_stacks = 1;
	area->budget = area->window = 1 << 30;
	area->places[0].size = 8; area->places[0].address = (uint64_t)(uintptr_t)&word;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	number = wb_watch_map(path);
	if (number < 0) return 2;
	attr.bp_type = 2; attr.bp_addr = (uint64_t)(uintptr_t)&word; attr.bp_len = 8;
	attr.exclude_kernel = attr.exclude_hv = 1;
	attr.inherit = attr.inherit_thread = attr.remove_on_exec = attr.sigtrap = 1; attr.sig_data = 5 << 8 | 8;
	event = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (event < 0) return 3;
	for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, stores, 0);
	do {
		n = wb_watch_take(area, bytes, out, 64, 0, &skipped);
		for (uint32_t i = 0; i < n; i++) if (out[i].address != attr.bp_addr || out[i].after >= 2000) return 4;
		got += n;
		last = n ? 0 : last + 1;
		if (!n) usleep(1000);
	} while (got + area->lost_ring_full < 8000 && last < 5000);
	for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
	close(event);
	if (wb_watch_unmap(number) || wb_watch_unmap(number) == 0 || wb_watch_map("/nowhere") >= 0) return 5;
	area->version = 99;
	if (wb_watch_map(path) >= 0) return 6;
	area->records = 3;
	if (wb_watch_take(area, bytes, out, 64, 1, &skipped)) return 7;
	printf("%lu %lu %lu\n", (unsigned long)area->taken, (unsigned long)got, (unsigned long)area->lost_ring_full);
	return skipped ? 8 : 0;
}
"""


def test_the_agent_under_sanitizers(tmp_path: Path) -> None:
    """Four threads hit it at once while a reader drains a small ring; every hit is read or counted as lost."""
    native = agent("sigtrap").parents[1]
    source = tmp_path / "harness.c"
    source.write_text(HARNESS)
    flags = [
        "-std=gnu11",
        "-g",
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        f"-I{native}",
    ]
    subprocess.run(
        [
            "cc", *flags, "-o", tmp_path / "harness", source, native / "agents/sigtrap.c",
            native / "watch_area.c", "-lpthread",
        ],
        check=True,
    )  # fmt: skip
    done = subprocess.run([tmp_path / "harness"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    taken, got, lost = map(int, done.stdout.split())
    assert taken == 8000 == got + lost


def test_the_agent_is_small() -> None:
    assert agent("sigtrap").stat().st_size < 300_000
    assert platform.machine() in ("x86_64", "aarch64")
