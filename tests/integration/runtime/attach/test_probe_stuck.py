"""Attaching and detaching end, and do no harm, whatever state the target and other processes are in."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from calling_programs import wait_for
from probed_programs import build, counting, running

from workbench.errors import RunFailed
from workbench.runtime.attach import Process
from workbench.runtime.attach.bounded import within
from workbench.runtime.attach.stop import state

pytestmark = [pytest.mark.needs("ptrace")]

# Commands with a number: call A, fork (the child answers as well).
SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>
volatile uint64_t words[64];
volatile long factor = 3;
__attribute__((noipa)) long work(long a, long b) { return a * factor + b; }
int main(void) {
    char what[16];
    long n;
    printf("%p\n", (void *)words); fflush(stdout);
    while (scanf("%15s %ld", what, &n) == 2) {
        if (!strcmp(what, "fork")) {
            pid_t pid = fork();
            if (!pid) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) pause(); }
            printf("%d\n", pid);
        } else printf("%ld\n", work(n, 1));
        fflush(stdout);
    }
}
"""
_opened: set[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None and str(arguments[0]).endswith("/mem"):
        _opened.add(str(arguments[0]))


sys.addaudithook(_note)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("stuck"), "target", SOURCE)


def test_memory_of_a_process_that_cannot_have_our_hooks_is_not_read(
    program: Path, tmp_path: Path
) -> None:
    """It is older than the target, or runs another program. It may be stuck, and whoever reads it with it."""
    global _opened
    other = shutil.copy(program, tmp_path / "other")
    with running([program]) as older, running([other]) as stranger:
        older.read()
        stranger.read()
        time.sleep(0.1)  # the clock of a process's begin ticks 100 times a second
        with running([program]) as target, running([other]) as younger:
            words = int(target.read()[0], 16)
            younger.read()
            with Process(target.pid) as process:
                link = process.attach(counting(words), "work")
                child = int(target.ask("fork 0")[0])
                _opened = seen = set()
                try:
                    link.detach()
                    process.close()
                finally:
                    _opened = None
            assert target.ask("call 2") == ["7"]
    assert f"/proc/{child}/mem" in seen
    left_alone = (older.pid, stranger.pid, younger.pid, 1)
    assert not seen & {f"/proc/{pid}/mem" for pid in left_alone}


def test_a_child_that_nobody_waited_for_is_not_in_the_way(program: Path) -> None:
    with running([program]) as target:
        words = int(target.read()[0], 16)
        with Process(target.pid) as process:
            link = process.attach(counting(words), "work")
            child = int(target.ask("fork 0")[0])
            process.look()
            assert child in process.family.children
            os.kill(child, signal.SIGKILL)
            wait_for(lambda: state(child, child) == "Z")
            link.detach()
            assert not process.family.children
        assert target.ask("call 2") == ["7"]


def test_asking_ends_where_nobody_answers() -> None:
    free = threading.Event()
    try:
        with pytest.raises(RunFailed, match="process 7 could not be read"):
            within(0.05, 7, free.wait)
    finally:
        free.set()
    assert within(60, 7, lambda: 8) == 8
    with pytest.raises(KeyError):
        within(60, 7, lambda: {}["no"])
