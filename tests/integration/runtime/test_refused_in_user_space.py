"""Targets and functions that user space cannot probe: named, with what to do, by the library and by the commands."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import Running, build, running

import workbench as wb
from workbench.collectors import modules as collectors_modules
from workbench.collectors.resolve import resolve_function
from workbench.errors import WorkbenchError
from workbench.objects.model import BpfObject
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.modules import Modules
from workbench.runtime.attach.stop import Stop

pytestmark = pytest.mark.needs("clang", "ptrace", "C compiler")

PROGRAM = r"""
#include <stdio.h>
#include <unistd.h>
volatile long factor = 3;
static inline __attribute__((always_inline)) long gone(long a) { return a * factor; }
__attribute__((noipa)) long work(long a) { return gone(a) + gone(a + 1); }
int main(void)
{
	char line[64];
	setvbuf(stdout, 0, _IONBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) printf("%ld\n", work(5));
}
"""
PROBE = """
#include "workbench.h"
__u64 hits;
SEC("uprobe") int called(void *ctx) { __sync_fetch_and_add(&hits, 1); return 0; }
char LICENSE[] SEC("license") = "GPL";
"""
LOOPED = r"""
#include <stdio.h>
__asm__(".text\n.globl each_loop\n.type each_loop, @function\n"  /* a branch leads to its byte 2 */
	"each_loop: xorl %eax, %eax\n1: incl %eax\ncmpl $3, %eax\njne 1b\nret\n.size each_loop, .-each_loop\n");
long each_loop(void);
__attribute__((noipa)) long each_plain(long a) { return a * 7 + 1; }
int main(void)
{
	char line[64];
	setvbuf(stdout, 0, _IONBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) printf("%ld\n", each_plain(5) + each_loop());
}
"""
FILTERED = """
import ctypes, sys
allow = (ctypes.c_ubyte * 8)(6, 0, 0, 0, 0, 0, 0xff, 0x7f)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(1, ctypes.addressof(allow)))) == 0
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("refused") / "called.bpf.c"
    path.write_text(PROBE)
    return wb.compile(path)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("refused"), "plain", PROGRAM)


@contextlib.contextmanager
def ready(*command: str | Path, **options: object) -> Iterator[Running]:
    with running(command, **options) as one:
        assert one.read() == ["ready"]
        yield one


def refused(
    obj: BpfObject,
    pid: int,
    function: str,
    folder: Path,
    *fragments: str,
    prefix: tuple[str, ...] = (),
) -> None:
    """Both ways in say no, in words that have the fragments, and leave nothing behind."""
    if not prefix:
        with obj.load("userspace") as loaded, pytest.raises(WorkbenchError) as caught:
            loaded.attach("called", function, pid=pid)
        assert caught.value.hint
        for fragment in fragments:
            assert fragment in str(caught.value)
    output = folder / "out"
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "workbench.cli", "record", "--backend", "userspace", "-o", str(output),
         "--pid", str(pid), "-c", f"uprobe:{function}", "--seconds", "1"],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr and "hint:" in done.stderr, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr
    assert not output.exists()


def test_a_function_that_was_inlined_away(obj: BpfObject, program: Path, tmp_path: Path) -> None:
    with ready(program) as target:
        refused(obj, target.pid, "gone", tmp_path, "inlined")
        assert target.ask() == ["33"]


def test_a_stripped_program(obj: BpfObject, tmp_path: Path) -> None:
    # Without a build id, by which the symbols of the whole program would be found.
    stripped = build(tmp_path, "stripped", PROGRAM, "-Wl,--build-id=none", "-s")
    with ready(stripped) as target:
        refused(obj, target.pid, "work", tmp_path, "work")
        assert target.ask() == ["33"]


def test_a_traced_target(obj: BpfObject, program: Path, tmp_path: Path) -> None:
    with ready(program) as target:
        with Stop(target.pid):
            refused(obj, target.pid, "work", tmp_path, "traced already", str(os.getpid()))
        assert target.ask() == ["33"]


@pytest.mark.skipif(os.getuid() != 0, reason="changes its user")
def test_another_users_target(obj: BpfObject, program: Path, tmp_path: Path) -> None:
    nobody = (
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    )  # fmt: skip
    tmp_path.chmod(0o777)
    with ready(program) as target:
        refused(obj, target.pid, "work", tmp_path, "user 0", "65534", prefix=nobody)
        assert target.ask() == ["33"]


def test_a_filtered_target(obj: BpfObject, tmp_path: Path) -> None:
    with ready(sys.executable, "-c", FILTERED) as target:
        refused(obj, target.pid, "libc:abs", tmp_path, "seccomp")
        assert target.alive


def test_a_32_bit_target(obj: BpfObject, tmp_path: Path) -> None:
    # mov $29 (pause),%eax; int $0x80; jmp back. One segment, at 64 KiB.
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x10054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    size = 84 + len(code)
    path = tmp_path / "narrow"
    path.write_bytes(head + struct.pack("<8I", 1, 0, 0x10000, 0x10000, size, size, 5, 4096) + code)
    path.chmod(0o755)
    try:
        started = running([path])
        target = started.__enter__()
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    try:
        refused(obj, target.pid, "libc:abs", tmp_path)
        with obj.load("userspace") as loaded, pytest.raises(WorkbenchError, match="32-bit"):
            loaded.attach_uprobes("called", str(path), [84], pid=target.pid)
        assert target.alive
    finally:
        started.__exit__(None, None, None)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the function is written for x86-64")
def test_a_pattern_with_a_function_that_takes_no_jump(obj: BpfObject, tmp_path: Path) -> None:
    path = build(tmp_path, "looped", LOOPED)
    with ready(path) as target, obj.load("userspace", pid=target.pid) as loaded:
        with pytest.raises(WorkbenchError, match="each_loop") as caught:
            loaded.attach("called", "looped:each_*")
        assert "refused={}" in caught.value.hint and "uprobe:PATTERN" in caught.value.hint
        with pytest.raises(WorkbenchError, match="each_loop") as caught:
            loaded.attach("called", "looped:each_loop")
        assert "refused={}" not in caught.value.hint, "it was the only one"
        places = resolve_function(collectors_modules.Modules(target.pid), "looped:each_*")
        reasons: dict[int, str] = {}
        link = loaded.attach_uprobes(
            "called", str(path), [one.file_offset for one in places], refused=reasons
        )
        (index,) = reasons
        assert "each_loop" in reasons[index] and len(places) == 2
        assert target.ask() == ["39"] and link.hits == 1


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="makes a mount namespace"
)
def test_a_target_that_does_not_see_our_memory(
    obj: BpfObject, program: Path, tmp_path: Path
) -> None:
    hidden = 'mount -t tmpfs none /dev/shm && mount -t tmpfs none "${TMPDIR:-/tmp}/$2" 2>/dev/null; exec "$1"'
    with ready("unshare", "-m", "sh", "-c", hidden, "sh", program, "nothing") as target:
        refused(obj, target.pid, "work", tmp_path, "namespace")
        assert target.ask() == ["33"]


def test_a_target_that_ends_meanwhile(obj: BpfObject, program: Path, tmp_path: Path) -> None:
    for after in (0, 1):
        with ready(program) as target, obj.load("userspace") as loaded:
            link = loaded.attach("called", "work", pid=target.pid)
            target.process.kill()
            if after:
                target.process.wait()
            link.close()
        target.process.wait()
        refused(obj, target.pid, "work", tmp_path, f"process {target.pid}")


def test_a_function_that_another_tool_has_hooked(
    obj: BpfObject, program: Path, tmp_path: Path
) -> None:
    with ready(program) as target:
        at, _ = Modules(target.pid).resolve("work")
        with Stop(target.pid), contextlib.closing(Memory(target.pid)) as memory:
            before = memory.read(at, 5)
            memory.write(at, b"\xe9" + struct.pack("<i", 0x10000000))
        refused(obj, target.pid, "work", tmp_path, "another tool")
        with Stop(target.pid), contextlib.closing(Memory(target.pid)) as memory:
            memory.write(at, before)
        assert target.ask() == ["33"]


def test_a_process_that_another_workbench_probes(
    obj: BpfObject, program: Path, tmp_path: Path
) -> None:
    with ready(program) as target:
        with recording(target, tmp_path / "first") as first:
            until_hooked(target.pid, first)
            refused(obj, target.pid, "work", tmp_path, "already", str(first.pid))
            assert target.ask() == ["33"]
            first.terminate()
            first.wait(60)
        assert first_byte(target.pid) != 0xE9
        with obj.load("userspace") as loaded:
            link = loaded.attach("called", "work", pid=target.pid)
            target.ask()
            assert link.hits == 1


@contextlib.contextmanager
def recording(target: Running, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`workbench record` of `work`, until it is stopped."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", "record", "--backend", "userspace", "-o", output,
         "--pid", str(target.pid), "-c", "uprobe:work,return=yes"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def first_byte(pid: int) -> int:
    at, _ = Modules(pid).resolve("work")
    with contextlib.closing(Memory(pid)) as memory:
        return memory.read(at, 1)[0]


def until_hooked(pid: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while first_byte(pid) != 0xE9:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)


def test_recordings_that_are_killed(obj: BpfObject, program: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    with ready(program) as target:
        at, _ = Modules(target.pid).resolve("work")
        with contextlib.closing(Memory(target.pid)) as memory:
            before = memory.read(at, 16)
            for i in range(4):
                output = tmp_path / f"killed{i}"
                with recording(target, output) as process:
                    until_hooked(target.pid, process)
                    time.sleep(chance.uniform(0, 0.1))  # the moment of death is the point
                    process.kill()
                    process.wait()
                assert target.ask() == ["33"]
                if i % 2:  # the next workbench collects first
                    with obj.load("userspace") as loaded:
                        link = loaded.attach("called", "work", pid=target.pid)
                        assert target.ask() == ["33"]
                        assert link.hits == 1
                else:
                    command = [sys.executable, "-m", "workbench.cli", "bpf", "gc"]
                    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
                assert memory.read(at, 16) == before
                assert target.ask() == ["33"]
