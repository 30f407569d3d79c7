"""What recording costs the target: CPU samples at 999 Hz with stacks, and uprobes by first-instruction class.

The cpu collector is measured on a process that runs the same SQLite query again and again: its own CPU time per
query with sampling off and on, in alternating pairs. The events are opened and attached once and only enabled and
disabled between the two, so nothing but sampling differs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.bench.result import BenchResult, Check, Row
from workbench.collectors.calibrate import measure_uprobe_costs
from workbench.collectors.cpu import CpuCollector
from workbench.collectors.target import attach_target
from workbench.frames.writer import RecordingWriter
from workbench.kernel import perf

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "what recording costs the target: CPU samples at 999 Hz with stacks, uprobes by instruction class"
PAIRS = 30
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


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    random = np.random.default_rng(1)
    picks = random.choice(values, (4000, len(values)))
    low, high = np.percentile(np.median(picks, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _cpu(pairs: int) -> tuple[dict[str, NDArray[np.float64]], int, int]:
    """CPU time per round with sampling off, the bare sampling event, the collector; samples taken and lost.

    The bare event is the same timer with no program attached: what any sampler pays on this machine.
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
            CpuCollector(999).bare_event(child.pid) as bare,
        ):
            collector = CpuCollector(999)
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
            for pair in range(pairs + 2):
                for name, events in modes if pair % 2 else modes[::-1]:
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


def _cpu_rows(took: dict[str, NDArray[np.float64]]) -> tuple[list[Row], list[Check]]:
    off = took["off"]
    total = (took["collector"] / off - 1) * 100
    floor = (took["bare"] / off - 1) * 100
    own = total - floor
    rows = []
    for name, values, peer in (
        ("cpu:999 with stacks, all of its cost", total, "sampling off"),
        ("the bare timer interrupt, no program attached", floor, "sampling off"),
        ("cpu:999 with stacks, above the bare interrupt", own, "the bare timer"),
    ):
        low, high = _interval(values)
        rows.append(
            Row(
                name,
                float(np.median(values)),
                f"% of CPU time, 95 % interval [{low:.2f}, {high:.2f}]",
                peer,
            )
        )
    rows.append(
        Row("one timer interrupt on this machine", float(np.median(floor)) / 100 / 999 * 1e6, "us")
    )
    rows.append(Row("alternated pairs", len(off), "pairs"))
    checks = [
        Check.at_most(
            "cpu:999 with stacks, % of CPU time, all of it", float(np.median(total)), 1.0
        ),
        Check.at_most(
            "cpu:999 with stacks, % of CPU time above the bare interrupt",
            float(np.median(own)),
            1.0,
        ),
    ]
    return rows, checks


def run() -> BenchResult:
    """Measure; needs perf_event BPF and uprobes."""
    took, samples, lost = _cpu(PAIRS)
    rows, checks = _cpu_rows(took)
    rows.append(Row("samples taken", samples, f"samples, {lost} lost"))
    rows += [_uprobe_row(one) for one in measure_uprobe_costs()]
    return BenchResult("overhead", tuple(rows), tuple(checks))


def _uprobe_row(one: dict[str, Any]) -> Row:
    what = {"count": "count only", "event": "one event", "call": "entry and return joined"}[
        one["mode"]
    ]
    return Row(
        f"uprobe, {what}, first instruction {one['class']}",
        one["median"],
        f"ns per hit [{one['low']:.0f}, {one['high']:.0f}]",
    )
