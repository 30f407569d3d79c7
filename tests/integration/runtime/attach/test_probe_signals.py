"""Signal handlers that run probed functions, on a thread that is inside a probe itself at any instruction."""

from __future__ import annotations

from pathlib import Path

import pytest
from probed_programs import build, counting, running

from workbench.runtime.attach import Process, Request

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/time.h>
volatile uint64_t words[64];
volatile long bad, factor = 3, signals;
__attribute__((noipa)) long work(long a, long b) { return a * factor + b; }
__attribute__((noipa)) long outer(long a, long b) { return work(a, b) + work(b, a) + 1; }
static void handler(int n) { signals++; if (work(signals, n) != signals * 3 + n) bad++; }
int main(void) {
    char c;
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = handler, .sa_flags = SA_RESTART}, NULL);
    printf("%p\n", (void *)words);
    fflush(stdout);
    if (scanf(" %c", &c) != 1) return 1;
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 60}, {0, 60}}, NULL);
    for (long i = 0; signals < 20000; i++)
        if (outer(i, 5) != i * 3 + 5 + 15 + i + 1) bad++;
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    printf("%ld %ld\n", bad, signals);
    fflush(stdout);
    return scanf(" %c", &c) != 1;
}
"""


def test_handlers_return_from_probed_functions_as_well(tmp_path: Path) -> None:
    """One thread takes every signal: some come while a frame of a return probe is being written."""
    with running([build(tmp_path, "target", SOURCE)]) as program:
        words = int(program.read()[0], 16)
        with Process(program.pid) as process:
            links = process.attach_many(
                [
                    Request(counting(words), "work", "uretprobe"),
                    Request(counting(words + 8), "outer", "uretprobe"),
                    Request(counting(words + 16), "outer"),
                ]
            )
            assert program.ask("g") == ["0", "20000"]
            assert links[0].hits + links[0].missed >= 20000
