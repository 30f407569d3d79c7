"""Attaching does no harm: busy threads, sleeping system calls, signals, a killed workbench, fork, exec."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import Running, build, counting, running

from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone, UnknownSymbol
from workbench.runtime.attach import Process, Request, collect
from workbench.runtime.attach.memory import Memory

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
volatile uint64_t words[64];
volatile long bad, factor = 3, signals, rounds;
__attribute__((noipa)) long work(long a, long b) { return a * factor + b; }
__attribute__((noipa)) long outer(long a, long b) { return work(a, b) + work(b, a) + 1; }
static inline __attribute__((always_inline)) long gone(long a) { return a * factor + 7; }
static void *busy(void *unused) {
    for (long i = 0;; i++) {
        if (outer(i, 5) != i * 3 + 5 + 15 + i + 1) bad++;
        rounds++;
    }
    return unused;
}
static void *sleeper(void *unused) {
    for (;;) {
        struct timespec t = {0, 3000000};
        int e = clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
        if (e && e != EINTR) bad += 1000;
        if (poll(NULL, 0, 2) < 0 && errno != EINTR) bad += 1000;
        work(1, 2);
    }
    return unused;
}
static void handler(int n) { signals++; work(signals, n); }
int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 1500}, {0, 1500}};
    pthread_t t;
    char what[16];
    long n = argc > 1 ? atol(argv[1]) : 2;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (long i = 0; i < n; i++) pthread_create(&t, NULL, busy, NULL);
    for (int i = 0; i < 2; i++) pthread_create(&t, NULL, sleeper, NULL);
    printf("%p %ld\n", (void *)words, gone(n));
    fflush(stdout);
    while (scanf("%15s %ld", what, &n) == 2) {
        if (!strcmp(what, "exec")) {
            setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
            execv("/proc/self/exe", argv);
        }
        if (!strcmp(what, "children")) {
            for (long i = 0; i < n; i++) {
                pid_t pid = i % 2 ? fork() : vfork();
                if (!pid) { if (i % 2) outer(i, 5); execlp("true", "true", NULL); _exit(1); }
                int status = 0;
                while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
                if (!WIFEXITED(status) || WEXITSTATUS(status)) bad++;
            }
        }
        if (!strcmp(what, "sleep")) {
            struct timespec t = {0, n * 1000000}, begin, end;
            setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
            clock_gettime(CLOCK_MONOTONIC, &begin);
            int e = nanosleep(&t, NULL);
            clock_gettime(CLOCK_MONOTONIC, &end);
            long spent = (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000;
            if (e || spent < n) bad++;
            setitimer(ITIMER_REAL, &every, NULL);
        }
        printf("%ld %ld %ld %lu\n", bad, signals, rounds, (unsigned long)words[0]);
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("robust"), "target", SOURCE)


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int]]:
    with running([program, "2"]) as one:
        yield one, int(one.read()[0], 16)


def hooks(words: int) -> list[Request]:
    return [
        Request(counting(words), "work"),
        Request(counting(words + 8), "work", "uretprobe"),
        Request(counting(words + 16), "outer", "uretprobe"),
        Request(counting(words + 24), "outer"),
    ]


def goes_on(program: Running) -> None:
    """Its busy threads make progress and compute what they should."""
    begin = program.ask("state 0")
    end = time.monotonic() + 60
    while (now := program.ask("state 0"))[2] == begin[2] and time.monotonic() < end:
        time.sleep(0.01)
    assert now[0] == begin[0] == "0"
    assert now[2] != begin[2]  # two threads count, not atomically


def test_busy_and_sleeping_threads_survive_many_cycles(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        for _ in range(25):
            links = process.attach_many(hooks(words))
            process.detach(links)
        process.attach_many(hooks(words))
        goes_on(program)
    goes_on(program)
    assert int(program.ask("state 0")[3]) > 0


def test_a_sleep_that_is_held_in_the_middle_keeps_its_length(target: tuple[Running, int]) -> None:
    program, words = target
    assert program.process.stdin
    program.process.stdin.write("sleep 300\n")
    program.process.stdin.flush()
    with Process(program.pid) as process:
        for _ in range(10):
            process.attach(counting(words), "work").detach()
    assert program.read()[0] == "0"


def test_fork_vfork_and_exec_while_attached(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        process.attach_many(hooks(words))
        assert program.ask("children 40")[0] == "0"
    assert program.ask("children 10")[0] == "0"


def test_attaching_while_children_come_and_go(target: tuple[Running, int]) -> None:
    program, words = target
    assert program.process.stdin
    program.process.stdin.write("children 300\n")
    program.process.stdin.flush()
    with Process(program.pid) as process:
        for _ in range(20):
            process.detach(process.attach_many(hooks(words)))
    assert program.read()[0] == "0"


def test_killed_workbenches_leave_a_working_target(target: tuple[Running, int]) -> None:
    program, words = target
    chance = random.Random(4)
    with contextlib.closing(Memory(program.pid)) as memory:
        with Process(program.pid) as process:
            places = {link.address: b"" for link in process.attach_many(hooks(words))}
        for at in places:
            places[at] = memory.read(at, 16)
        for _ in range(25):
            child = os.fork()
            if not child:
                status = 1
                try:
                    with Process(program.pid) as process:
                        while True:
                            process.detach(process.attach_many(hooks(words)))
                except BaseException:
                    traceback.print_exc()
                    status = 2
                finally:
                    os._exit(status)
            time.sleep(chance.uniform(0, 0.15))  # the moment of death is the point of the test
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert program.ask("state 0")[0] == "0"
            found = [one for one in collect() if one.pid == program.pid]
            assert not any(one.problem for one in found)
            for at, code in places.items():
                assert memory.read(at, 16) == code
        goes_on(program)


def test_hooks_of_a_killed_workbench_are_collected(target: tuple[Running, int]) -> None:
    program, words = target
    with contextlib.closing(Memory(program.pid)) as memory:
        with Process(program.pid) as process:
            places = {link.address: b"" for link in process.attach_many(hooks(words))}
        for at in places:
            places[at] = memory.read(at, 16)
        ready, told = os.pipe()
        child = os.fork()
        if not child:
            try:
                process = Process(program.pid)
                process.attach_many(hooks(words))
                os.write(told, b"x")
                signal.pause()
            finally:
                os._exit(1)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        os.close(told)
        assert not [one for one in collect() if one.pid == program.pid], "its workbench is alive"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert all(memory.read(at, 1) == b"\xe9" for at in places)
        goes_on(program)
        found = [one for one in collect() if one.pid == program.pid]
        assert [(one.problem, one.sites >= 2) for one in found] == [("", True)]
        assert all(memory.read(at, 16) == code for at, code in places.items())
        goes_on(program)
        assert not [one for one in collect() if one.pid == program.pid]


def test_a_target_that_ends_meanwhile(program: Path) -> None:
    for i in range(5):
        with running([program, "2"]) as target:
            words = int(target.read()[0], 16)
            process = Process(target.pid)
            links = process.attach_many(hooks(words))
            target.process.kill()
            if i % 2:
                target.process.wait()
            process.detach(links)
            process.close()
    with pytest.raises(TargetGone):
        Process(target.pid)


def test_what_cannot_be_entered_is_refused_by_name(target: tuple[Running, int]) -> None:
    program, words = target
    with pytest.raises(BadSpec, match="hold itself"):
        Process(os.getpid())
    with pytest.raises(TargetGone, match="no process"):
        Process(2**22 + 1)
    thread = max(int(one.name) for one in Path(f"/proc/{program.pid}/task").iterdir())
    with pytest.raises(BadSpec, match=f"thread of process {program.pid}"):
        Process(thread)
    with Process(program.pid) as process:
        with pytest.raises(UnknownSymbol, match="inlined away"):
            process.attach(counting(words), "gone")
        with pytest.raises(MissingCapability, match="implementations"):
            process.attach(counting(words), "libc:strlen")
        assert program.ask("state 0")[0] == "0"


def test_a_traced_target_is_refused(target: tuple[Running, int]) -> None:
    program, _ = target
    tracer = (
        "import sys\nfrom workbench.runtime.attach.stop import Stop\n"
        "with Stop(int(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with running([sys.executable, "-c", tracer, str(program.pid)]) as other:
        assert other.read() == ["held"]
        with pytest.raises(NotPermitted, match=f"traced already, by process {other.pid}"):
            Process(program.pid)
    assert program.ask("state 0")[0] == "0"


@pytest.mark.skipif(os.getuid() != 0, reason="changes its user")
def test_another_users_target_is_refused(target: tuple[Running, int]) -> None:
    program, _ = target
    code = (
        "import sys\nfrom workbench.errors import NotPermitted\n"
        "from workbench.runtime.attach import Process\nimport os\nos.setgid(65534)\nos.setuid(65534)\n"
        "try:\n    Process(int(sys.argv[1]))\nexcept NotPermitted as error:\n    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(program.pid)], capture_output=True, text=True, check=True
    )
    assert "may not be entered by user 65534" in done.stdout
