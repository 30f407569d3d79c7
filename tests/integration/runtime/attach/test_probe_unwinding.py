"""Threads that leave probed functions by other ways, in a program that loads its unwinder when it first needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import Running, build, counting, running

from workbench.errors import BadSpec
from workbench.runtime.attach import Process, Request

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#define _GNU_SOURCE
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define OUT __attribute__((noipa))
volatile uint64_t words[8];
volatile long cleaned, zero;
static sigjmp_buf back;
static int told[2];
static void clean(void *amount) { cleaned += (long)amount; }
OUT long ends(long n) { if (n) { long r = ends(n - 1); zero += 0; return r + zero; } pthread_exit((void *)77); }
OUT long waits(long n) { char c = 1; write(told[1], &c, 1); for (;;) { pause(); zero += 0; } return n; }
OUT long cleans(long (*what)(long), long n) {
    long r;
    pthread_cleanup_push(clean, (void *)1);
    r = what(n);
    pthread_cleanup_pop(0);
    return r + zero;
}
OUT long outer(long (*what)(long), long n) { long r = cleans(what, n); return r + zero; }
static void *ending(void *n) { return (void *)outer(ends, (long)n); }
static void *waiting(void *n) { return (void *)outer(waits, (long)n); }
OUT void jumps(int signal) { siglongjmp(back, signal); }
OUT long interrupted(long n) { if (n) { long r = interrupted(n - 1); return r + zero; } raise(SIGUSR1); return 1; }
OUT long deep(long n) { if (!n) return zero; long r = deep(n - 1); __asm__ volatile("" : "+r"(r)); return r + 1; }
OUT long depth(long n) { void *s[64]; if (n) { long r = depth(n - 1); return r + zero; } return backtrace(s, 64); }
int main(void) {
    char what[32], c;
    long n;
    setvbuf(stdout, 0, _IOLBF, 0);
    pipe(told);
    signal(SIGUSR1, jumps);
    printf("%p\n", (void *)words);
    while (scanf("%31s %ld", what, &n) == 2) {
        pthread_t t;
        void *r = 0;
        long sum = 0;
        if (!strcmp(what, "exit")) { pthread_create(&t, 0, ending, (void *)n); pthread_join(t, &r); sum = (long)r; }
        if (!strcmp(what, "cancel")) {
            pthread_create(&t, 0, waiting, (void *)n);
            read(told[0], &c, 1);
            pthread_cancel(t);
            pthread_join(t, &r);
            sum = r == PTHREAD_CANCELED;
        }
        if (!strcmp(what, "signal"))
            for (volatile long i = 0; i < n; i++) if (!sigsetjmp(back, 1)) interrupted(10); else sum++;
        if (!strcmp(what, "deep")) sum = deep(n);
        if (!strcmp(what, "backtrace")) sum = depth(n);
        printf("%ld %ld\n", sum, cleaned);
    }
}
"""
GREENLETS = "volatile long f = 3; __attribute__((noipa)) long switched(long a) { return a * f; }\n"
SWITCHING = r"""
#include <stdio.h>
long switched(long);
int main(void)
{
    char line[9];
    setvbuf(stdout, 0, _IOLBF, 0);
    puts("0");
    while (fgets(line, 9, stdin)) printf("%ld\n", switched(2));
}
"""


@pytest.fixture(scope="module", params=["later", "linked"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`linked` against the unwinder, which runs its cleanups; else the C library loads it when it is needed."""
    flags = ["-fexceptions"] if request.param == "linked" else []
    return build(tmp_path_factory.mktemp("unwinding"), "target", SOURCE, *flags)


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int]]:
    with running([program]) as one:
        yield one, int(one.read()[0], 16)


@pytest.mark.parametrize("what", ["exit", "cancel"])
def test_cleanups_run_when_a_thread_ends_inside(target: tuple[Running, int], what: str) -> None:
    """The first time the unwinder is loaded while we are there."""
    program, words = target
    with Process(program.pid) as process:
        names = ("ends", "waits", "cleans", "outer")
        process.attach_many([Request(counting(words), name, "uretprobe") for name in names])
        ended = "77" if what == "exit" else "1"
        for times in range(1, 4):
            assert program.ask(f"{what} 5") == [ended, str(times)]
    assert program.ask(f"{what} 5") == [ended, "4"]


def test_a_handler_that_jumps_out(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        inside = process.attach(counting(words), "interrupted", "uretprobe")
        handler = process.attach(counting(words + 8), "jumps", "uretprobe")
        entries = process.attach(counting(words + 16), "interrupted")
        assert program.ask("signal 60")[0] == "60"
        assert (inside.hits, handler.hits, entries.hits) == (0, 0, 660)
        assert program.ask("deep 20")[0] == "20"


def test_a_deep_recursion(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "deep", "uretprobe")
        assert program.ask("deep 3000")[0] == "3000"
        assert link.hits + link.missed == 3001 and link.hits >= 500
        assert program.ask("deep 100")[0] == "100"


def test_the_first_backtrace(target: tuple[Running, int], program: Path) -> None:
    with running([program]) as other:
        other.read()
        without = other.ask("backtrace 9")
    process_, words = target
    with Process(process_.pid) as process:
        process.attach(counting(words), "depth", "uretprobe")
        assert process_.ask("backtrace 9") == without
        assert process_.ask("backtrace 9") == without


def test_greenlets_are_refused(tmp_path: Path) -> None:
    """Their stacks are copied away and back: a return address that we swapped would come back later."""
    library = build(tmp_path, "_greenlet.so", GREENLETS, "-shared", "-fPIC")
    path = build(tmp_path, "green", SWITCHING, str(library), f"-Wl,-rpath,{tmp_path}")
    with running([path]) as program:
        program.read()
        with Process(program.pid) as process, pytest.raises(BadSpec, match="greenlets"):
            process.attach(counting(0), "switched", "uretprobe")
        assert program.ask() == ["6"]
