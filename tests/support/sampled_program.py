"""A program that spends CPU time as it is told, and one that samples it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from workbench.runtime.attach.stop import status_fields

__all__ = ("PROGRAM", "TARGET", "Target", "within")

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
#include <sys/wait.h>
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
		case 'f': /* a child works */
			if (!fork()) {
				work(&seconds);
				_exit(0);
			}
			wait(0);
			break;
		case 'x':
			execl("/bin/cat", "cat", (char *)0);
		}
		puts("done");
	}
	return 0;
}
"""


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

    def handled(self) -> set[int]:
        """Signals that have a handler."""
        mask = int(status_fields(self.pid)["SigCgt"], 16)
        return {number for number in range(1, 65) if mask >> (number - 1) & 1}

    def own_handler(self) -> bool:
        """A handler of SIGTRAP is installed."""
        return signal.SIGTRAP in self.handled()


def within(loaded: object, start: int, size: int = 64) -> int:
    """Samples with a program counter in [start, start + size)."""
    keys, values = loaded.maps["places"].table()  # type: ignore[attr-defined]
    return int(values[(keys >= start) & (keys < start + size)].sum())
