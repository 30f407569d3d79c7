"""A process is held, or not, whatever its threads are about to do; it comes to no harm, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from calling_programs import wait_for, word
from probed_programs import Running, build, counting, running

from workbench.errors import MissingCapability, RunFailed
from workbench.runtime.attach import Process, ptrace
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import Calls
from workbench.runtime.attach.stop import Stop, state, status_fields, thread_ids

pytestmark = [pytest.mark.needs("ptrace")]

_Result = TypeVar("_Result")
GETPID = 39

# Commands with a number: call A; raise SIGNAL; leave (the first thread ends). A thread for which `argv[1]` is a pipe
# does what it is told there: v (vfork; the child waits for a byte), x (exec). Another does nothing.
SOURCE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
volatile uint64_t words[64];
volatile long factor = 3;
static int told;
static char **arguments;
__attribute__((noipa)) long work(long a, long b) { return a * factor + b; }
static void handler(int n) { words[n]++; }
static void *idle(void *unused) { for (;;) pause(); return unused; }
static void *actor(void *unused) {
    char what;
    while (read(told, &what, 1) == 1) {
        if (what == 'x') execv(arguments[0], arguments);
        if (what == 'v') {
            pid_t pid = vfork();
            if (!pid) { char c; _exit(read(told, &c, 1) != 1); }
            words[0]++;
        }
    }
    return unused;
}
int main(int argc, char **argv) {
    pthread_t t;
    char what[16];
    long n;
    arguments = argv;
    for (int i = 0; i < 2; i++)
        sigaction(i ? SIGSEGV : SIGUSR1, &(struct sigaction){.sa_handler = handler, .sa_flags = SA_RESTART}, NULL);
    if (argc > 1) {
        told = atoi(argv[1]);
        pthread_create(&t, NULL, idle, NULL);
        pthread_create(&t, NULL, actor, NULL);
    }
    printf("%p\n", (void *)words); fflush(stdout);
    while (scanf("%15s %ld", what, &n) == 2) {
        if (!strcmp(what, "leave")) pthread_exit(NULL);
        if (!strcmp(what, "raise")) raise(n);
        printf("%ld\n", work(n, 1));
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hold"), "target", SOURCE)


class Told(Running):
    """The program, the address of its words, and the pipe to its actor."""

    words = 0
    pipe = -1

    @property
    def idle(self) -> int:
        return thread_ids(self.pid)[1]

    @property
    def actor(self) -> int:
        return thread_ids(self.pid)[2]

    def tell(self, what: bytes) -> None:
        os.write(self.pipe, what)

    def is_vforking(self) -> bool:
        return state(self.pid, self.actor) == "D"

    def is_traced(self) -> bool:
        return any(
            status_fields(self.pid, one).get("TracerPid", "0") != "0"
            for one in thread_ids(self.pid)
        )


@pytest.fixture
def target(program: Path) -> Iterator[Told]:
    read, write = os.pipe()
    try:
        # A process group without a parent in its session (ours may be) is not stopped by SIGTTIN.
        with running([program, str(read)], pass_fds=(read,), process_group=0) as one:
            told = Told(one.process)
            told.words, told.pipe = int(told.read()[0], 16), write
            yield told
    finally:
        os.close(read)
        os.close(write)


class Started:
    """Something that runs in a thread; it must end, which a wait in the kernel may not."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what = what
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._what()
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        self._thread.join(90)
        assert not self._thread.is_alive(), "it does not end"
        if self._error:
            raise self._error


def hold(pid: int) -> None:
    with Stop(pid) as stop:
        assert set(stop.threads) == set(thread_ids(pid))


def before_seizing(
    monkeypatch: pytest.MonkeyPatch, thread: int, happen: Callable[[], None]
) -> threading.Event:
    """Let something happen right before a thread is seized for the first time."""
    seize, done = ptrace.seize, threading.Event()

    def wrapped(one: int) -> None:
        if one == thread and not done.is_set():
            done.set()
            happen()
        seize(one)

    monkeypatch.setattr(ptrace, "seize", wrapped)
    return done


def test_nothing_is_held_while_a_thread_waits_for_its_vfork_child(target: Told) -> None:
    target.tell(b"v")
    wait_for(target.is_vforking)
    with pytest.raises(RunFailed, match="uninterruptible"), Stop(target.pid, patience=0.2):
        pass
    assert not target.is_traced()
    with Process(target.pid) as process:
        attaching = Started(lambda: process.attach(counting(target.words + 8), "work"))
        assert target.ask("call 2") == ["7"]
        target.tell(b"g")
        attaching.end()
        assert target.ask("call 2") == ["7"]
        assert word(target.pid, target.words + 8) == 1


def test_a_vfork_in_the_moment_of_holding(target: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other threads go on until the child is done."""

    def vfork() -> None:
        target.tell(b"v")
        wait_for(target.is_vforking)

    actor, idle = target.actor, target.idle
    done = before_seizing(monkeypatch, actor, vfork)
    holding = Started(lambda: hold(target.pid))
    assert done.wait(60)
    wait_for(lambda: status_fields(target.pid, actor)["TracerPid"] != "0")
    wait_for(lambda: status_fields(target.pid, idle)["TracerPid"] == "0")
    assert target.ask("call 2") == ["7"]
    target.tell(b"g")
    holding.end()
    wait_for(lambda: word(target.pid, target.words) == 1)
    assert not target.is_traced()


def test_an_exec_in_the_moment_of_holding(target: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until the threads that are traced already are reaped, and seizing the next thread waits for it."""
    actor, idle = target.actor, target.idle

    def execute() -> None:
        target.tell(b"x")
        wait_for(lambda: state(target.pid, idle) == "Z")

    before_seizing(monkeypatch, actor, execute)
    Started(lambda: hold(target.pid)).end()
    assert int(target.read()[0], 16)
    assert target.ask("call 2") == ["7"]
    assert not target.is_traced()


def test_a_first_thread_that_ends_in_the_moment_of_holding(
    target: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt, first = ptrace.interrupt, threading.Event()

    def leave(thread: int) -> None:
        if not first.is_set():
            first.set()
            assert target.process.stdin
            target.process.stdin.write("leave 0\n")
            target.process.stdin.flush()
            wait_for(lambda: state(target.pid, target.pid) == "Z")
        interrupt(thread)

    monkeypatch.setattr(ptrace, "interrupt", leave)
    living = [target.idle, target.actor]

    def held() -> None:
        with Stop(target.pid) as stop:
            assert list(stop.threads) == living

    Started(held).end()
    with pytest.raises(MissingCapability, match="first thread"):
        Process(target.pid)
    target.tell(b"x")
    assert int(target.read()[0], 16)  # the thread became the first one of the new program
    hold(target.pid)
    assert target.ask("call 2") == ["7"]


def test_the_only_thread_is_about_to_receive_a_signal(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop for the signal came after the interrupt, and swallowed it."""
    interrupt, first = ptrace.interrupt, threading.Event()

    def signalled(thread: int) -> None:
        if first.is_set():
            interrupt(thread)
            return
        first.set()
        os.kill(thread, signal.SIGUSR1)
        wait_for(lambda: state(thread, thread) == "t")

    monkeypatch.setattr(ptrace, "interrupt", signalled)
    with running([program]) as target, closing(Memory(target.pid)) as memory:
        words = int(target.read()[0], 16)

        def call() -> None:
            with Stop(target.pid) as stop:
                assert stop.threads == {target.pid: signal.SIGUSR1}
                with Calls(stop, memory) as calls:
                    assert calls.call(GETPID) == target.pid

        Started(call).end()
        assert target.ask("call 2") == ["7"]
        assert word(target.pid, words + 8 * signal.SIGUSR1) == 1


def test_a_fault_in_a_call_of_ours_is_an_error_and_no_more(target: Told) -> None:
    with Process(target.pid) as process:
        agent = process.enter()

        def fail() -> None:
            with (
                Stop(target.pid) as stop,
                Calls(stop, process.memory, agent.stub) as calls,
                pytest.raises(RunFailed, match="SIGSEGV"),
            ):
                calls.function(0x10)

        Started(fail).end()
        assert target.ask("call 2") == ["7"]
    assert target.ask(f"raise {signal.SIGSEGV:d}") == [str(3 * signal.SIGSEGV + 1)]
    assert word(target.pid, target.words + 8 * signal.SIGSEGV) == 1


@pytest.mark.parametrize("why", [signal.SIGSTOP, signal.SIGTTIN])
def test_a_stopped_process_stays_stopped(target: Told, why: signal.Signals) -> None:
    os.kill(target.pid, why)
    wait_for(lambda: {state(target.pid, one) for one in thread_ids(target.pid)} == {"T"})
    with Process(target.pid) as process:
        link = process.attach(counting(target.words + 8), "work")
        wait_for(lambda: {state(target.pid, one) for one in thread_ids(target.pid)} == {"T"})
        os.kill(target.pid, signal.SIGCONT)
        assert target.ask("call 2") == ["7"]
        os.kill(target.pid, why)
        wait_for(lambda: {state(target.pid, one) for one in thread_ids(target.pid)} == {"T"})
        link.detach()
    wait_for(lambda: {state(target.pid, one) for one in thread_ids(target.pid)} == {"T"})
    os.kill(target.pid, signal.SIGCONT)
    assert target.ask("call 2") == ["7"]
    assert word(target.pid, target.words + 8) == 1
