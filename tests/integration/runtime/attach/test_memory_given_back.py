"""A process has its memory back when the workbench leaves it, however often that is and whatever its threads do."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from probed_programs import Running, build, counting, running

import workbench as wb
from workbench.errors import NotPermitted
from workbench.objects.model import BpfObject
from workbench.runtime.attach import Process, Request, collect
from workbench.runtime.attach.agent import image
from workbench.runtime.attach.hold import Hold
from workbench.runtime.attach.ledger import read_ledger, write_ledger
from workbench.runtime.attach.memory import mappings
from workbench.runtime.maps.space import collect as collect_spaces
from workbench.runtime.maps.space import root

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
volatile uint64_t words[64];
volatile long bad, factor = 3, rounds;
static int door[2], told[2];
static pthread_t sleeper;
__attribute__((noipa)) long work(long a, long b) { return a * factor + b; }
__attribute__((noipa)) long outer(long a, long b) { return work(a, b) + work(b, a) + 1; }
__attribute__((noipa)) long asleep(long a) {
    char c;
    if (write(told[1], "x", 1) != 1 || read(door[0], &c, 1) != 1) return -1;
    return a * factor + rounds * 0;
}
static void *busy(void *unused) {
    pthread_mutex_t mutex[2]; /* robust: they are in the list that a participant's line is in as well */
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < 2; i++) pthread_mutex_init(&mutex[i], &robust);
    for (long i = 0;; i++) {
        if (i % 64 == 0 && pthread_mutex_lock(&mutex[i / 64 % 2])) bad++;
        if (i >= 64 && i % 64 == 32 && pthread_mutex_unlock(&mutex[i / 64 % 2 ^ 1])) bad++;
        if (outer(i, 5) != i * 3 + 5 + 15 + i + 1) bad++;
        rounds++;
    }
    return unused;
}
static void *sleeping(void *n) { return (void *)asleep((long)n); }
static void ignored(int n) { (void)n; }
static char shared_stack[65536] __attribute__((aligned(16)));
static int sharing(void *unused) { (void)unused; for (;;) pause(); }
int main(int argc, char **argv) {
    char what[16], c;
    long n = argc > 1 ? atol(argv[1]) : 2;
    pthread_t t;
    void *result;
    setvbuf(stdin, malloc(4096), _IOFBF, 4096);
    setvbuf(stdout, malloc(4096), _IOFBF, 4096);
    if (pipe(door) || pipe(told)) return 1;
    for (long i = 0; i < n; i++) pthread_create(&t, NULL, busy, NULL);
    pthread_create(&sleeper, NULL, sleeping, (void *)1);
    if (read(told[0], &c, 1) != 1 || write(door[1], "x", 1) != 1) return 1;
    pthread_join(sleeper, &result);
    printf("%p\n", (void *)words);
    fflush(stdout);
    while (scanf("%15s %ld", what, &n) == 2) {
        long said = 0;
        if (!strcmp(what, "sleep")) {
            pthread_create(&sleeper, NULL, sleeping, (void *)n);
            if (read(told[0], &c, 1) != 1) bad++;
        }
        if (!strcmp(what, "wake")) {
            if (write(door[1], "x", 1) != 1) bad++;
            pthread_join(sleeper, &result);
            said = (long)result;
        }
        if (!strcmp(what, "fork") && !(said = fork())) for (;;) { outer(1, 2); pause(); }
        if (!strcmp(what, "share")) said = clone(sharing, shared_stack + sizeof shared_stack, CLONE_VM | SIGCHLD, NULL);
        if (!strcmp(what, "filter")) {
            struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
            struct sock_fprog filter = {1, &all};
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) bad++;
        }
        if (!strcmp(what, "handle")) signal(SIGSEGV, ignored);
        printf("%ld %ld %ld\n", bad, rounds, said);
        fflush(stdout);
    }
}
"""
PROGRAM = """
#include "workbench.h"
RING(calls);
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} counts SEC(".maps");
__u64 total;
SEC("uprobe") int called(void *ctx)
{
	__u64 key = bpf_get_current_pid_tgid(), one = 1, *found = bpf_map_lookup_elem(&counts, &key);
	if (found)
		*found += 1;
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	__sync_fetch_and_add(&total, 1);
	bpf_ringbuf_output(&calls, &key, sizeof(key), 0);
	return 0;
}
SEC("uretprobe") int returned(void *ctx)
{
	__sync_fetch_and_add(&total, 1);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("given"), "target", SOURCE)


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int]]:
    with running([program, "2"]) as one:
        yield one, int(one.read()[0], 16)


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("object") / "given.bpf.c"
    path.write_text(PROGRAM)
    return wb.compile(path)


def memory_of(pid: int) -> list[tuple[int, int, str, str]]:
    """Its mappings; the kernel moves the end of the stack."""
    return [
        (one.start, one.end, one.mode, one.path) for one in mappings(pid) if one.path != "[stack]"
    ]


def given_back(pid: int) -> list[tuple[int, int, str, str]]:
    """Its mappings when nothing of ours is noted any more: a thread may have been inside when we left."""
    end = time.monotonic() + 120
    while list(root().glob(f"{pid}-*.left")) and time.monotonic() < end:
        collect()
        time.sleep(0.02)
    assert not list(root().glob(f"{pid}-*.left"))
    assert not list(root().glob(f"{pid}-*.hooks"))
    return memory_of(pid)


def still_there(was: list[tuple[int, int, str, str]], pid: int) -> bool:
    """Every byte of these mappings is mapped as it was; the kernel joins mappings that touch."""
    now = sorted(memory_of(pid))
    for start, end, mode, path in was:
        for low, high, *kind in now:
            if kind == [mode, path] and low <= start < high:
                start = high
        if start < end:
            return False
    return True


def goes_on(program: Running) -> None:
    """Its busy threads make progress and compute what they should."""
    begin = program.ask("state 0")
    end = time.monotonic() + 60
    while (now := program.ask("state 0"))[1] == begin[1] and time.monotonic() < end:
        time.sleep(0.01)
    assert now[0] == begin[0] == "0"
    assert now[1] != begin[1]


def hooks(words: int) -> list[Request]:
    return [
        Request(counting(words), "work"),
        Request(counting(words + 8), "work", "uretprobe"),
        Request(counting(words + 16), "outer", "uretprobe"),
    ]


@pytest.mark.needs("clang")
def test_recorded_thirty_times(target: tuple[Running, int], obj: BpfObject) -> None:
    program, _ = target
    before = memory_of(program.pid)
    for _ in range(30):
        with obj.load("userspace", pid=program.pid) as loaded:
            loaded.attach("called", "target:work")
            loaded.attach("returned", "target:outer")
            end = time.monotonic() + 60
            while not loaded.globals["total"] and time.monotonic() < end:
                time.sleep(0.001)
            assert loaded.globals["total"]
            assert len(memory_of(program.pid)) > len(before)
    assert given_back(program.pid) == before
    goes_on(program)


def test_entered_and_left_under_threads_that_never_sleep(target: tuple[Running, int]) -> None:
    program, words = target
    before = memory_of(program.pid)
    for _ in range(25):
        with Process(program.pid) as process:
            process.attach_many(hooks(words))
    assert given_back(program.pid) == before
    goes_on(program)


def killed(pid: int, obj: BpfObject) -> int:
    """Who entered the process and was killed there; nobody has waited for it yet."""
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            loaded = obj.load("userspace", pid=pid)
            loaded.attach("called", "target:work")
            loaded.attach("returned", "target:outer")
            os.write(told, b"x")
            signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return child


@pytest.mark.needs("clang")
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_what_a_killed_workbench_left(
    target: tuple[Running, int], obj: BpfObject, reaped: bool
) -> None:
    program, _ = target
    before = memory_of(program.pid)
    child = killed(program.pid, obj)
    if reaped:
        os.waitpid(child, 0)
    assert len(memory_of(program.pid)) > len(before)
    assert {one.problem for one in collect() if one.pid == program.pid} == {""}
    assert given_back(program.pid) == before
    if not reaped:
        os.waitpid(child, 0)
    collect_spaces()
    goes_on(program)


@pytest.mark.needs("clang")
def test_who_enters_a_process_cleans_up_there_and_nowhere_else(
    target: tuple[Running, int],
    obj: BpfObject,
    program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path))  # no other workbench may be first
    one, _ = target
    before = memory_of(one.pid)
    os.waitpid(killed(one.pid, obj), 0)
    child = int(one.ask("fork 0")[2])
    try:
        with running([program, "1"]) as other:
            other.read()
            Process(other.pid).close()
        left = memory_of(one.pid)
        assert min(len(left), len(memory_of(child))) > len(before)
        Process(child).close()
        assert given_back(child) == before
        assert memory_of(one.pid) == left
        Process(one.pid).close()
        assert given_back(one.pid) == before
    finally:
        os.kill(child, signal.SIGKILL)
    collect_spaces()
    goes_on(one)


def test_whoever_cleans_up_is_waited_for_and_whoever_records_is_not(
    target: tuple[Running, int],
) -> None:
    program, _ = target
    first = Hold(program.pid)
    with pytest.raises(NotPermitted, match="already"):
        Hold(program.pid)
    threading.Timer(0.1, first.close).start()
    Hold(program.pid, patience=60).close()
    with Process(program.pid), pytest.raises(NotPermitted, match="already"):
        Process(program.pid)


def test_a_thread_asleep_in_a_function_whose_return_is_probed(target: tuple[Running, int]) -> None:
    program, words = target
    program.ask("sleep 5")
    program.ask("wake 0")
    before = memory_of(program.pid)
    with Process(program.pid) as process:
        link = process.attach(counting(words), "asleep", "uretprobe")
        program.ask("sleep 7")
        assert link.hits == 0
    assert given_back(program.pid) == before
    assert program.ask("wake 0")[2] == "21"
    goes_on(program)


def test_a_thread_asleep_in_a_system_call_of_ours(target: tuple[Running, int]) -> None:
    program, words = target
    program.ask("sleep 5")
    program.ask("wake 0")
    before = memory_of(program.pid)
    sizes = []
    for i in range(4):
        with Process(program.pid) as process:
            link = process.system_calls.attach(counting(words), "enter", number=0)
            process.attach(counting(words + 8), "asleep")
            if not i:
                program.ask("sleep 7")
                end = time.monotonic() + 60
                while link.hits < 3 and time.monotonic() < end:
                    time.sleep(0.001)
                assert link.hits == 3, "the new thread's read(2), and the first one's for it and for us"
        sizes.append(sum(end - start for start, end, _, _ in memory_of(program.pid)))
        assert list(root().glob(f"{program.pid}-*.left")), "its trampoline must stay"
    assert sizes[1:] == sizes[1:2] * 3, "what had to stay is used again"
    assert program.ask("wake 0")[2] == "21"
    goes_on(program)
    assert given_back(program.pid) == before


def test_a_child_that_was_forked_meanwhile(target: tuple[Running, int]) -> None:
    program, words = target
    before = memory_of(program.pid)
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
        child = int(program.ask("fork 0")[2])
        assert len(memory_of(child)) > len(before)
    try:
        assert given_back(program.pid) == before
        assert given_back(child) == before
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    goes_on(program)


def test_a_child_that_shares_the_memory_is_not_taken_for_a_fork(
    target: tuple[Running, int],
) -> None:
    """What is freed in it, as in a child of vfork, is freed in the process, whose threads nobody holds then."""
    program, words = target
    before = memory_of(program.pid)
    child = int(program.ask("share 0")[2])
    with Process(program.pid) as process:
        process.attach_many(
            [Request(counting(words), name, "uretprobe") for name in ("work", "outer")]
        )
        goes_on(program)
    goes_on(program)
    assert list(root().glob(f"{program.pid}-*.left"))
    collect()
    goes_on(program)
    os.kill(child, signal.SIGKILL)
    assert given_back(program.pid) == before
    goes_on(program)


def test_a_handler_that_may_call_ours_keeps_the_agent(target: tuple[Running, int]) -> None:
    program, words = target
    before = memory_of(program.pid)
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
        program.ask("handle 0")
        agent = process.room.agent
        assert agent
        low, high = agent.base, agent.base + agent.size
    left = [one for one in given_back(program.pid) if one not in before]
    assert left
    assert all(low <= start and end <= high for start, end, _, _ in left)
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
    assert [one for one in given_back(program.pid) if one not in before] == left
    goes_on(program)


def test_a_filter_that_was_installed_since_meets_no_new_system_call(
    target: tuple[Running, int],
) -> None:
    program, words = target
    before = memory_of(program.pid)
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
        assert program.ask("filter 0")[0] == "0"
    assert list(root().glob(f"{program.pid}-*.left"))
    assert set(before) < set(memory_of(program.pid))
    goes_on(program)


def test_what_another_version_left_is_neither_used_nor_freed(target: tuple[Running, int]) -> None:
    program, words = target
    own = memory_of(program.pid)
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
        room = process.room
        assert room.agent
        first = room.agent
        ledger = read_ledger(process.memory, first.ledger, room.mark)
        assert ledger
        write_ledger(process.memory, first.ledger, replace(ledger, version=b"x" * 16))
    left = [one for one in memory_of(program.pid) if one not in own]
    assert [one for one in left if first.base <= one[0] < first.base + first.size]
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
        assert process.room.agent
        assert process.room.agent.base != first.base
    collect()
    assert still_there(left, program.pid)
    goes_on(program)


@pytest.mark.needs("clang")
def test_what_enters_a_process(target: tuple[Running, int], obj: BpfObject) -> None:
    from workbench.native.build import agent

    program, _ = target
    before = memory_of(program.pid)
    assert agent("runtime").stat().st_size < 300 * 1024
    with obj.load("userspace", pid=program.pid) as loaded:
        loaded.attach("called", "target:work")
        new = [one for one in memory_of(program.pid) if one not in before]
    files = {path for _, _, _, path in new if path}
    assert files
    assert all(path.startswith(str(root())) for path in files), files
    assert not [mode for _, _, mode, _ in new if "w" in mode and "x" in mode]
    code = sum(end - start for start, end, mode, _ in new if "x" in mode)
    assert code < 600 * 1024
    assert struct.calcsize("P") == 8
    assert image().version != bytes(16)
