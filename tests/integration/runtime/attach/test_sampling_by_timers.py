"""Samples by POSIX timers, where perf events are refused: the same as by perf events, and nothing else is disturbed."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sampled_program import PROGRAM, TARGET, Target, within

import workbench as wb
from workbench.errors import MissingCapability
from workbench.objects.model import BpfObject
from workbench.runtime.attach import collect
from workbench.runtime.attach.ticks import finest

pytestmark = pytest.mark.needs("ptrace", "clang")

REAL_TIME = set(range(37, 63))


def taken(target: Target) -> set[int]:
    """Signals with a handler, but for the agent's of memory faults."""
    return target.handled() - {signal.SIGSEGV, signal.SIGBUS}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sampling") / "sampled.bpf.c"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def obj(source: Path) -> BpfObject:
    return wb.compile(source)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "target.c").write_text(TARGET)
    subprocess.run(
        ["gcc", "-O1", "-o", folder / "target", folder / "target.c", "-pthread"], check=True
    )
    return folder / "target"


@pytest.fixture
def target(program: Path) -> Iterator[Target]:
    made = Target(program)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def attach(loaded: Any, hertz: int = 999) -> Any:
    return loaded.attach_sampling("sampled", hertz, driver="timer")


def number(loaded: Any, name: str) -> int:
    return int(loaded.globals[name][()])


def test_where_time_is_spent(obj: BpfObject, target: Target) -> None:
    before = taken(target)
    with obj.load("userspace", pid=target.pid) as loaded:
        link = attach(loaded)
        assert (link.driver, link.why) == ("timer", "")
        assert link.period == max(1_000_000_000 // 999, finest())
        new = taken(target) - before
        assert len(new) == 1 and new <= REAL_TIME
        target.ask("w", 1.0)
        heavy, light = within(loaded, target.heavy), within(loaded, target.light)
        total, periods = number(loaded, "total"), number(loaded, "periods")
        link.close()
        assert taken(target) == before
        target.ask("w", 0.05)
        assert number(loaded, "total") == total == link.hits + link.missed
        # Periods that the kernel let pass without a signal are in the samples' periods.
        assert 0.7e9 <= periods <= 1.25e9
        assert heavy + light > 0.7 * total
        assert heavy / (heavy + light) == pytest.approx(0.75, abs=0.15)
    assert taken(target) == before
    assert target.ask("w") == "done\n"


def test_threads_are_found(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        attach(loaded)
        seen: set[int] = set()
        for _ in range(20):
            target.ask("t", 0.05)
            keys, _ = loaded.maps["threads"].table()
            seen = set(keys.tolist()) - {target.pid}
            if len(seen) > 1:
                break
        assert len(seen) > 1
        assert target.ask("w") == "done\n"


def test_two_programs_share_the_signal(obj: BpfObject, target: Target) -> None:
    before = taken(target)
    with (
        obj.load("userspace", pid=target.pid) as first,
        obj.load("userspace", pid=target.pid) as second,
    ):
        one, two = attach(first), attach(second, 99)
        target.ask("w", 0.3)
        assert number(first, "total") > number(second, "total") > 0
        one.close()
        count = number(first, "total")
        target.ask("w", 0.3)
        assert number(first, "total") == count
        assert two.hits > 0 and taken(target) - before
    assert taken(target) == before


def test_a_thread_that_blocks_the_signal(obj: BpfObject, target: Target) -> None:
    """One signal is kept for it; the handler stays as long as that may come."""
    before = taken(target)
    with obj.load("userspace", pid=target.pid) as loaded:
        link = attach(loaded)
        target.ask("k", 0.1)
        link.close()
        left = taken(target) - before
        assert target.ask("u") == "done\n"
        assert target.ask("w", 0.01) == "done\n"
        assert len(left) <= 1  # none where the kernel takes away what a deleted timer had sent
        with attach(loaded):
            count = number(loaded, "total")
            target.ask("w", 0.3)
            assert number(loaded, "total") > count
    assert taken(target) == before


def test_refused_where_every_signal_is_blocked(obj: BpfObject, target: Target) -> None:
    target.ask("k")
    with obj.load("userspace", pid=target.pid) as loaded:
        with pytest.raises(MissingCapability, match="no real-time signal to spare"):
            attach(loaded)
        assert target.ask("u") == "done\n"
        attach(loaded).close()


def test_a_process_that_may_have_no_more_timers(obj: BpfObject, target: Target) -> None:
    before = taken(target)
    with obj.load("userspace", pid=target.pid) as loaded:
        _, most = resource.prlimit(target.pid, resource.RLIMIT_SIGPENDING)
        resource.prlimit(target.pid, resource.RLIMIT_SIGPENDING, (0, most))
        with pytest.raises(MissingCapability, match="no more timers"):
            attach(loaded)
        assert taken(target) == before
        assert target.ask("w", 0.01) == "done\n"
        resource.prlimit(target.pid, resource.RLIMIT_SIGPENDING, (most, most))
        with attach(loaded):
            target.ask("w", 0.3)
            assert number(loaded, "total")
    assert taken(target) == before


def test_a_child_and_an_executed_program(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        link = attach(loaded)
        asked = threading.Thread(target=target.ask, args=("f", 1.5))
        asked.start()
        children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
        end = time.monotonic() + 60
        while not (child := children.read_text().split()) and time.monotonic() < end:
            time.sleep(0.002)
        followed = link.follow(int(child[0]))
        asked.join()
        assert followed
        keys, _ = loaded.maps["threads"].table()
        assert int(child[0]) in keys
        target.ask("w", 0.05)
        target.tell("x")
        assert target.ask("hello ") == "hello 0\n"  # it is cat now
        assert not link.samples(target.pid)
    assert target.ask("hello ") == "hello 0\n"


CRASHES = """
import sys, time
import workbench as wb
loaded = wb.compile(sys.argv[1]).load("userspace", pid=int(sys.argv[2]))
loaded.attach_sampling("sampled", 999, driver="timer")
print("attached", flush=True)
time.sleep(600)
"""


def test_killed_workbench(
    source: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its timers go on, into maps that nobody reads, until somebody collects."""
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path))  # no other workbench may be first
    before = taken(target)
    with subprocess.Popen(
        [sys.executable, "-c", CRASHES, str(source), str(target.pid)],
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "attached\n"
        other.kill()
        other.communicate()
    assert target.ask("w", 0.05) == "done\n"
    assert taken(target) - before
    found = {one.pid: one.problem for one in collect()}
    assert found.get(target.pid, "") == ""
    assert not taken(target) - before
    assert target.ask("w", 0.05) == "done\n"


REFUSED = """
import ctypes, struct, sys
import workbench as wb
loaded = wb.compile(sys.argv[1]).load("userspace", pid=int(sys.argv[2]))
# if (nr == perf_event_open) return EACCES; as kernel.perf_event_paranoid = 3 and container runtimes do
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 298), (0x06, 0, 0, 0x50000 | 13), (0x06, 0, 0, 0x7fff0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(text)))
assert libc.prctl(22, 2, program) == 0
link = loaded.attach("sampled", "999")
print(link.driver, "|", link.why, flush=True)
sys.stdin.readline()
print(int(loaded.globals["total"]), flush=True)
link.close()
loaded.close()
"""


def test_chosen_where_perf_events_are_refused(source: Path, target: Target) -> None:
    before = taken(target)
    with subprocess.Popen(
        [sys.executable, "-c", REFUSED, str(source), str(target.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        driver, _, why = other.stdout.readline().partition(" | ")
        assert driver == "timer" and "not permitted" in why
        target.ask("w", 0.3)
        counted, _ = other.communicate("\n", timeout=120)
        assert int(counted) > 0
    assert taken(target) == before
