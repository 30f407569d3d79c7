"""All collectors of a recording cover the same stretch of time, which is the one that the recording states."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from probe_support import compile_c

from workbench.collectors.base import Counters
from workbench.collectors.recorder import Recorder

pytestmark = pytest.mark.needs(
    "ptrace", "uprobe", "raw tracepoint", "sigtrap breakpoint", "C compiler"
)

SOURCE = r"""
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
volatile long counter;
static volatile unsigned long sink;
__attribute__((noinline)) void first(long x) { sink += x; }
__attribute__((noinline)) void second(long x) { sink += 3 * x; }
int main(void)
{
	int count;
	puts("ready");
	fflush(stdout);
	while (scanf("%d", &count) == 1) {
		for (int i = 0; i < count; i++) {
			first(i);
			syscall(SYS_getppid);
			counter = i;
			second(i);
		}
		puts("done");
		fflush(stdout);
	}
	return 0;
}
"""
INSIDE, OUTSIDE = 100, 7


class Worker:
    """The target, and a collector that has it work while others are attached already, or still."""

    name = "worker"
    frames: tuple[str, ...] = ()

    def __init__(self, program: str) -> None:
        self.counters = Counters()
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hear("ready")

    def _hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def work(self, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        self._hear("done")

    def attach(self, target: Any, sink: Any) -> None:
        self.work(OUTSIDE)

    def detach(self) -> None:
        self.work(OUTSIDE)

    def attach_process(self, pid: int) -> None:
        pass

    def wake_fds(self) -> tuple[int, ...]:
        return ()

    def drain(self) -> int:
        return 0

    def finish(self) -> None:
        self.work(OUTSIDE)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(compile_c(tmp_path, "program", SOURCE, "-O1", "-g"))
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.mark.parametrize("backend", ["kernel", "userspace"])
def test_what_happens_while_others_attach_or_detach_is_not_recorded(
    backend: str, worker: Worker, tmp_path: Path
) -> None:
    collect: list[Any] = [
        "uprobe:first,count=yes", worker, "syscalls", "watch:counter", "uprobe:second,return=yes",
    ]  # fmt: skip
    recorder = Recorder(collect, output=tmp_path / "r", pid=worker.process.pid, backend=backend)
    recorder.start()
    worker.work(INSIDE)
    recorder.stop()
    recording = recorder.result()
    hits = recording.probe_counts.astype({"probe": str}).set_index("probe")["hits"]
    assert hits.to_dict() == {"uprobe:first": INSIDE, "uprobe:second": INSIDE}
    assert len(recording.calls) == INSIDE and len(recording.watches) == INSIDE
    assert int(recording.watch_windows["hits"].sum()) == INSIDE
    calls = recording.syscalls[recording.syscalls["syscall"] == "getppid"]
    assert int(calls["count"].sum()) == INSIDE
    assert recording.lost == {}
    manifest = recording.manifest
    assert manifest.end is not None
    assert (recording.calls["time"] >= manifest.start.monotonic_ns).all()
    window = recording.watch_windows.iloc[0]
    assert manifest.start.monotonic_ns <= window["start"] <= window["end"]
    costs = recording.overhead.astype({"collector": str}).set_index("collector")
    assert (costs.loc["syscalls", "cost"] > 0).all()
    if backend == "userspace":
        assert costs.loc["syscalls", "hits"] == recording.syscalls["count"].sum()
