"""Samples of CPU time by signals: where it is spent, with threads, blocked signals, exec and killed workbenches."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench.objects.model import BpfObject
from workbench.runtime.attach import collect
from workbench.runtime.attach.stop import status_fields

pytestmark = pytest.mark.needs("ptrace", "clang", "sigtrap breakpoint")

PROGRAM = """
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 65536); __type(key, __u64); __type(value, __u64); }
	places SEC(".maps"), threads SEC(".maps");
__u64 total, periods, addresses;
SEC("perf_event") int sampled(struct bpf_perf_event_data *ctx)
{
	__u64 one = 1, ip = ctx->regs.rip, tid = (__u32)bpf_get_current_pid_tgid(), *found;
	__sync_fetch_and_add(&total, 1);
	__sync_fetch_and_add(&periods, ctx->sample_period);
	__sync_fetch_and_add(&addresses, ctx->addr);
	found = bpf_map_lookup_elem(&places, &ip);
	if (found)
		__sync_fetch_and_add(found, 1);
	else
		bpf_map_update_elem(&places, &ip, &one, BPF_NOEXIST);
	found = bpf_map_lookup_elem(&threads, &tid);
	if (found)
		__sync_fetch_and_add(found, 1);
	else
		bpf_map_update_elem(&threads, &tid, &one, BPF_NOEXIST);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""

TARGET = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static volatile unsigned long sink;
__attribute__((noinline)) void heavy(void) { for (int i = 0; i < 30000; i++) sink += i; }
__attribute__((noinline)) void light(void) { for (int i = 0; i < 10000; i++) sink ^= i; }
static double spent(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}
static void *work(void *seconds)
{
	double end = spent(CLOCK_THREAD_CPUTIME_ID) + *(double *)seconds;
	while (spent(CLOCK_THREAD_CPUTIME_ID) < end)
		heavy(), light();
	return seconds;
}
int main(void)
{
	char line[64];
	setvbuf(stdout, 0, _IONBF, 0);
	setvbuf(stdin, 0, _IONBF, 0); // what follows an exec is for the new program
	printf("%p %p\n", (void *)heavy, (void *)light);
	while (fgets(line, sizeof line, stdin)) {
		double seconds = atof(line + 1);
		pthread_t threads[4];
		sigset_t all, old;
		switch (line[0]) {
		case 'w':
			work(&seconds);
			break;
		case 't': /* threads come and go */
			for (int round = 0; round < 5; round++) {
				for (int i = 0; i < 4; i++)
					pthread_create(&threads[i], 0, work, &seconds);
				for (int i = 0; i < 4; i++)
					pthread_join(threads[i], 0);
			}
			break;
		case 'b': /* with every signal blocked, then not */
			sigfillset(&all);
			pthread_sigmask(SIG_SETMASK, &all, &old);
			work(&seconds);
			pthread_sigmask(SIG_SETMASK, &old, 0);
			break;
		case 'k': /* stays blocked */
			sigfillset(&all);
			pthread_sigmask(SIG_SETMASK, &all, &old);
			work(&seconds);
			break;
		case 'u':
			pthread_sigmask(SIG_SETMASK, &old, 0);
			break;
		case 's': /* sleeps: how much was left of it */
			printf("%d ", (int)sleep((int)seconds));
			break;
		case 'x':
			execl("/bin/cat", "cat", (char *)0);
		}
		puts("done");
	}
	return 0;
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sampling") / "sampled.bpf.c"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def obj(source: Path) -> BpfObject:
    return wb.compile(source)


class Target:
    """The program, asked line by line."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        self._out, self._in = self.process.stdout, self.process.stdin
        self.heavy, self.light = (int(word, 16) for word in self._out.readline().split())
        self.pid = self.process.pid

    def tell(self, what: str, seconds: float = 0) -> None:
        self._in.write(f"{what}{seconds}\n")
        self._in.flush()

    def ask(self, what: str, seconds: float = 0) -> str:
        self.tell(what, seconds)
        return self._out.readline()

    def own_handler(self) -> bool:
        """A handler of SIGTRAP is installed."""
        return bool(int(status_fields(self.pid)["SigCgt"], 16) >> (signal.SIGTRAP - 1) & 1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "target.c").write_text(TARGET)
    subprocess.run(
        ["gcc", "-O1", "-o", folder / "target", folder / "target.c", "-pthread"], check=True
    )
    return folder / "target"


@pytest.fixture
def target(program: Path) -> Iterator[Target]:
    made = Target(program)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def within(loaded: object, start: int, size: int = 64) -> int:
    """Samples with a program counter in [start, start + size)."""
    keys, values = loaded.maps["places"].table()  # type: ignore[attr-defined]
    return int(values[(keys >= start) & (keys < start + size)].sum())


def test_where_time_is_spent(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("sampled", "1999")
        target.ask("w", 0.5)
        heavy, light = within(loaded, target.heavy), within(loaded, target.light)
        total = int(loaded.globals["total"][()])
        link.close()
        target.ask("w", 0.1)
        assert int(loaded.globals["total"][()]) == total == link.hits + link.missed
        # The clock of the events is the thread's CPU time: at most what the loop spent and a little around it.
        assert 0.7 * 1000 <= total <= 1.25 * 1000
        assert heavy + light > 0.8 * total
        assert heavy / (heavy + light) == pytest.approx(0.75, abs=0.08)
        assert int(loaded.globals["periods"][()]) == total * (1_000_000_000 // 1999)
        assert int(loaded.globals["addresses"][()]) == 0
    assert not target.own_handler()
    assert target.ask("w") == "done\n"


def test_threads_that_come_and_go(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("sampled", "1999")
        target.ask("t", 0.05)
        keys, values = loaded.maps["threads"].table()
        busy = [tid for tid, n in zip(keys, values, strict=True) if tid != target.pid and n > 40]
        assert len(busy) == 20
        assert within(loaded, target.heavy) + within(loaded, target.light) > 0.8 * 20 * 0.05 * 1999 * 0.75


def test_blocked_signals(obj: BpfObject, target: Target) -> None:
    """A thread that blocks SIGTRAP is not sampled, but lives, also when the signal comes after the detach."""
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("sampled", "1999")
        target.ask("b", 0.1)
        assert 0 < int(loaded.globals["total"][()]) < 20
        target.ask("k", 0.1)
        link.close()
        assert target.own_handler()  # one is pending: the handler stays to take it
        target.ask("u")
        assert target.ask("w", 0.01) == "done\n"
        with loaded.attach("sampled", "1999"):  # and is used again
            before = int(loaded.globals["total"][()])
            target.ask("w", 0.1)
            assert int(loaded.globals["total"][()]) > before + 50
    assert not target.own_handler()


def test_sleeping_calls_are_not_cut_short(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded, loaded.attach("sampled", "9999"):
        assert target.ask("s", 1) == "0 done\n"


def test_executed_program_lives(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded, loaded.attach("sampled", "9999"):
        target.ask("w", 0.05)
        target.tell("x")
        assert target.ask("hello ") == "hello 0\n"  # it is cat now
    assert target.ask("hello ") == "hello 0\n"


CRASHES = """
import sys, time
import workbench as wb
loaded = wb.compile(sys.argv[1]).load("userspace", pid=int(sys.argv[2]))
loaded.attach("sampled", "1999")
print("attached", flush=True)
time.sleep(600)
"""


def test_killed_workbench(source: Path, target: Target) -> None:
    """Its events end with it; the handler is taken out by whoever collects."""
    with subprocess.Popen(
        [sys.executable, "-c", CRASHES, str(source), str(target.pid)],
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "attached\n"
        target.ask("w", 0.05)
        other.kill()
        other.communicate()
    assert target.own_handler()
    assert target.ask("w", 0.05) == "done\n"
    found = {one.pid: one.problem for one in collect()}
    assert found.get(target.pid, "") == ""
    assert not target.own_handler()
    assert target.ask("w", 0.05) == "done\n"
