"""Return, override and replace hooks: kinds of results, recursion, tail calls, longjmp, exceptions, fork, threads."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import HandWritten, Running, build, counting, returning, running

from workbench.errors import BadSpec
from workbench.runtime.attach import Process, Request

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>
#define OUT extern "C" __attribute__((noipa))
extern "C" {
volatile uint64_t words[64];
volatile long zero = 0;
struct big { long a, b, c, d; };
}
static jmp_buf back;
OUT long plain(long a) { return a + zero + 1; }
OUT double floating(double a, float b) { return a * 2 + b + zero; }
OUT __int128 wide(long a) { return ((__int128)a << 64 | (unsigned long)a) + zero; }
OUT long double extended(long double a) { return a / 3 + zero; }
OUT big structure(long a) { return {a, a + 1, a + 2, a + 3 + zero}; }
OUT long many(long a, long b, long c, long d, long e, long f, long g, long h, double x, long i) {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + (long)x + 9 * i + zero;
}
OUT long recursive(long n) {
    if (n == 0) return zero;
    long r = recursive(n - 1);
    __asm__ volatile("" : "+r"(r));
    return r + 1;
}
OUT long last(long a) { return a * 10 + zero; }
OUT long first(long a) { words[40]++; return last(a + 1); }
OUT void leave(long n) { if (n == 0) longjmp(back, 7); leave(n - 1); words[41]++; }
OUT long thrower(long n) {
    if (n == 0) throw std::runtime_error("thrown");
    long r = thrower(n - 1);
    words[41]++;
    return r;
}
OUT long catcher(long n) {
    try { return thrower(n); } catch (const std::runtime_error &e) { return plain(strlen(e.what())); }
}
OUT long depth(long n) {
    void *stack[64];
    if (n) { long r = depth(n - 1); words[41]++; return r; }
    return backtrace(stack, 64);
}
OUT long child(long n) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) { for (long i = 0; i < n; i++) plain(i); return -1; }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
static void *loop(void *n) { for (long i = 0; i < (long)n; i++) plain(i); return nullptr; }
static void *cancelled(void *) { try { leave(-1); } catch (...) { throw; } return nullptr; }
OUT long waits(long n) { for (;;) { sleep(1); words[41] += n; } }
static void *waiting(void *) { return (void *)waits(1); }

int main() {
    char what[32];
    long n;
    std::printf("%p\n", (void *)words);
    std::fflush(stdout);
    while (std::scanf("%31s %ld", what, &n) == 2) {
        if (!strcmp(what, "plain")) { long s = 0; for (long i = 0; i < n; i++) s += plain(i); std::printf("%ld", s); }
        if (!strcmp(what, "kinds")) {
            __int128 w = wide(n); big s = structure(n);
            std::printf("%.3f %ld %ld %.3Lf ", floating(n, 0.5f), (long)(w >> 64), (long)w, extended(n));
            std::printf("%ld %ld", s.a, s.d);
        }
        if (!strcmp(what, "many")) std::printf("%ld", many(1, 2, 3, 4, 5, 6, 7, 8, 9.5, n));
        if (!strcmp(what, "floating")) std::printf("%.3f", floating(n, 0.5f));
        if (!strcmp(what, "recursive")) std::printf("%ld", recursive(n));
        if (!strcmp(what, "tail")) { long s = 0; for (long i = 0; i < n; i++) s += first(i); std::printf("%ld", s); }
        if (!strcmp(what, "longjmp")) {
            volatile long s = 0;
            for (volatile long i = 0; i < n; i++) if (setjmp(back)) s += plain(1); else leave(20);
            std::printf("%ld", (long)s);
        }
        if (!strcmp(what, "throw")) {
            long s = 0;
            for (long i = 0; i < n; i++) s += catcher(i % 20);
            std::printf("%ld", s);
        }
        if (!strcmp(what, "backtrace")) std::printf("%ld", depth(n));
        if (!strcmp(what, "fork")) { long r = child(n); if (r == -1) _exit(42); std::printf("%ld", r); }
        if (!strcmp(what, "threads")) {
            for (int round = 0; round < 20; round++) {
                pthread_t t[4];
                for (auto &one : t) pthread_create(&one, nullptr, loop, (void *)n);
                for (auto &one : t) pthread_join(one, nullptr);
            }
            std::printf("%ld", n);
        }
        if (!strcmp(what, "cancel")) {
            pthread_t t; void *r;
            pthread_create(&t, nullptr, waiting, nullptr);
            usleep(20000);
            pthread_cancel(t); pthread_join(t, &r);
            std::printf("%d", r == PTHREAD_CANCELED);
        }
        for (int i = 0; i < 4; i++) std::printf(" %lu", (unsigned long)words[i]);
        std::printf("\n");
        std::fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module", params=["pie", "static"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"pie": ["-pie", "-fPIE"], "static": ["-static"]}[request.param]
    return build(tmp_path_factory.mktemp(request.param), "target.cc", SOURCE, *flags)


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int]]:
    with running([program]) as one:
        yield one, int(one.read()[0], 16)


def summing(address: int) -> HandWritten:
    """Adds rax of struct pt_regs to a word of the target."""
    return HandWritten(
        b"\x48\x8b\x47\x50\x48\xb9" + struct.pack("<Q", address) + b"\xf0\x48\x01\x01\x31\xc0\xc3"
    )


def overriding(value: int, only_if_first_argument: int) -> HandWritten:
    """bpf_override_return(ctx, value) where rdi has a value."""
    return HandWritten(
        b"\x48\x8b\x47\x70"  # mov 112(%rdi),%rax: di
        b"\x48\x3d"
        + struct.pack("<i", only_if_first_argument)
        + b"\x75\x16"  # cmp; jne over 22 bytes
        b"\xc7\x46\x68\x01\x00\x00\x00"  # movl $1,104(%rsi): run->overridden
        b"\x48\xb8" + struct.pack("<Q", value % 2**64) + b"\x48\x89\x46\x60\x90"  # run->changed
        b"\x31\xc0\xc3"
    )


def test_results_are_seen_and_stay(target: tuple[Running, int]) -> None:
    program, words = target
    without = program.ask("kinds 5")[:6]
    with Process(program.pid) as process:
        link = process.attach(summing(words), "plain", "uretprobe")
        kinds = process.attach_many(
            [
                Request(counting(words + 8), name, "uretprobe")
                for name in ("floating", "wide", "extended", "structure")
            ]
        )
        said = program.ask("plain 100")
        assert said[:2] == ["5050", "5050"]
        assert link.hits == 100
        assert program.ask("kinds 5")[:6] == without
        assert [one.hits for one in kinds] == [1, 1, 1, 1]
        link.detach()
        assert program.ask("plain 10")[:2] == ["55", "5050"]


def test_entry_and_return_on_one_function_with_stack_arguments(target: tuple[Running, int]) -> None:
    program, words = target
    without = program.ask("many 3")[0]
    with Process(program.pid) as process:
        process.attach_many(
            [Request(counting(words), "many"), Request(counting(words + 8), "many", "uretprobe")]
        )
        assert program.ask("many 3")[:3] == [without, "1", "1"]


def test_recursion_deeper_than_we_follow(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "recursive", "uretprobe")
        assert program.ask("recursive 100")[:2] == ["100", "101"]
        assert program.ask("recursive 2000")[0] == "2000"
        assert link.hits == 101 + 512
        assert link.missed == 2001 - 512


def test_tail_calls_return_for_both(target: tuple[Running, int]) -> None:
    program, words = target
    without = program.ask("tail 4")[0]
    with Process(program.pid) as process:
        process.attach_many(
            [
                Request(counting(words), "first", "uretprobe"),
                Request(counting(words + 8), "last", "uretprobe"),
            ]
        )
        assert program.ask("tail 4")[:3] == [without, "4", "4"]


def test_longjmp_over_probed_functions(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        leave = process.attach(counting(words), "leave", "uretprobe")
        plain = process.attach(counting(words + 8), "plain", "uretprobe")
        assert program.ask("longjmp 200")[:3] == ["400", "0", "200"]
        assert (leave.hits, plain.hits, plain.missed) == (0, 200, 0)
        assert program.ask("recursive 50")[0] == "50"


def test_exceptions_through_probed_functions(target: tuple[Running, int]) -> None:
    program, words = target
    without = program.ask("throw 100")[0]
    with Process(program.pid) as process:
        returns = process.attach(counting(words), "thrower", "uretprobe")
        entries = process.attach(counting(words + 8), "thrower")
        process.attach(counting(words + 16), "catcher", "uretprobe")
        assert program.ask("throw 100")[0] == without
        assert entries.hits == 5 * sum(range(1, 21))
        assert returns.hits + returns.missed == entries.hits


def test_backtraces_see_through_swapped_addresses(target: tuple[Running, int]) -> None:
    program, words = target
    without = program.ask("backtrace 10")[0]
    with Process(program.pid) as process:
        link = process.attach(counting(words), "depth", "uretprobe")
        assert program.ask("backtrace 10")[0] == without
        assert link.hits + link.missed == 11


def test_cancellation_unwinds_probed_functions(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        process.attach(counting(words), "waits", "uretprobe")
        assert program.ask("cancel 0")[0] == "1"


def test_a_forked_child_returns_and_is_probed(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        process.attach(counting(words), "child", "uretprobe")
        process.attach(counting(words + 8), "plain")
        said = program.ask("fork 10")
        assert said[:3] == ["42", "1", "0"], "the child counts in its own memory"


def test_many_short_threads(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "plain", "uretprobe")
        assert program.ask("threads 500")[:2] == ["500", str(20 * 4 * 500)]
        assert link.hits == 20 * 4 * 500


def test_override_skips_where_the_program_says_so(target: tuple[Running, int]) -> None:
    program, _ = target
    with Process(program.pid) as process:
        process.attach(overriding(1000, 3), "plain", "override")
        assert program.ask("plain 5")[0] == str(1 + 2 + 3 + 1000 + 5)
    assert program.ask("plain 5")[0] == "15"


def test_replace_gives_the_result(target: tuple[Running, int]) -> None:
    program, _ = target
    with Process(program.pid) as process:
        process.attach(returning(-7), "many", "replace")
        half = struct.unpack("<q", struct.pack("<d", 0.5))[0]
        process.attach(returning(half), "floating", "replace")
        assert program.ask("many 3")[0] == "-7"
        assert program.ask("floating 9")[0] == "0.500"
    assert program.ask("floating 9")[0] == "18.500"


def test_returns_of_the_middle_of_a_function_are_refused(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process, pytest.raises(BadSpec, match="not the first instruction"):
        process.attach(counting(words), "plain+1", "uretprobe")
