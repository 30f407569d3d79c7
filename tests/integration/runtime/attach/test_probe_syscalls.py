"""Programs at system calls: nothing is missed, nothing comes to harm, whatever sleeps in a call goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from calling_programs import LIBRARY, calling_program, code_of, goes_on, wait_for, word
from probed_programs import HandWritten, build, counting, returning, running, storing

from workbench.errors import MissingCapability
from workbench.runtime.attach import Process
from workbench.runtime.attach.memory import mappings
from workbench.runtime.attach.syscall_sites import find_sites

pytestmark = [pytest.mark.needs("ptrace")]

KINDS = {"dynamic": ("-ldl",), "pie": ("-fPIE", "-pie"), "static": ("-static", "-no-pie")}
GETPPID = 110


@pytest.fixture(scope="module", params=list(KINDS))
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calling_program(tmp_path_factory.mktemp("calls"), request.param, *KINDS[request.param])


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calling_program(tmp_path_factory.mktemp("calls"), "dynamic", "-ldl")


def both(process: Process, words: int) -> list[object]:
    """Count entries and exits."""
    calls = process.system_calls
    return [calls.attach(counting(words), "enter"), calls.attach(counting(words + 8), "exit")]


def test_every_call_is_counted_and_every_byte_restored(program: Path) -> None:
    with running([program]) as target:
        words = int(target.read()[0], 16)
        before = code_of(target.pid)
        with Process(target.pid) as process:
            enter = process.system_calls.attach(counting(words), "enter", number=GETPPID)
            leave = process.system_calls.attach(counting(words + 8), "exit", number=GETPPID)
            assert enter.method == "jump"
            assert process.system_calls.hooked > 100
            assert set(process.system_calls.refused) <= {"[vdso]"}
            assert code_of(target.pid) != before
            target.ask("ppid 1000")
            assert (enter.hits, leave.hits) == (1000, 1000)
            everything = process.system_calls.attach(counting(words), "enter")
            target.ask("ppid 10")
            assert everything.hits > enter.hits - 1000 == 10
            process.system_calls.detach([enter, leave, everything])
            assert code_of(target.pid) == before
            hits = enter.hits
            target.ask("ppid 10")
            assert enter.hits == hits == 1010
            enter.detach()


def test_threads_that_sleep_in_calls_survive_cycles(program: Path) -> None:
    """Signals with and without SA_RESTART interrupt read, write, nanosleep, poll, futex and sigtimedwait meanwhile."""
    with running([program, "busy"]) as target:
        words = int(target.read()[0], 16)
        with Process(target.pid) as process:
            for cycle in range(40):
                links = both(process, words)
                if cycle == 20:
                    target.ask("break 0")
                if cycle % 10 == 5:
                    target.ask("children 6")
                process.system_calls.detach(links)
                state = target.ask("ppid 10")
                assert state[0] == "0", f"wrong at {state[1]} in cycle {cycle}"
            links = both(process, words)
            goes_on(target)
            assert all(link.hits for link in links)
        goes_on(target)


IN_A_HANDLER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
volatile uint64_t words[64], inside, released, interrupted, restarted, bad;
static int ends[2];
static void handler(int n) { (void)n; inside++; while (released < inside) {} }
/* A branch leads to the instruction, so the patch begins there and a thread that sleeps in it is inside. */
static long call(long number, long a, long b, long c) {
    register long result __asm__("rax") = number;
    __asm__ volatile("jmp 1f\n1: syscall\n cmp $0, %0\n"
                     : "+r"(result) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory", "cc");
    return result;
}
static void *pausing(void *unused) {
    for (;;) { if (call(SYS_pause, 0, 0, 0) == -EINTR) interrupted++; else bad++; }
    return unused;
}
static void *reading(void *unused) {
    for (char c;;) { if (call(SYS_read, ends[0], (long)&c, 1) == 1 && c == 'x') restarted++; else bad++; }
    return unused;
}
static void wait_for(volatile uint64_t *what, uint64_t value) { while (*what < value) usleep(100); }
int main(void) {
    pthread_t a, b;
    char what[16];
    uint64_t turn = 0;
    if (pipe(ends)) return 1;
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = handler}, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_handler = handler, .sa_flags = SA_RESTART}, NULL);
    pthread_create(&a, NULL, pausing, NULL);
    pthread_create(&b, NULL, reading, NULL);
    printf("%p\n", (void *)words); fflush(stdout);
    while (scanf("%15s", what) == 1) {
        if (!strcmp(what, "enter")) {  /* both threads are in a handler that interrupted their call */
            pthread_kill(a, SIGUSR1); wait_for(&inside, 2 * turn + 1);
            pthread_kill(b, SIGUSR2); wait_for(&inside, 2 * turn + 2);
        } else {
            released += 2; turn++;
            wait_for(&interrupted, turn);
            if (write(ends[1], "x", 1) != 1) bad++;
            wait_for(&restarted, turn);
        }
        printf("%lu %lu %lu\n", bad, interrupted, restarted); fflush(stdout);
    }
}
"""


def sleeping_in(pid: int) -> set[str]:
    """Numbers of the calls that the threads but the first are in; other words while they run."""
    threads = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda one: int(one.name))
    return {(one / "syscall").read_text().split()[0] for one in threads[1:]}


@pytest.mark.parametrize("when", ["attach", "detach", "both"])
def test_interrupted_calls_whose_handler_is_running(tmp_path: Path, when: str) -> None:
    """What a signal handler will return to is inside the replaced bytes: it is moved as well."""
    with running([build(tmp_path, "handler", IN_A_HANDLER)]) as target:
        words = int(target.read()[0], 16)
        with Process(target.pid) as process:
            links: list[object] = []
            for turn in range(1, 16):
                if when == "detach":
                    links = both(process, words)
                wait_for(lambda: sleeping_in(target.pid) == {"34", "0"})  # pause, read
                target.ask("enter")
                if when != "detach":
                    links = both(process, words)
                if when != "attach":
                    process.system_calls.detach(links)  # type: ignore[arg-type]
                assert target.ask("leave") == ["0", str(turn), str(turn)]
                process.system_calls.detach(links)  # type: ignore[arg-type]


def test_children_and_threads(program: Path) -> None:
    """fork, vfork with and without exec, posix_spawn, clone on another stack, pthread_create: all come back right."""
    with running([program]) as target:
        words = int(target.read()[0], 16)
        with Process(target.pid) as process:
            calls = process.system_calls
            made = {n: calls.attach(counting(words), "enter", number=n) for n in (56, 57, 58, 435)}
            done = {n: calls.attach(counting(words), "exit", number=n) for n in (56, 57, 58, 435)}
            everything = both(process, words)
            assert target.ask("children 60")[0] == "0"
            assert {n: one.hits for n, one in made.items()} == {
                n: one.hits for n, one in done.items()
            }
            assert made[58].hits == 20
            assert sum(one.hits for one in made.values()) >= 60
            assert all(one.missed == 0 for one in (*made.values(), *done.values()))
            calls.detach(everything)
        assert target.ask("children 12")[0] == "0"


def test_threads_give_their_place_in_the_namespace_back(dynamic: Path) -> None:
    """A thread joins before its C library begins its robust list; thousands come and go."""
    from workbench.runtime.maps import Space

    space = Space(None)
    try:
        with running([dynamic]) as target:
            words = int(target.read()[0], 16)
            with Process(target.pid, space) as process:
                links = both(process, words)
                for _ in range(6):
                    assert target.ask("threads 1000")[0] == "0"
                enter = process.system_calls.attach(counting(words), "enter", number=GETPPID)
                assert target.ask("threads 10")[0] == "0"
                assert enter.hits >= 10
                assert [one.missed for one in links] == [0, 0]
    finally:
        space.close()


def test_a_child_that_lives_on_is_restored_too(dynamic: Path, tmp_path: Path) -> None:
    source = """
#include <stdio.h>
#include <stdint.h>
#include <unistd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
volatile uint64_t words[64];
int main(void) {
    char line[64];
    printf("%p\\n", (void *)words); fflush(stdout);
    fgets(line, sizeof line, stdin);
    pid_t pid = fork();
    if (!pid) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) { syscall(SYS_getppid); usleep(1000); words[9]++; } }
    printf("%d\\n", pid); fflush(stdout);
    fgets(line, sizeof line, stdin);
    kill(pid, SIGKILL);
}
"""
    with running([build(tmp_path, "parent", source)]) as target:
        words = int(target.read()[0], 16)
        before = code_of(target.pid)
        with Process(target.pid) as process:
            both(process, words)
            child = int(target.ask()[0])
            wait_for(lambda: word(child, words + 8) > 20)
            assert code_of(child) != before
        assert code_of(target.pid) == before
        assert code_of(child) == before
        counted, turns = word(child, words), word(child, words + 72)
        wait_for(lambda: word(child, words + 72) > turns + 5)
        assert word(child, words) <= counted + 1


def test_cancelled_thread(tmp_path: Path) -> None:
    """pthread_cancel reaches a thread in a hooked call; its cleanup handlers run."""
    source = """
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
volatile uint64_t words[64];
static int ends[2];
static void cleanup(void *unused) { (void)unused; words[10]++; }
static void *blocked(void *unused) {
    char c;
    pthread_cleanup_push(cleanup, NULL);
    words[11]++;
    read(ends[0], &c, 1);
    pthread_cleanup_pop(0);
    return unused;
}
int main(void) {
    char line[64];
    printf("%p\\n", (void *)words); fflush(stdout);
    if (pipe(ends)) return 1;
    while (fgets(line, sizeof line, stdin)) {
        pthread_t t;
        void *result;
        uint64_t before = words[11];
        pthread_create(&t, NULL, blocked, NULL);
        while (words[11] == before) {}
        pthread_cancel(t);
        pthread_join(t, &result);
        printf("%d %lu\\n", result == PTHREAD_CANCELED, (unsigned long)words[10]); fflush(stdout);
    }
}
"""
    with running([build(tmp_path, "cancelled", source)]) as target:
        words = int(target.read()[0], 16)
        with Process(target.pid) as process:
            both(process, words)
            for turn in range(1, 20):
                assert target.ask() == ["1", str(turn)]
        assert target.ask() == ["1", "20"]


def test_what_a_program_sees(dynamic: Path) -> None:
    """Registers as the kernel has them at entry and exit; records in the kernel's layout."""
    load = b"\x48\x8b\x07"  # mov (%rdi),%rax: args[0], the registers
    keep = b"\x48\xb9%s\x48\x89\x01\x31\xc0\xc3"  # mov $address,%rcx; mov %rax,(%rcx); xor %eax,%eax; ret
    with running([dynamic]) as target:
        words = int(target.read()[0], 16)

        def at(n: int) -> bytes:
            return keep % (words + 8 * n).to_bytes(8, "little")

        def register(offset: int, n: int) -> HandWritten:
            return HandWritten(load + b"\x48\x8b\x80" + offset.to_bytes(4, "little") + at(n))

        with Process(target.pid) as process:
            calls = process.system_calls
            close = 3
            for number, (offset, when) in enumerate(
                ((80, "enter"), (120, "enter"), (112, "enter"), (80, "exit"), (120, "exit"))
            ):
                calls.attach(register(offset, 8 + number), when, number=close)  # type: ignore[arg-type]
            calls.attach(HandWritten(b"\x48\x8b\x47\x08" + at(20)), "enter", number=close)
            calls.attach(HandWritten(b"\x48\x8b\x47\x08" + at(21)), "exit", number=close)
            for offset, n in ((8, 22), (16, 23)):
                calls.attach(storing(words + 8 * n, offset), "enter", number=close, form="record")
                calls.attach(
                    storing(words + 8 * (n + 2), offset), "exit", number=close, form="record"
                )
            target.ask("bad 1")
            seen = [word(target.pid, words + 8 * n) for n in range(26)]
        bad_file, no_call, minus_one = 2**64 - 9, 2**64 - 38, 2**32 - 1
        assert seen[8] == no_call
        assert seen[9] == close
        assert seen[10] & 0xFFFFFFFF == minus_one
        assert (seen[11], seen[12]) == (bad_file, close)
        assert (seen[20], seen[21]) == (close, bad_file)
        assert (seen[22] & 0xFFFFFFFF, seen[23] & 0xFFFFFFFF) == (close, minus_one)
        assert (seen[24] & 0xFFFFFFFF, seen[25]) == (close, bad_file)


def test_library_loaded_later_and_program_replaced(dynamic: Path, tmp_path: Path) -> None:
    source = tmp_path / "library.c"
    source.write_text(LIBRARY)
    library = tmp_path / "library.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    with running([dynamic], env={**os.environ, "LIBRARY": str(library)}) as target:
        target.read()
        with Process(target.pid) as process:
            link = process.system_calls.attach(returning(0), "enter", number=GETPPID)
            assert target.ask("load 0")[0] == "0"
            process.refresh()
            target.ask("library 50")
            assert link.hits == 100  # each call is checked against another
            target.process.stdin.write("exec 0\n")  # type: ignore[union-attr]
            target.process.stdin.flush()  # type: ignore[union-attr]
            assert int(target.read()[0], 16)
            process.refresh()
            target.ask("ppid 25")
            (again,) = process.system_calls.links
            assert again.hits == 25
            assert link.detached


def test_every_site_of_the_c_library_takes_a_jump(program: Path) -> None:
    """No byte pair that is an instruction is passed over: as many as a disassembler finds."""
    with running([program]) as target:
        target.read()
        files = {one.path for one in mappings(target.pid) if one.executable and one.inode}
    objdump = shutil.which("objdump")
    total = 0
    for path in files:
        found, refused = find_sites(path)
        assert not refused
        total += len(found)
        if objdump:
            listing = subprocess.run(
                [objdump, "-d", path], capture_output=True, text=True, check=True
            ).stdout
            assert len(found) == listing.count("\tsyscall")
    assert total > 100


def test_data_between_functions_hides_nothing(tmp_path: Path) -> None:
    source = tmp_path / "odd.s"
    source.write_text(
        ".text\n"
        ".globl first\n.type first,@function\nfirst: mov $39,%eax\nsyscall\nret\n.size first,.-first\n"
        ".byte 0x06,0x0f,0x05,0x62,0xff,0xff,0x0f,0x05\n"
        ".globl second\n.type second,@function\nsecond: nop\nmov $39,%eax\nsyscall\ncmp $-4096,%rax\nret\n"
        ".size second,.-second\n"
        ".globl looped\n.type looped,@function\nlooped: nop\nmov $39,%eax\n1: syscall\ntest %eax,%eax\nje 1b\n"
        "nop\nnop\nret\n.size looped,.-looped\n"
        ".globl hidden\n.type hidden,@function\nhidden: mov $0x050f050f,%eax\nret\n.size hidden,.-hidden\n"
        ".globl tight\n.type tight,@function\ntight: 1: syscall\n2: dec %eax\njs 2b\njne 1b\nret\n"
        ".size tight,.-tight\n"
    )
    library = tmp_path / "odd.so"
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", library, source], check=True)
    found, refused = find_sites(library)
    sites = {one.function: one for one in found}
    assert set(sites) == {"first", "second", "looped"}
    assert sites["second"].call - sites["second"].start == 5
    assert sites["looped"].start == sites["looped"].call
    named = {one.function: one.reason for one in refused}
    assert "branch" in named["tight"]
    assert "" in named  # what lies between functions is named, not passed over


def test_go_is_left_alone_and_named(dynamic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.runtime.attach.modules import Module

    monkeypatch.setattr(Module, "is_go", True)
    with running([dynamic]) as target:
        words = int(target.read()[0], 16)
        with Process(target.pid) as process:
            process.system_calls.attach(counting(words), "enter")
            assert process.system_calls.hooked == 0
            assert any("goroutines" in why for why in process.system_calls.refused.values())


def test_probes_beside_hooked_calls(dynamic: Path) -> None:
    """A probe and a hooked call never share bytes, whichever came first; a wrapper's entry stays free for probes."""
    with running([dynamic]) as target:
        words = int(target.read()[0], 16)
        before = code_of(target.pid)
        libc = next(path for path, _ in before if Path(path).name.startswith("libc"))
        sites = find_sites(libc)[0]
        taken = next(one for one in sites if one.call - one.start >= 5 and one.function == "read")
        with Process(target.pid) as process:
            link = process.system_calls.attach(counting(words), "enter")
            with pytest.raises(MissingCapability, match="hooked system call"):
                process.attach(counting(words), f"libc:{taken.start:#x}")
            probe = process.attach(counting(words + 8), "libc:close")
            target.ask("bad 10")
            assert probe.hits == 10
            assert link.hits > 10
            process.detach([probe])
            process.system_calls.detach([link])
            assert code_of(target.pid) == before
            probe = process.attach(counting(words + 8), f"libc:{taken.start:#x}")
            link = process.system_calls.attach(counting(words), "enter")
            assert any("by a probe" in why for why in process.system_calls.refused.values())
            target.ask("bad 10")
        assert code_of(target.pid) == before
        with Process(target.pid) as process:
            probe = process.attach(counting(words + 8), f"libc:{taken.start:#x}")
            link = process.system_calls.attach(counting(words), "enter")
            assert any("in the way" in why for why in process.system_calls.refused.values())
            target.ask("bad 10")
            process.detach([probe])
        assert code_of(target.pid) == before
