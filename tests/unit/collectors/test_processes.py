"""Mappings over mappings, and the order of events of several CPUs."""

from __future__ import annotations

import itertools
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from left_behind import wait_until
from memory_sink import MemorySink

from workbench.collectors.base import Target
from workbench.collectors.processes import Processes, lay_over
from workbench.collectors.sideband import Sideband

PAGE = 4096
areas = st.tuples(st.integers(0, 60), st.integers(1, 20), st.integers(0, 5)).map(
    lambda one: (one[0] * PAGE, (one[0] + one[1]) * PAGE, one[2] * PAGE)
)


@given(st.lists(areas, max_size=30))
def test_later_mappings_cover_earlier_ones(drawn: list[tuple[int, int, int]]) -> None:
    """Against the plain truth: a table of what every page belongs to."""
    maps: list[tuple[int, int, int, str, str]] = []
    truth: dict[int, tuple[str, int]] = {}
    for number, (start, end, offset) in enumerate(drawn):
        lay_over(maps, (start, end, offset, f"file {number}", ""))
        for page in range(start, end, PAGE):
            truth[page] = (f"file {number}", offset + page - start)
    assert maps == sorted(maps)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(maps))
    found = {
        page: (path, offset + page - start)
        for start, end, offset, path, _ in maps
        for page in range(start, end, PAGE)
    }
    assert found == truth


def needs_events() -> Any:
    return pytest.mark.needs("perf_event BPF")


@needs_events()
def test_events_come_in_order_and_once() -> None:
    """Forks on one CPU and what the children do on another: whatever is read first, forks are told first."""
    script = (
        "import os, sys\n"
        "for n in range(200):\n"
        "    p = os.fork()\n"
        "    if not p:\n"
        "        os.sched_setaffinity(0, {(max, min)[n & 1](os.sched_getaffinity(0))})\n"
        "        os.execv('/bin/true', ['true'])\n"
        "    os.waitpid(p, 0)\n"
    )
    sideband = Sideband()
    try:
        process = subprocess.Popen([sys.executable, "-S", "-c", script])
        mine = {process.pid}
        seen: list[Any] = []

        def wanted(pid: int, parent: int) -> bool:
            return pid in mine or parent in mine

        while process.poll() is None:
            for event in sideband.drain(wanted):
                if event.kind == "fork" and event.pid != event.parent:
                    mine.add(event.pid)
                seen.append(event)
        for event in sideband.drain(wanted, last=True):
            if event.kind == "fork":
                mine.add(event.pid)
            seen.append(event)
    finally:
        sideband.close()
    assert [event.time for event in seen] == sorted(event.time for event in seen)
    children = [event.pid for event in seen if event.kind == "fork" and event.parent == process.pid]
    assert len(children) == len(set(children)) == 200
    for kind in ("exec", "exit"):
        assert [
            event.pid for event in seen if event.kind == kind and event.pid in children
        ] == children
    mapped = {event.pid for event in seen if event.kind == "map" and event.path.endswith("/true")}
    assert mapped == set(children)
    assert sideband.lost == 0


@needs_events()
def test_lost_events_are_counted_and_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ring of a few pages and nobody reading, events are lost; a look at /proc finds the processes."""
    from workbench.collectors import sideband as module

    class Small(module.Sideband):
        def _map(self, fd: int, pages: int) -> int:
            return super()._map(fd, 2)

    monkeypatch.setattr("workbench.collectors.processes.Sideband", Small)
    # On one CPU, so in one ring, and only when the ring is there: 600 events of forks and exits, of which two pages
    # cannot hold more than 250. The kernel tells a loss with the next event that finds room: every line makes one.
    script = (
        "import os, signal, sys\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "def fork():\n"
        "    p = os.fork()\n"
        "    if not p: os._exit(0)\n"
        "    os.waitpid(p, 0)\n"
        "sys.stdin.readline()\n"
        "for _ in range(300): fork()\n"
        "p = os.fork()\n"
        "if not p:\n"
        "    while True: signal.pause()\n"
        "print(p, flush=True)\n"
        "while sys.stdin.readline(): fork()\n"
        "os.kill(p, 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    sink = MemorySink()
    target = Target(process.pid, pids={process.pid})
    processes = Processes(target, sink)

    def poke() -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    def found(child: int) -> bool:
        poke()
        processes.drain()
        return child in target.pids

    try:
        processes.start()
        poke()
        assert process.stdout is not None
        child = int(process.stdout.readline())
        wait_until(lambda: found(child))
        processes.drain(last=True)
        processes.finish()
    finally:
        process.communicate("")
    losses = sink.frame("losses")
    assert list(losses["cause"]) == ["side-band ring full"] and losses["lost"].iloc[0] > 0
    assert child in set(sink.frame("mappings")["pid"])


@needs_events()
def test_mappings_of_the_target_and_of_who_was_met() -> None:
    sink = MemorySink()
    target = Target(os.getpid(), pids={os.getpid()})
    processes = Processes(target, sink, data=True)
    processes.start()
    area = mmap.mmap(-1, PAGE * 37)
    address = np.frombuffer(area, np.uint8).ctypes.data
    target.others.add(os.getppid())
    wait_until(
        lambda: (
            processes.drain() == [] and address in set(map(int, sink.frame("mappings")["start"]))
        )
    )
    processes.finish()
    frame = sink.frame("mappings")
    row = frame[frame["start"] == address].iloc[0]
    assert row["end"] - row["start"] >= PAGE * 37 and row["pid"] == os.getpid()
    assert os.getppid() in set(frame["pid"])
    assert any("python" in Path(path).name for path in frame["path"])
