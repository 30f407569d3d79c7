"""CPU samples of programs that burn a known time in known functions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from known_program import (
    WITH_FRAME_POINTERS,
    WITHOUT_FRAME_POINTERS,
    chains,
    compiled,
    go,
    known,
    record,
    share,
    waiting,
)
from left_behind import state_of, wait_until

from workbench.collectors.recorder import Recorder
from workbench.errors import BadSpec
from workbench.frames.recording import Recording

pytestmark = pytest.mark.needs("perf_event BPF", "ptrace")
SECONDS = 0.4
OUTSIDE = ("_start", "__libc_start_main", "__libc_start_call_main", "main")


def expect_count(recording: Recording, seconds: float, hz: int, function: str = "") -> None:
    """As many samples as CPU time passed, within the tick of the clock and what start and exit take."""
    samples = recording.samples
    if function:
        samples = samples[samples["stack"].isin(stacks_through(recording, function))]
    assert seconds * hz * 0.93 - 2 <= len(samples) <= seconds * hz * 1.1 + 0.02 * hz + 2
    assert recording.lost == {}


def stacks_through(recording: Recording, function: str) -> set[int]:
    return {stack for stack, chain in chains(recording).items() if function in chain}


@pytest.mark.parametrize(
    "flags, stacks",
    [
        (WITHOUT_FRAME_POINTERS, "dwarf"),
        (WITH_FRAME_POINTERS, "dwarf"),
        (WITH_FRAME_POINTERS, "fp"),
    ],
)
def test_counts_shares_and_call_chains(tmp_path: Path, flags: tuple[str, ...], stacks: str) -> None:
    recording = record(tmp_path, f"cpu:999,stacks={stacks}", "burn", SECONDS, program=known(*flags))
    samples = recording.samples
    expect_count(recording, SECONDS, 999)
    # By chains: on a busy machine a tenth of a program's time may be the kernel's, called or interrupting.
    heavy, light = (
        float(samples["stack"].isin(stacks_through(recording, name)).mean())
        for name in ("heavy", "light")
    )
    assert heavy + light > 0.9
    assert heavy / (heavy + light) == pytest.approx(0.75, abs=0.06)
    assert share(samples, "heavy") > 0.4 and share(samples, "light") > 0.1
    assert set(samples["pid"]) == {recording.manifest.pid} == set(samples["tid"])
    assert set(samples["comm"]) == {Path(recording.manifest.command[0]).name[:15]}
    assert samples["time"].is_monotonic_increasing
    inside = samples[samples["function"].isin(["heavy", "light"])]
    known_chains = chains(recording)
    for stack, function in zip(inside["stack"], inside["function"], strict=True):
        chain = known_chains[stack]
        assert chain[:3] == (function, "burn", "main")
        assert chain[-1] == "_start" or stacks == "fp"  # libc has no frame pointers
    assert recording.manifest.notes["sampling"]["driver"] in ("cycles", "clock")
    overhead = recording.overhead
    assert int(overhead["hits"].sum()) == len(samples)
    assert 0 < float(overhead["cost"].iloc[0]) < 1e6


@pytest.mark.parametrize("hz, seconds", [(1, 2.2), (10_000, 0.3)])
def test_slowest_and_fastest_rate(tmp_path: Path, hz: int, seconds: float) -> None:
    recording = record(tmp_path, f"cpu:{hz}", "burn", seconds)
    if hz == 1:
        assert 1 <= len(recording.samples) <= 3
    else:
        expect_count(recording, seconds, hz)


@pytest.mark.parametrize("hz", [0, 10_001])
def test_rates_beyond_are_refused(hz: int) -> None:
    with pytest.raises(BadSpec, match=rf"{hz} is outside 1 to 10000"):
        Recorder([f"cpu:{hz}"], output="x", pid=1)


@pytest.mark.parametrize("flags", [WITHOUT_FRAME_POINTERS, WITH_FRAME_POINTERS])
def test_recursion(tmp_path: Path, flags: tuple[str, ...]) -> None:
    recording = record(tmp_path, "cpu:999", "descend", 20, 0.2, program=known(*flags))
    samples = recording.samples[recording.samples["function"] == "at_the_bottom"]
    assert len(samples) > 100
    known_chains = chains(recording)
    found = {known_chains[stack] for stack in set(samples["stack"])}
    assert found == {("at_the_bottom", *["descend"] * 21, *reversed(OUTSIDE))}


def test_stack_deeper_than_what_is_copied(tmp_path: Path) -> None:
    """110 frames of 300 bytes: 16 KiB hold half of them, copy= takes all."""
    recording = record(tmp_path, "cpu:999", "descend", 110, 0.1)
    lengths = {
        chain.count("descend") for chain in chains(recording).values() if "at_the_bottom" in chain
    }
    # How many fit depends on how deep the clock's function stood.
    assert lengths and min(lengths) > 40 and max(lengths) < 100 and len(lengths) <= 3
    deeper = record(tmp_path / "deeper", "cpu:999,copy=56K", "descend", 110, 0.1)
    found = {chain for chain in chains(deeper).values() if chain[0] == "at_the_bottom"}
    assert found == {("at_the_bottom", *["descend"] * 111, *reversed(OUTSIDE))}


def test_frame_pointers_need_no_copy(tmp_path: Path) -> None:
    """By frame pointers a stack of any size is whole, up to 127 frames."""
    recording = record(
        tmp_path, "cpu:999,stacks=fp", "descend", 110, 0.1, program=known(*WITH_FRAME_POINTERS)
    )
    found = {chain.count("descend") for chain in chains(recording).values() if "main" in chain}
    assert found == {111}


def test_without_stacks(tmp_path: Path) -> None:
    recording = record(tmp_path, "cpu:999,stacks=no", "burn", 0.1)
    assert set(recording.samples["stack"]) == {-1}
    assert len(recording.stacks) == 0


def test_kernel_stacks(tmp_path: Path) -> None:
    source = tmp_path / "calls.c"
    source.write_text(
        "#include <unistd.h>\n#include <sys/syscall.h>\n#include <time.h>\n"
        "int main(void) { clock_t end = clock() + CLOCKS_PER_SEC / 5; static char b[65536];\n"
        'int fd = syscall(SYS_openat, -100, "/dev/zero", 0);\n'
        "while (clock() < end) for (int i = 0; i < 100; i++) read(fd, b, sizeof b); return 0; }\n"
    )
    program = compiled(source, "-O1")
    recording = record(tmp_path, "cpu:999", "x", program=program)
    kernel = recording.stacks[recording.stacks["space"] == "kernel"]
    functions = set(kernel["function"])
    assert any("read" in name for name in functions) and any("zero" in name for name in functions)
    whole = chains(recording, user=False)
    both = [chain for chain in whole.values() if any("vfs_read" in name for name in chain)]
    assert both and all(chain[-1] == "_start" for chain in both)  # kernel frames, then user frames
    plain = record(tmp_path / "plain", "cpu:999,kernel=no", "x", program=program)
    assert "kernel" not in set(plain.stacks["space"])


def test_threads_of_before_and_after_attach(tmp_path: Path) -> None:
    with waiting("threads", 0.2) as process:
        recorder = Recorder(["cpu:999"], output=tmp_path / "r", pid=process.pid).start()
        go(process)
        recording = recorder.result()
    for work in ("early_work", "late_work"):
        expect_count(recording, 0.2, 999, work)
    tids = recording.samples.groupby("function", observed=True)["tid"].unique()
    assert len(tids["early_work"]) == len(tids["late_work"]) == 1
    assert len({process.pid, tids["early_work"][0], tids["late_work"][0]}) == 3
    life = recording.processes[recording.processes["tid"] == tids["late_work"][0]]
    assert list(life["event"]) == ["fork", "exit"]
    present = recording.processes[recording.processes["event"] == "present"]
    assert set(present["tid"]) == {process.pid, tids["early_work"][0]}


@pytest.mark.parametrize("follow", [True, False])
def test_forks(tmp_path: Path, follow: bool) -> None:
    with waiting("forks", 0.2) as process:
        recorder = Recorder(["cpu:999"], output=tmp_path / "r", pid=process.pid, follow=follow)
        recorder.start()
        child = json.loads(go(process))["child"]
        recording = recorder.result()
    expect_count(recording, 0.2, 999, "parent_work")
    samples = recording.samples
    assert set(samples["pid"]) == ({process.pid, child} if follow else {process.pid})
    if follow:
        expect_count(recording, 0.2, 999, "child_work")
        found = samples[samples["function"] == "child_work"]
        assert set(found["pid"]) == {child}
        forked = recording.processes[recording.processes["event"] == "fork"]
        assert list(forked["pid"]) == [child] and list(forked["parent"]) == [process.pid]


def test_exec_in_the_target(tmp_path: Path) -> None:
    """The same addresses hold other code after an exec: each sample is named by what was mapped at its time."""
    recording = record(tmp_path, "cpu:999", "exec", 0.2)
    for work in ("before_exec", "burn"):
        expect_count(recording, 0.2, 999, work)
    samples = recording.samples
    before = samples[samples["function"] == "before_exec"]["time"].max()
    after = samples[samples["function"].isin(["heavy", "light"])]["time"].min()
    exec_at = recording.processes[recording.processes["event"] == "exec"]["time"]
    assert len(exec_at) == 1 and before < exec_at.iloc[0] < after


def test_main_thread_that_ends_first(tmp_path: Path) -> None:
    recording = record(tmp_path, "cpu:999", "leaderless", 0.2)
    expect_count(recording, 0.2, 999, "late_work")


def test_short_lived_processes_resolve(tmp_path: Path) -> None:
    """They are gone when they are looked up: what they mapped is known from the side-band."""
    script = f"for i in $(seq 50); do {known()} burn 0.01; done"
    recorder = Recorder(["cpu:4999"], output=tmp_path / "r", command=["/bin/sh", "-c", script])
    recording = recorder.run()
    samples = recording.samples
    mine = samples[samples["comm"].astype(str).str.startswith("known")]
    assert mine["pid"].nunique() == 50
    burning = mine[mine["function"].isin(["heavy", "light"])]
    assert burning.groupby("pid").size().min() >= 25 and burning["pid"].nunique() == 50
    known_chains = chains(recording)
    whole = [known_chains[stack] for stack in burning["stack"].unique()]
    good = [chain[1:] == ("burn", *reversed(OUTSIDE)) for chain in whole]
    assert sum(good) >= 0.95 * len(good)
    execs = recording.processes[recording.processes["event"] == "exec"]
    assert execs["pid"].nunique() == 51  # and seq


def test_whole_machine(tmp_path: Path) -> None:
    with waiting("threads", 0.3) as process:
        recorder = Recorder(["cpu:999"], output=tmp_path / "r", machine=True).start()
        go(process)
        recorder.stop()
        recording = recorder.result()
    assert recording.manifest.pid is None
    samples = recording.samples
    mine = samples[samples["pid"] == process.pid]
    assert share(mine, "early_work") + share(mine, "late_work") > 0.9
    assert 2 * 0.3 * 999 * 0.9 <= len(mine) <= 2 * 0.3 * 999 * 1.15
    assert 0 not in set(samples["pid"])  # idle CPUs are not sampled
    assert os.getpid() in set(recording.processes["pid"])


def find_python() -> str:
    """A Python that writes perf trampolines (3.12 or later); empty without one."""
    candidates = [sys.executable, *(f"python3.{minor}" for minor in (12, 13, 14))]
    candidates += map(str, Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python"))
    for one in candidates:
        try:
            done = subprocess.run(
                [
                    one,
                    "-X",
                    "perf",
                    "-c",
                    "import sys; sys.exit(not sys.is_stack_trampoline_active())",
                ],
                capture_output=True,
                timeout=20,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return one
    return ""


PYTHON = find_python()


@pytest.mark.needs(*(() if PYTHON else ("python perf trampolines",)))
@pytest.mark.parametrize("readable", [True, False], ids=["alive", "gone"])
def test_python_functions_of_perf_trampolines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """Chains go through the trampolines, also where the process has ended before its code was looked at."""

    def late(pid: int, _start: int, size: int) -> bytes:
        if size >= 1 << 16:  # the trampolines; the vdso is smaller, and looked at before the command runs
            wait_until(lambda: state_of(pid) in ("", "Z"))
        return b""

    if not readable:
        monkeypatch.setattr("workbench.frames.unwind._memory", late)
    script = tmp_path / "work.py"
    script.write_text(
        "import time\n"
        "def innermost():\n    return sum(i * i for i in range(2000))\n"
        "def outer(end):\n    while time.process_time() < end:\n        innermost()\n"
        "outer(0.4)\n"
    )
    recorder = Recorder(
        ["cpu:999"], output=tmp_path / "r", command=[PYTHON, "-X", "perf", str(script)]
    )
    recording = recorder.run()
    frames = recording.stacks[recording.stacks["space"] == "python"]
    assert {"innermost (work.py)", "outer (work.py)"} <= set(frames["function"])
    inner = [c for c in chains(recording).values() if "innermost (work.py)" in c]
    through = [c for c in inner if c[-1] != "innermost (work.py)" and "outer (work.py)" in c]
    assert len(through) > 0.9 * len(inner)
    assert f"perf-{recording.manifest.pid}.map" in recording.manifest.files
    Path(f"/tmp/perf-{recording.manifest.pid}.map").unlink(missing_ok=True)


JIT = r"""
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
/* mov rcx, rdi; loop: dec rcx; jnz loop; ret */
static const unsigned char code[] = {0x48,0x89,0xf9,0x48,0xff,0xc9,0x75,0xfb,0xc3};
int main(void)
{
	char name[64];
	void (*made)(long) = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy((void *)made, code, sizeof code);
	sprintf(name, "/tmp/perf-%d.map", getpid());
	FILE *f = fopen(name, "w");
	fprintf(f, "%lx %zx hot_generated\n", (long)made, sizeof code);
	fclose(f);
	clock_t end = clock() + CLOCKS_PER_SEC / 5;
	while (clock() < end) made(1000000);
	return 0;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the generated code is x86-64")
def test_functions_of_a_perf_map(tmp_path: Path) -> None:
    source = tmp_path / "jit.c"
    source.write_text(JIT)
    recording = record(tmp_path, "cpu:999", "x", program=compiled(source, "-O1"))
    kept = f"perf-{recording.manifest.pid}.map"
    Path("/tmp", kept).unlink()
    assert share(recording.samples, "hot_generated") > 0.7
    assert b"hot_generated" in recording.file(kept)
    frame = recording.stacks[recording.stacks["function"] == "hot_generated"]
    assert set(frame["space"]) == {"jit"}


@pytest.mark.needs("uprobe")
def test_an_instruction_that_runs_out_of_line_for_a_probe_is_where_it_belongs(
    tmp_path: Path,
) -> None:
    source = tmp_path / "stepped.c"
    source.write_text(
        """
        __attribute__((noinline)) int stepped(volatile int *x) { return *x + 1; } /* mov: single-stepped */
        int main(void) {
          volatile int x = 1, sum = 0;
          for (int i = 0; i < 20000; i++) sum += stepped(&x);
          return 0;
        }
        """
    )
    recording = record(
        tmp_path,
        ["cpu:4999", "uprobe:stepped,return=yes"],
        "",
        program=compiled(source, *WITHOUT_FRAME_POINTERS),
    )
    samples, chain = recording.samples, chains(recording)
    through = samples["stack"].map(lambda stack: "main" in chain.get(stack, ()))
    assert len(samples) > 50 and through.mean() > 0.9
