"""Our own code in a process that is recorded in user space has names, as the kernel's programs have."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from probe_support import compile_c

from workbench.collectors.recorder import Recorder
from workbench.frames.symbols.mappings import Mappings
from workbench.frames.symbols.symbolizer import Symbolizer

pytestmark = pytest.mark.needs("ptrace", "C compiler", "userspace probe")

SOURCE = r"""
#include <unistd.h>
static volatile unsigned long sink;
__attribute__((noinline)) void work(void) { sink += 3 * sink + 7; }
int main(void)
{
	for (;;) {
		work();
		pause();
	}
}
"""


def _anonymous_code(pid: int) -> list[tuple[int, int]]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if "x" in words[1] and len(words) == 5:
            low, high = words[0].split("-")
            found.append((int(low, 16), int(high, 16)))
    return found


def test_our_code_in_a_process_has_names(tmp_path: Path) -> None:
    with subprocess.Popen([compile_c(tmp_path, "program", SOURCE, "-O1", "-g")]) as target:
        try:
            collect = ["uprobe:work,return=yes", "cpu:99"]
            recorder = Recorder(collect, output=tmp_path / "r", pid=target.pid, backend="userspace")
            with recorder:
                there = _anonymous_code(target.pid)
        finally:
            target.kill()
    content = recorder.recording.file(f"perf-{target.pid}.map")
    ranges = []
    for line in content.decode().splitlines():
        start, size, name = line.split(" ", 2)
        ranges.append((int(start, 16), int(start, 16) + int(size, 16), name))
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ranges))
    pieces = [one for one in ranges if one[2].startswith("[bpf]")]
    # Optimised code may have come since, in memory of its own.
    quick = {
        name
        for low, high, name in pieces
        if any(begin <= low and high <= end for begin, end in there)
    }
    assert quick == {"[bpf] enter", "[bpf] leave", "[bpf] sample_cpu"}
    assert {"[workbench agent]", "[workbench trampoline]"} <= {name for *_, name in ranges}
    places = np.array([low for low, *_ in pieces], np.uint64)
    pids = np.full(len(places), target.pid, np.int32)
    symbolizer = Symbolizer(Mappings(), perf_maps={target.pid: content}, kallsyms=None)
    found = symbolizer.resolve(pids, places, np.zeros(len(places), np.int64))
    assert found.function.to_pylist() == [name for *_, name in pieces]
