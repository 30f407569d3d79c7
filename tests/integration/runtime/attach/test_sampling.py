"""Samples of CPU time by signals: where it is spent, with threads, blocked signals, exec and killed workbenches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sampled_program import PROGRAM, TARGET, Target, within

import workbench as wb
from workbench.objects.model import BpfObject
from workbench.runtime.attach import collect

pytestmark = pytest.mark.needs("ptrace", "clang", "sigtrap breakpoint")


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


def test_where_time_is_spent(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("sampled", "1999")
        target.ask("w", 0.5)
        heavy, light = within(loaded, target.heavy), within(loaded, target.light)
        total = int(loaded.globals["total"][()])
        link.close()
        target.ask("w", 0.1)
        assert int(loaded.globals["total"][()]) == total == link.hits + link.missed
        # The clock of the events is the thread's CPU time: at most what the loop spent and a little around it.
        assert 0.7 * 1000 <= total <= 1.25 * 1000
        assert heavy + light > 0.8 * total
        assert heavy / (heavy + light) == pytest.approx(0.75, abs=0.08)
        assert int(loaded.globals["periods"][()]) == total * (1_000_000_000 // 1999)
        assert int(loaded.globals["addresses"][()]) == 0
    assert not target.own_handler()
    assert target.ask("w") == "done\n"


def test_threads_that_come_and_go(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("sampled", "1999")
        target.ask("t", 0.05)
        keys, values = loaded.maps["threads"].table()
        busy = [tid for tid, n in zip(keys, values, strict=True) if tid != target.pid and n > 40]
        assert len(busy) == 20
        assert (
            within(loaded, target.heavy) + within(loaded, target.light)
            > 0.8 * 20 * 0.05 * 1999 * 0.75
        )


def test_blocked_signals(obj: BpfObject, target: Target) -> None:
    """A thread that blocks SIGTRAP is not sampled, but lives, also when the signal comes after the detach."""
    with obj.load("userspace", pid=target.pid) as loaded:
        link = loaded.attach("sampled", "1999")
        target.ask("b", 0.1)
        assert 0 < int(loaded.globals["total"][()]) < 20
        target.ask("k", 0.1)
        link.close()
        assert target.own_handler()  # one is pending: the handler stays to take it
        target.ask("u")
        assert target.ask("w", 0.01) == "done\n"
        with loaded.attach("sampled", "1999"):  # and is used again
            before = int(loaded.globals["total"][()])
            target.ask("w", 0.1)
            assert int(loaded.globals["total"][()]) > before + 50
    assert not target.own_handler()


def test_sleeping_calls_are_not_cut_short(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded, loaded.attach("sampled", "9999"):
        assert target.ask("s", 1) == "0 done\n"


def test_executed_program_lives(obj: BpfObject, target: Target) -> None:
    with obj.load("userspace", pid=target.pid) as loaded, loaded.attach("sampled", "9999"):
        target.ask("w", 0.05)
        target.tell("x")
        assert target.ask("hello ") == "hello 0\n"  # it is cat now
    assert target.ask("hello ") == "hello 0\n"


CRASHES = """
import sys, time
import workbench as wb
loaded = wb.compile(sys.argv[1]).load("userspace", pid=int(sys.argv[2]))
loaded.attach("sampled", "1999")
print("attached", flush=True)
time.sleep(600)
"""


def test_killed_workbench(source: Path, target: Target) -> None:
    """Its events end with it; the handler is taken out by whoever collects."""
    with subprocess.Popen(
        [sys.executable, "-c", CRASHES, str(source), str(target.pid)],
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "attached\n"
        target.ask("w", 0.05)
        other.kill()
        other.communicate()
    assert target.own_handler()
    assert target.ask("w", 0.05) == "done\n"
    found = {one.pid: one.problem for one in collect()}
    assert found.get(target.pid, "") == ""
    assert not target.own_handler()
    assert target.ask("w", 0.05) == "done\n"
