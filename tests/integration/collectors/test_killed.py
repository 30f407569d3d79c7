"""A recorder that is killed: what it counted in maps is there as of a moment before, and the recording says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from left_behind import wait_until
from probe_support import compile_c

import workbench as wb
from workbench.frames import checkpoint
from workbench.notebook.report import report

pytestmark = pytest.mark.needs("ptrace", "uprobe", "raw tracepoint", "C compiler")

SOURCE = r"""
#include <sys/syscall.h>
#include <unistd.h>
static volatile unsigned long sink;
__attribute__((noinline)) void work(long x) { sink += x; }
int main(void)
{
	for (long i = 0;; i++) {
		work(i);
		syscall(SYS_getppid);
		usleep(500);
	}
}
"""


@pytest.mark.parametrize("backend", ["kernel", "userspace"])
def test_counts_of_a_killed_recorder(backend: str, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with subprocess.Popen([compile_c(tmp_path, "program", SOURCE, "-O1", "-g")]) as target:
        try:
            words = ["--backend", backend, "-c", "uprobe:work,count=yes", "-c", "syscalls"]
            recorder = subprocess.Popen(
                [sys.executable, "-m", "workbench", "record", *words, "-o", out, "--pid", str(target.pid)]
            )
            partial = tmp_path / "r.partial"

            def kept() -> bool:
                assert recorder.poll() is None
                found = checkpoint.find(partial / "spool")
                return found is not None and found[0].suffix == ".1"

            wait_until(kept, 120)
            live = wb.load(out)
            assert live.status == "recording" and len(live.probe_counts) == 1
            os.kill(recorder.pid, signal.SIGKILL)
            recorder.wait()
        finally:
            target.kill()
    subprocess.run([sys.executable, "-m", "workbench", "bpf", "gc"], capture_output=True, check=False)
    recording = wb.load(out)
    assert recording.status == "interrupted"
    hits = int(recording.probe_counts["hits"].sum())
    calls = recording.syscalls[recording.syscalls["syscall"] == "getppid"]
    assert hits > 0 and int(calls["count"].sum()) > 0
    assert "of uprobe:work, syscalls as of" in recording.counts_as_of
    assert recording.counts_as_of in repr(recording)
    assert recording.counts_as_of in str(report(recording))
