"""What CPU sampling costs its target: the target's own CPU time per round of the same SQLite queries.

The events are opened and attached once and only enabled and disabled between rounds, so nothing but sampling differs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.collectors.cpu import CpuCollector
from workbench.collectors.target import attach_target
from workbench.frames.writer import RecordingWriter
from workbench.kernel import perf

__all__ = ("cpu_times",)

_TARGET = """
import sqlite3, sys, time
base = sqlite3.connect(":memory:")
base.executescript("create table t (a, b); create index i on t (a)")
base.executemany("insert into t values (?, ?)", ((i * 7919 % 20000, "x" * (i % 50)) for i in range(20000)))
def work():
    for _ in range(4):
        base.execute("select count(*), sum(length(b)) from t where a > 10 order by b").fetchall()
        base.execute("select max(x.b) from t x join t y on y.a = x.a + 1").fetchall()
work()
print("ready", flush=True)
for line in sys.stdin:
    begin = time.thread_time_ns()
    work()
    print(time.thread_time_ns() - begin, flush=True)
"""


def cpu_times(hz: int, rounds: int) -> tuple[dict[str, NDArray[np.float64]], int, int]:
    """Measure the target's CPU time for the same work with and without sampling, in alternating order.

    Parameters
    ----------
    hz : int
        Sampling rate of the cpu collector, with stacks.
    rounds : int
        Rounds that count; two more come first.

    Returns
    -------
    dict of str to float64 (rounds,)
        ns of CPU time per round: ``off``; ``bare``, the same timer with no program attached, which any sampler pays
        on this machine; ``collector``.
    int, int
        Samples taken and lost.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", _TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    reply, ask = child.stdout, child.stdin

    def once(events: tuple[int, ...]) -> int:
        for event in events:
            perf.enable(event)
        ask.write("go\n")
        ask.flush()
        took = int(reply.readline())
        for event in events:
            perf.disable(event)
        return took

    try:
        reply.readline()
        with (
            tempfile.TemporaryDirectory() as folder,
            CpuCollector(hz).bare_event(child.pid) as bare,
        ):
            collector = CpuCollector(hz)
            writer = RecordingWriter(Path(folder) / "bench", pid=child.pid, collectors=["cpu"])
            target = attach_target(child.pid)
            collector.attach(target, writer)
            target.unwinder().prepare(child.pid)
            modes: list[tuple[str, tuple[int, ...]]] = [
                ("off", ()), ("bare", (bare,)), ("collector", collector.events),
            ]  # fmt: skip
            for event in collector.events:
                perf.disable(event)
            took: dict[str, list[int]] = {name: [] for name, _ in modes}
            for turn in range(rounds + 2):
                for name, events in modes if turn % 2 else modes[::-1]:
                    took[name].append(once(events))
                    collector.drain()
            collector.detach()
            collector.drain()
            collector.finish()
            writer.discard()
        columns = {name: np.array(values[2:], np.float64) for name, values in took.items()}
        return columns, collector.counters.events, collector.counters.lost
    finally:
        child.kill()
        child.wait()
        ask.close()
        reply.close()
