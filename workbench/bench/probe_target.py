"""The program that `bench probe` and `bench attach` observe: functions of known first instructions."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import RunFailed
from workbench.native.build import compiler

__all__ = ("CLASSES", "Target", "started")

CLASSES = {
    "nop5": "5-byte nop, which the kernel makes a call",
    "push": "push %rbp, which the kernel emulates",
    "lea": "lea, which the kernel single-steps",
}
_SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
extern long nop5(long), push(long), lea(long);
__asm__(".text\n"
        ".balign 64\n.globl nop5\n.type nop5,@function\nnop5: .byte 0x0f,0x1f,0x44,0,0\n"
        "lea 1(%rdi),%rax\nret\n"
        ".size nop5,.-nop5\n"
        ".balign 64\n.globl push\n.type push,@function\npush: push %rbp\n"
        "mov %rsp,%rbp\nlea 1(%rdi),%rax\npop %rbp\nret\n"
        ".size push,.-push\n"
        ".balign 64\n.globl lea\n.type lea,@function\nlea: lea 1(%rdi),%rax\nadd $0,%rdi\nret\n.size lea,.-lea\n");
static struct { const char *name; long (*call)(long); } functions[] = {{"nop5", nop5}, {"push", push}, {"lea", lea}};
static long calls, rounds;
static long (*function)(long);
static pthread_barrier_t together;
static void *measure(void *best) {
    double least = 1e18;
    for (long r = 0; r < rounds; r++) {
        struct timespec a, b;
        pthread_barrier_wait(&together);
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (long i = 0; i < calls; i++) function(i);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double t = ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / (double)calls;
        if (t < least) least = t;
    }
    *(double *)best = least;
    return NULL;
}
static void *spin(void *unused) { for (long i = 0;; i++) { nop5(i); push(i); lea(i); } return unused; }
int main(void) {
    char name[16];
    long threads;
    while (scanf("%15s %ld %ld %ld", name, &calls, &rounds, &threads) == 4) {
        pthread_t t[64];
        double best[64], sum = 0;
        if (!strcmp(name, "spin")) {
            for (long i = 0; i < threads; i++) pthread_create(&t[i], NULL, spin, NULL);
            printf("spinning\n");
            fflush(stdout);
            continue;
        }
        for (int i = 0; i < 3; i++)
            if (!strcmp(functions[i].name, name)) function = functions[i].call;
        if (threads > 64) threads = 64;
        pthread_barrier_init(&together, NULL, threads);
        for (long i = 0; i < threads; i++) pthread_create(&t[i], NULL, measure, &best[i]);
        for (long i = 0; i < threads; i++) { pthread_join(t[i], NULL); sum += best[i]; }
        printf("%.3f\n", sum / threads);
        fflush(stdout);
    }
}
"""


class Target:
    """The running program."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process, self.path, self.pid = process, path, process.pid

    def _ask(self, line: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RunFailed(f"the observed program ended with {self.process.wait()}")
        return answer

    def measure(self, function: str, calls: int, rounds: int, threads: int = 1) -> float:
        """Least ns per call over rounds of `calls` calls; the threads' mean, which all work at the same time."""
        return float(self._ask(f"{function} {calls} {rounds} {threads}"))

    def spin(self, threads: int) -> None:
        """Start threads that call all functions for ever."""
        self._ask(f"spin 0 0 {threads}")


@contextlib.contextmanager
def started() -> Iterator[Target]:
    """Compile and start the program; it is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        source, path = Path(folder, "target.c"), Path(folder, "target")
        source.write_text(_SOURCE)
        subprocess.run([compiler(), "-O2", "-o", path, source, "-lpthread"], check=True)
        process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield Target(process, path)
        finally:
            process.kill()
            process.communicate()
