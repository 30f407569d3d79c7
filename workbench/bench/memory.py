"""Is recording flat in memory? A real recording at many times the usual rate, and what the recorder holds meanwhile.

An hour at 999 Hz on two busy CPUs is 7.2 million samples. Two busy processes are sampled ten times as fast, with
stacks, so every second stands for ten; what a sample leaves behind in the recorder shows ten times as soon.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import RunFailed

__all__ = ("DESCRIPTION", "measure", "run")

DESCRIPTION = "memory of the recorder while it takes samples with stacks at ten times 999 Hz on two busy CPUs"
HZ, SECONDS, WARM = 9990, 60.0, 20.0
HOUR = 3600 * 999 * 2
LIMIT = 8.0
"""MiB between the time after warming up and the end; an allocator's caches move by a few."""

# Deep and varied stacks: recursion of SQL and of Python below two processes that never wait.
_TARGET = """
import os, pathlib, sqlite3, sys, time
folder, end = pathlib.Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
child = os.fork()
base = sqlite3.connect(":memory:")
base.executescript("create table t (a, b); create index i on t (a)")
base.executemany("insert into t values (?, ?)", ((i * 7919 % 20000, "x" * (i % 50)) for i in range(20000)))
def work(depth):
    if depth:
        return work(depth - 1)
    base.execute("select count(*), sum(length(b)) from t where a > 10 order by b").fetchall()
    base.execute("select max(x.b) from t x join t y on y.a = x.a + 1").fetchall()
if child:
    (folder / "begun").touch()
step = 0
while time.monotonic() < end:
    work(step % 40)
    step += 1
if child:
    (folder / "ended").touch()
    os.waitpid(child, 0)
"""


def _anonymous_mib(pid: int) -> float:
    """Private memory of a process in MiB, swapped-out pages included; nan once it has exited."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    sizes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:"))]
    return sum(sizes) / 1024 if sizes else float("nan")


def _watch(recorder: subprocess.Popen[str], folder: Path) -> tuple[NDArray[np.float64], float]:
    """Seconds since the target began and MiB, until it ended, (n, 2); and the most that was held afterwards."""
    points: list[tuple[float, float]] = []
    begin, most = 0.0, 0.0
    while recorder.poll() is None:
        held, now = _anonymous_mib(recorder.pid), time.monotonic()
        if (folder / "ended").exists():
            most = np.fmax(most, held)
        elif (folder / "begun").exists():
            begin = begin or now
            points.append((now - begin, held))
        time.sleep(0.1)
    return np.array(points).reshape(-1, 2), float(most)


def measure(seconds: float, warm: float, hz: int = HZ) -> BenchResult:
    """Record two busy processes for `seconds`, of which the first `warm` fill caches and do not count.

    Raises
    ------
    RunFailed
        The recorder failed; the hint is its last line.
    """
    import workbench as wb

    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as name:
        folder = Path(name)
        target = [sys.executable, "-c", _TARGET, str(folder), str(seconds)]
        options = ["record", "--collect", f"cpu:{hz}", "--output", str(folder / "recording"), "--json"]
        recorder = subprocess.Popen(
            [sys.executable, "-m", "workbench.cli", *options, "--", *target],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            points, finishing = _watch(recorder, folder)
        finally:
            recorder.terminate()
            _, complaint = recorder.communicate()
        if recorder.returncode or not len(points):
            raise RunFailed("the recorder failed", (complaint.strip().splitlines() or ["it said nothing"])[-1])
        recording = wb.load(folder / "recording")
        samples = len(recording.frame("samples"))
        lost = sum(loss.count for loss in recording.manifest.losses)
        size = sum(path.stat().st_size for path in (folder / "recording").iterdir()) / 2**20
    return _result(points, finishing, samples, lost, size, warm)


def _result(
    points: NDArray[np.float64], finishing: float, samples: int, lost: int, size: float, warm: float
) -> BenchResult:
    when, held = points[np.isfinite(points[:, 1])].T
    steady = when >= warm
    # Medians over a second at both ends: one drain's arrays come and go.
    first = float(np.median(held[steady & (when < when[steady][0] + 1)]))
    last = float(np.median(held[when > when[-1] - 1]))
    return BenchResult(
        "memory",
        (
            Row("samples taken, with stacks", samples, f"samples, {lost} lost", "an hour at 999 Hz", samples / HOUR),
            Row("held after warming up", first, "MiB"),
            Row("held at the end", last, "MiB", "after warming up", last / first),
            Row("most held while recording", float(held.max()), "MiB", "after warming up", float(held.max()) / first),
            Row("most held while finishing", finishing, "MiB", "after warming up", finishing / first),
            Row("recording on disk", size, "MiB"),
        ),
        (Check.at_most("growth after warming up, MiB", last - first, LIMIT),),
    )


def run() -> BenchResult:
    """`workbench bench memory`; needs perf_event BPF."""
    return measure(SECONDS, WARM)
