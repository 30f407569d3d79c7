"""Hooks go where the process goes: fork, exec, dlopen, from the first instruction on; and USDT marks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import Running, build, counting, returning, running, storing

from workbench.errors import BadSpec, UnknownSymbol
from workbench.frames.symbols.usdt import parse_operands
from workbench.runtime.attach import Process, Request, Started
from workbench.runtime.attach.memory import Memory

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define MARK(provider, name, argument) __asm__ volatile( \
    "990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n" \
    ".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n" \
    "992: .balign 4\n993: .8byte 990b\n.8byte _.stapsdt.base\n.8byte mark_semaphore\n" \
    ".asciz \"" provider "\"\n.asciz \"" name \
    "\"\n.asciz \"-8@%0\"\n994: .balign 4\n.popsection\n" \
    ".ifndef _.stapsdt.base\n.pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n" \
    ".weak _.stapsdt.base\n" \
    ".hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n.size _.stapsdt.base,1\n.popsection\n.endif\n" :: "r"(argument))
volatile uint64_t *words;
__attribute__((section(".probes"), used)) volatile unsigned short mark_semaphore = 0;
volatile long factor = 3;
__attribute__((noipa)) long work(long a) { return a * factor; }
__attribute__((noipa)) long marked(long a) {
    MARK("shop", "sold", a);
    long b = a * factor;
    MARK("shop", "sold", b);
    return b * factor + factor;
}
int main(int argc, char **argv) {
    char what[256];
    long n;
    words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    printf("%p\n", (void *)words);
    fflush(stdout);
    work(1);
    while (scanf("%255s %ld", what, &n) == 2) {
        if (!strcmp(what, "exec")) execv("/proc/self/exe", argv);
        if (!strcmp(what, "fork")) {
            pid_t pid = fork();
            if (!pid) { for (;;) { work(2); pause(); } }
            printf("%d ", pid);
        }
        if (!strcmp(what, "reap")) { kill(n, 9); waitpid(n, NULL, 0); }
        if (!strcmp(what, "work")) for (long i = 0; i < n; i++) work(i);
        if (!strcmp(what, "marked")) for (long i = 0; i < n; i++) marked(i);
        if (what[0] == '/') {
            long (*plug)(long) = (long (*)(long))dlsym(dlopen(what, RTLD_NOW), "plugged");
            if (n) for (long i = 0; i < n; i++) plug(i);
        }
        printf("%lu %lu %hu\n", (unsigned long)words[0], (unsigned long)words[1], mark_semaphore);
        fflush(stdout);
    }
    (void)argc;
}
"""
PLUG = "volatile long f = 3; __attribute__((noipa)) long plugged(long a) { return a * f; }\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("follow")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return build(folder, "target", SOURCE, "-ldl")


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int]]:
    with running([program]) as one:
        yield one, int(one.read()[0], 16)


def test_a_library_that_is_loaded_later(target: tuple[Running, int], folder: Path) -> None:
    program, words = target
    plug = build(folder, "libplug.so", PLUG, "-shared", "-fPIC")
    request = Request(counting(words), "libplug:plugged")
    with Process(program.pid) as process:
        with pytest.raises(UnknownSymbol, match="libplug"):
            process.attach_many([request])
        assert process.attach_many([request], wait=True) == []
        assert process.refresh() == []
        program.ask(f"{plug} 0")
        (link,) = process.refresh()
        assert program.ask(f"{plug} 7")[0] == "7"
        assert link.hits == 7
        assert process.waiting == []


def test_a_replaced_program_is_attached_again(target: tuple[Running, int]) -> None:
    program, words = target
    seen: list[Process] = []
    with Process(program.pid) as process:
        process.on_exec = seen.append
        link = process.attach(counting(words), "work")
        assert process.refresh() == []
        assert program.ask("work 3")[0] == "3"
        words = int(program.ask("exec 0")[0], 16)
        assert not seen
        links = process.refresh()
        assert seen == [process]
        assert link.detached
        assert [one.name for one in links] == ["target:work"]
        process.detach(links)
        new = process.attach(counting(words), "work")
        assert program.ask("work 5")[0] == "5"
        assert new.hits == 5
    assert program.ask("work 5")[0] == "5"


def test_a_forked_child_is_restored_with_its_parent(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "work")
        before = process.places[link.address].original
        child = int(program.ask("fork 0")[0])
        memory = Memory(child)
        try:
            assert memory.read(link.address, 1) == b"\xe9"
            process.close()
            assert memory.read(link.address, 5) == before
        finally:
            memory.close()
        program.ask(f"reap {child}")
    assert program.alive


def test_marks_with_semaphores_and_arguments(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "shop:sold", "usdt")
        assert len(link.siblings) == 1
        (operand,) = parse_operands(link.request.arguments, 62)
        assert (operand.kind, operand.size, operand.signed) == ("register", 8, True)
        again = process.attach(storing(words + 8, 112), "shop:sold", "usdt")
        assert program.ask("marked 9")[::2] == ["18", "1"]
        assert link.hits + sum(one.hits for one in link.siblings) == 18
        link.detach()
        assert program.ask("marked 1")[::2] == ["18", "1"]
        again.detach()
        assert program.ask("marked 1")[::2] == ["18", "0"]
        with pytest.raises(UnknownSymbol, match="shop:sold"):
            process.attach(counting(words), "shop:bought", "usdt")


@pytest.mark.parametrize("flags", [["-pie", "-fPIE"], ["-static"]])
def test_held_before_the_first_instruction(folder: Path, flags: list[str]) -> None:
    path = build(folder, f"held{len(flags)}", SOURCE, *flags, "-ldl")
    with (
        Started([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started,
        Process(started.pid) as process,
    ):
        link = process.attach(returning(0), "work")
        assert link.hits == 0
        started.release()
        program = Running(started.process)
        try:
            program.read()
            program.ask("work 4")
            assert link.hits == 5, "main's own first call is seen"
        finally:
            link.detach()
            started.process.kill()
            started.process.communicate()


def test_programs_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="cannot be started"):
        Started([tmp_path / "nothing"])


def test_a_program_that_is_not_released_is_killed(program: Path) -> None:
    with Started([program], stdin=subprocess.DEVNULL) as started:
        pid = started.pid
    assert started.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
