"""Loaded objects follow a process by themselves: forks, posix_spawn, exec, libraries loaded later."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from probed_programs import Running, running

import workbench as wb
from workbench.collectors import processes
from workbench.collectors.recorder import Recorder
from workbench.errors import NotPermitted, WorkbenchError
from workbench.objects.model import BpfObject
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.modules import Modules

pytestmark = pytest.mark.needs("clang", "ptrace")

SOURCE = """
#include "workbench.h"
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");
SEC("uprobe") int called(void *ctx)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u64 one = 1, *found = bpf_map_lookup_elem(&counts, &pid);
	if (found)
		__sync_fetch_and_add(found, 1);
	else
		bpf_map_update_elem(&counts, &pid, &one, BPF_ANY);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""

# Commands: call N; fork N (the child calls N times when told); spawn N, vfork N; exec; load PATH N.
TARGET = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
def call(n):
    for i in range(n):
        libc.abs(-i)
SPAWNED = ("import ctypes, sys; libc = ctypes.CDLL(None); sys.stdin.readline(); "
           "[libc.abs(-1) for _ in range(int(sys.argv[1]))]; print('ok', flush=True); sys.stdin.readline()")
children = {}
print("ready", flush=True)
while line := sys.stdin.readline():
    what, *more = line.split()
    if what == "call":
        call(int(more[0]))
        print("called", flush=True)
    elif what == "fork":
        read, write = os.pipe()
        back, done = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(write)
            while (word := os.read(read, 1)) == b"c":
                call(int(more[0]))
                os.write(done, b"d")
            os._exit(0)
        os.close(read)
        children[pid] = write, back
        print(pid, flush=True)
    elif what == "spawn":
        child = subprocess.Popen([sys.executable, "-c", SPAWNED, more[0]], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, close_fds=False)
        children[child.pid] = child
        print(child.pid, flush=True)
    elif what == "go":
        child = children[int(more[0])]
        if isinstance(child, tuple):
            os.write(child[0], b"c")
            os.read(child[1], 1)
        else:
            child.stdin.write(b"\\n")
            child.stdin.flush()
            child.stdout.readline()
        print("gone", flush=True)
    elif what == "exec":
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], sys.argv[1]])
    elif what == "load":
        libm = ctypes.CDLL(more[0])
        libm.plugged.restype = ctypes.c_long
        print(sum(libm.plugged(i) for i in range(int(more[1]))), flush=True)
"""
PLUG = "volatile long f = 3; __attribute__((noipa)) long plugged(long a) { return a * f; }\n"


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("follow") / "called.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


@pytest.fixture
def target() -> Iterator[Running]:
    with running([sys.executable, "-c", TARGET, TARGET]) as program:
        assert program.read() == ["ready"]
        yield program


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that the workbench does on its own."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def counted(link: object) -> None:
    """Wait until the workbench has read the counters by itself."""
    now = time.monotonic()
    process = link.links[0].process  # type: ignore[attr-defined]
    until(
        lambda: all(
            one.counters.as_of > now for one in (process, *process.family.children.values())
        ),
        "the counters are not read",
    )


def abs_of(pid: int, link: object) -> tuple[Memory, int, bytes]:
    address = link.links[0].address  # type: ignore[attr-defined]
    memory = Memory(pid)
    return memory, address, memory.read(address, 5)


def test_children_are_counted_and_restored(obj: BpfObject, target: Running) -> None:
    with obj.load("userspace") as loaded:
        link = loaded.attach("called", "libc:abs", pid=target.pid)
        original = link.links[0].process.places[link.links[0].address].original
        target.ask("call 10")
        child = int(target.ask("fork 7")[0])
        target.ask(f"go {child}")
        assert loaded.maps["counts"][target.pid] == 10 and loaded.maps["counts"][child] == 7
        assert link.hits == 17
        memory, address, patched = abs_of(child, link)
        assert patched[0] == 0xE9
        link.close()
        assert memory.read(address, 5) == original, "taken off in the child as well"
        target.ask(f"go {child}")
        assert loaded.maps["counts"][child] == 7
        memory.close()
    assert target.ask("call 1") == ["called"]


def test_counts_stay_when_the_process_has_ended(obj: BpfObject, target: Running) -> None:
    with obj.load("userspace") as loaded:
        link = loaded.attach("called", "libc:abs", pid=target.pid)
        (one,) = link.links
        assert target.ask("call 40") == ["called"]
        counted(link)
        target.process.communicate(timeout=60)  # ends by itself
        assert (link.hits, link.missed) == (40, 0)
        assert loaded.maps["counts"][target.pid] == 40
        link.close()
        assert one.hits == 40


def test_counts_stay_when_a_child_has_ended(obj: BpfObject, target: Running) -> None:
    with obj.load("userspace") as loaded:
        link = loaded.attach("called", "libc:abs", pid=target.pid)
        children = link.links[0].process.family.children
        target.ask("call 10")
        for number in (7, 8):
            child = int(target.ask(f"fork {number}")[0])
            target.ask(f"go {child}")
            until(lambda child=child: child in children, "the child is not found")  # type: ignore[misc]
            counted(link)
            os.kill(child, signal.SIGKILL)
            until(lambda child=child: child not in children, "its end is not seen")  # type: ignore[misc]
        assert link.hits == 25
        target.ask("call 1")
        assert link.hits == 26


def test_a_child_that_is_attached_itself_has_no_second_hook(
    obj: BpfObject, target: Running
) -> None:
    with obj.load("userspace") as loaded:
        first = loaded.attach("called", "libc:abs", pid=target.pid)
        child = int(target.ask("fork 5")[0])
        second = loaded.attach("called", "libc:abs", pid=child)
        target.ask(f"go {child}")
        assert loaded.maps["counts"][child] == 5
        assert second.hits == 5 and first.hits == 0
        first.close()
        target.ask(f"go {child}")
        assert loaded.maps["counts"][child] == 10, "its own link stays"
        again = loaded.attach("called", "libc:abs", pid=child)
        target.ask(f"go {child}")
        assert loaded.maps["counts"][child] == 20 and again.hits == 5
        memory, address, _ = abs_of(child, second)
        again.close()
        second.close()
        assert memory.read(address, 1) != b"\xe9"
        memory.close()


def test_a_child_outlives_its_parent(obj: BpfObject, target: Running) -> None:
    with obj.load("userspace") as loaded:
        link = loaded.attach("called", "libc:abs", pid=target.pid)
        original = link.links[0].process.places[link.links[0].address].original
        child = int(target.ask("fork 3")[0])
        memory, address, patched = abs_of(child, link)
        assert patched != original
        until(lambda: child in link.links[0].process.family.children, "the child is not found")
        # The child reads from a pipe of its parent, whose end would end it: it is stopped meanwhile.
        os.kill(child, signal.SIGSTOP)
        target.process.kill()
        target.process.wait()
        loaded.detach()
        assert memory.read(address, 5) == original
        os.kill(child, signal.SIGKILL)
        memory.close()


def test_a_replaced_program_is_attached_again(obj: BpfObject, target: Running) -> None:
    with obj.load("userspace") as loaded:
        link = loaded.attach("called", "libc:abs", pid=target.pid)
        target.ask("call 4")
        before = link.links[0]
        counted(link)
        assert target.ask("exec") == ["ready"]
        until(lambda: bool(link.links) and link.links[0] is not before, "not attached again")
        target.ask("call 6")
        assert loaded.maps["counts"][target.pid] == 10
        assert link.hits == 6 and before.hits == 4
        link.close()
        target.ask("call 6")
        assert loaded.maps["counts"][target.pid] == 10


def test_a_library_that_is_loaded_later(obj: BpfObject, target: Running, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (tmp_path / "plug.c").write_text(PLUG)
    plug = tmp_path / "libplug.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", plug, tmp_path / "plug.c"], check=True)
    with obj.load("userspace") as loaded:
        with pytest.raises(wb.WorkbenchError, match="libplug"):
            loaded.attach("called", "libplug:plugged", pid=target.pid)
        link = loaded.attach("called", "libplug:plugged", pid=target.pid, wait=True)
        assert link.waiting and link.attached
        target.ask(f"load {plug} 0")
        until(lambda: not link.waiting, "not attached")
        assert target.ask(f"load {plug} 9") == [str(3 * 36)]
        assert loaded.maps["counts"][target.pid] == 9 and link.hits == 9
        link.close()
        assert not link.attached
        given_up = loaded.attach("called", "libnever:plugged", pid=target.pid, wait=True)
        given_up.close()
        assert not given_up.attached


@pytest.mark.parametrize("events", [True, False], ids=["privileged", "unprivileged"])
def test_recording_follows_children_and_executed_programs(
    target: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    if not events:  # as for a user who may not see the machine's process events

        def refuse(**_: object) -> None:
            raise NotPermitted("perf_event_paranoid")

        monkeypatch.setattr(processes, "Sideband", refuse)
    recorder = Recorder(
        ["uprobe:libc:abs"], output=tmp_path / "out", pid=target.pid, backend="userspace"
    )
    with recorder:
        target.ask("call 20")
        forked = int(target.ask("fork 30")[0])
        target.ask(f"go {forked}")
        spawned = int(target.ask("spawn 40")[0])
        until(lambda: hooked(spawned), "the executed program is not probed")
        target.ask(f"go {spawned}")
        target.ask("exec")
        until(lambda: hooked(target.pid), "the replaced program is not probed")
        target.ask("call 50")
    calls = recorder.recording.calls
    counted = calls.groupby("pid").size().to_dict()
    assert counted == {target.pid: 70, forked: 30, spawned: 40}
    for pid in (target.pid, spawned):
        assert not hooked(pid)


def hooked(pid: int) -> bool:
    """`abs` of the process's C library begins with a jump."""
    try:
        address, _ = Modules(pid).resolve("libc:abs")
        memory = Memory(pid)
    except WorkbenchError:
        return False
    try:
        return memory.read(address, 1) == b"\xe9"
    except WorkbenchError:
        return False
    finally:
        memory.close()
