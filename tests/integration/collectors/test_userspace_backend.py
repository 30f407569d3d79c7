"""Every collector that can run in user space: the same frames as with the kernel, and once without privilege."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_support import programs as gpu_programs
from known_program import WITHOUT_FRAME_POINTERS, chains, known

from workbench.collectors.recorder import Recorder
from workbench.errors import BadSpec, MissingCapability
from workbench.frames.recording import Recording

pytestmark = pytest.mark.needs(
    "ptrace", "uprobe", "perf_event BPF", "sigtrap breakpoint", "C compiler"
)

SOURCE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
volatile long counter;
static volatile unsigned long sink;
__attribute__((noinline)) long add(long a, int b) { sink += a; return a + b; }
__attribute__((noinline)) void store(long value) { counter = value; }
static void *worker(void *unused)
{
	for (int i = 0; i < 500; i++) {
		void *volatile memory = malloc(100 + i % 3);
		store(add(i, 7));
		DTRACE_PROBE2(work, step, i, 12);
		free(memory);
	}
	return unused;
}
int main(int count, char **words)
{
	pthread_t threads[2];
	if (count > 1) { puts("ready"); fflush(stdout); getchar(); }
	for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, worker, 0);
	for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
	worker(0);
	(void)words;
	return 0;
}
"""
MARK = r"""
/* One mark as systemtap's header writes it: provider work, name step, two arguments in registers. */
#define DTRACE_PROBE2(p, n, a, b) __asm__ volatile("990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n" \
	".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n992: .balign 4\n993: .8byte 990b\n" \
	".8byte _.stapsdt.base\n.8byte 0\n.asciz \"work\"\n.asciz \"step\"\n.asciz \"-4@%0 -4@%1\"\n994: .balign 4\n" \
	".popsection\n.ifndef _.stapsdt.base\n" \
	".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n.weak _.stapsdt.base\n" \
	".hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n.size _.stapsdt.base, 1\n.popsection\n.endif\n" \
	:: "r"((int)(a)), "r"((int)(b)))
"""
SPECS = {
    "uprobe": "uprobe:add(long a, int b),return=yes",
    "uretprobe": "uretprobe:add(long a, int b) -> long",
    "usdt": "usdt:work:step",
    "malloc": "uprobe:libc:malloc(size_t size),count=yes",
    "free": "uprobe:libc:free,count=yes",
    "watch": "watch:counter,values=yes",
    "rwatch": "rwatch:counter",
}


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="workbench-userspace-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # another user starts it as well
        yield _compiled(folder)


def _compiled(folder: Path) -> Path:
    (folder / "program.c").write_text(MARK + SOURCE)
    output = folder / "program"
    subprocess.run(
        ["gcc", "-O1", "-g", "-o", output, folder / "program.c", "-pthread"], check=True
    )
    return output


def both(folder: Path, spec: str, command: list[str]) -> dict[str, Recording]:
    return {
        backend: Recorder(
            [spec], output=folder / backend, command=command, backend=backend,
            stdout=subprocess.DEVNULL,
        ).run()
        for backend in ("kernel", "userspace")
    }  # fmt: skip


def same_schema(found: dict[str, Recording]) -> None:
    kernel, user = found["kernel"], found["userspace"]
    assert set(kernel.frames) == set(user.frames)
    for name in kernel.frames:
        one, other = getattr(kernel, name), getattr(user, name)
        assert list(one.columns) == list(other.columns), name
        assert one.dtypes.astype(str).to_dict() == other.dtypes.astype(str).to_dict(), name


def rows(frame: Any, columns: list[str]) -> list[tuple[Any, ...]]:
    return sorted(frame[columns].astype(str).itertuples(index=False, name=None))


@pytest.mark.parametrize("name", SPECS)
def test_same_frames(name: str, program: Path, tmp_path: Path) -> None:
    found = both(tmp_path, SPECS[name], [str(program)])
    same_schema(found)
    kernel, user = found["kernel"], found["userspace"]
    assert user.lost == {} == kernel.lost
    if name in ("uprobe", "uretprobe", "usdt"):
        columns = [one for one in user.calls if one.startswith(("arg_", "result", "function"))]
        assert len(user.calls) == 1500 and user.calls["tid"].nunique() == 3
        assert rows(user.calls, columns) == rows(kernel.calls, columns)
        assert set(user.overhead["instruction_class"].astype(str)) == {"jump"}
        assert (user.overhead["cost"] > 0).all()
    elif "watch" in name:
        columns = ["access", "function", "size"]
        assert rows(user.watches, columns) == rows(kernel.watches, columns)
        if name == "watch":
            assert len(user.watches) == 1500
    else:
        # What the dynamic linker and the threads' start allocate beside is the same.
        assert rows(user.probe_counts, ["function", "hits"]) == rows(
            kernel.probe_counts, ["function", "hits"]
        )
        assert int(user.probe_counts["hits"].sum()) >= 1500


def test_cpu(tmp_path: Path) -> None:
    found = both(tmp_path, "cpu:999", [known(*WITHOUT_FRAME_POINTERS), "burn", "0.4"])
    same_schema(found)
    share = {}
    for backend, recording in found.items():
        samples, names = recording.samples, chains(recording)
        counts = samples["function"].astype(str).value_counts()
        share[backend] = counts["heavy"] / (counts["heavy"] + counts["light"])
        inside = samples[samples["function"].isin(["heavy", "light"])]
        assert len(inside) > 200
        assert {names[stack][1:3] for stack in inside["stack"]} == {("burn", "main")}
    assert share["userspace"] == pytest.approx(share["kernel"], abs=0.1)
    user = found["userspace"]
    assert user.manifest.notes["sampling"]["left_out"][0] == "time in the kernel"
    assert int(user.overhead["hits"].sum()) == len(user.samples)


HOT = r"""
#include <time.h>
__attribute__((noipa)) long price(long a) { return a + 3; }
int main(void)
{
	struct timespec t;
	do {
		for (long i = 0; i < 10000; i++) price(i);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	} while (!t.tv_sec);
	return 0;
}
"""


def test_samples_lost_to_probes_of_a_command_that_has_ended(tmp_path: Path) -> None:
    (tmp_path / "hot.c").write_text(HOT)
    subprocess.run(["gcc", "-O2", "-g", "-o", tmp_path / "hot", tmp_path / "hot.c"], check=True)
    recording = Recorder(
        ["cpu:999", "uprobe:hot:price,count=yes"], output=tmp_path / "r",
        command=[str(tmp_path / "hot")], backend="userspace",
    ).run()  # fmt: skip
    assert int(recording.probe_counts["hits"].sum()) > 10_000
    causes = recording.losses.groupby("cause", observed=True)["lost"].sum()
    inside = int(causes["the thread was inside a probe's program"])
    assert inside > 0 and sum(recording.lost.values()) >= inside


def test_cpu_by_timers(tmp_path: Path) -> None:
    """As where perf events are refused."""
    command = [known(*WITHOUT_FRAME_POINTERS), "burn", "1.0"]
    recording = Recorder(
        ["cpu:999,event=timer"], output=tmp_path / "r", command=command, backend="userspace",
        stdout=subprocess.DEVNULL,
    ).run()  # fmt: skip
    counts = recording.samples["function"].astype(str).value_counts()
    assert counts["heavy"] > counts["light"] > 0
    notes = recording.manifest.notes["sampling"]
    assert notes["driver"] == "timer" and 10 <= notes["hz"] <= 999
    assert notes["left_out"][0] == "kernel frames"


def test_gpu(tmp_path: Path) -> None:
    found = both(tmp_path, "gpu", [str(gpu_programs().shared)])
    same_schema(found)
    columns = ["layer", "kind", "bytes", "direction", "grid_x", "block_x"]
    assert rows(found["userspace"].gpu_calls, columns) == rows(found["kernel"].gpu_calls, columns)
    # Kernels that the program registers; others are named by symbols where the process still lives.
    registered = [(r.gpu_calls["kernel"] == "scale(float*, int)").sum() for r in found.values()]
    assert registered[0] == registered[1] > 4000
    assert found["userspace"].lost == {}
    assert set(found["userspace"].overhead["instruction_class"].astype(str)) == {"jump"}


@pytest.fixture
def waiting(program: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [program, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_several_collectors_on_a_running_process(
    waiting: subprocess.Popen[str], tmp_path: Path
) -> None:
    collect = [SPECS["uprobe"], SPECS["watch"], "cpu:4999", SPECS["usdt"]]
    recorder = Recorder(collect, output=tmp_path / "r", pid=waiting.pid, backend="userspace")
    recorder.start()
    waiting.communicate("\n", timeout=60)
    recording = recorder.result()
    assert waiting.returncode == 0
    assert len(recording.watches) == 1500 and set(recording.watches["function"]) == {"store"}
    by_function = recording.calls["function"].astype(str).value_counts().to_dict()
    assert by_function == {"add": 1500, "work:step": 1500}


def test_what_only_the_kernel_has(waiting: subprocess.Popen[str], tmp_path: Path) -> None:
    for spec in ("cpu,event=cycles", "watch:counter,mode=bpf", "sched", "pages"):
        recorder = Recorder([spec], output=tmp_path / "r", pid=waiting.pid, backend="userspace")
        with pytest.raises((MissingCapability, BadSpec), match=r"kernel|cycle"):
            recorder.start()
    assert not list(tmp_path.iterdir())
    assert waiting.poll() is None


UNPRIVILEGED = """
import json, subprocess, sys
from workbench.collectors.recorder import Recorder
program, known, gpu, specs = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
rows = {}
for number, (spec, frame) in enumerate(specs):
    command = [known, "burn", "0.2"] if spec.startswith("cpu") else [gpu] if spec == "gpu" else [program]
    recorder = Recorder([spec], output=f"r{number}", command=command, backend="userspace", stdout=subprocess.DEVNULL)
    rows[spec] = len(getattr(recorder.run(), frame))
print(json.dumps(rows))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_without_privilege(program: Path, tmp_path: Path) -> None:
    frames = {"watch": "watches", "cpu:999": "samples", "gpu": "gpu_calls", "malloc": "probe_counts"}
    specs = [(SPECS.get(name, name), frames.get(name, "calls")) for name in (*SPECS, "cpu:999", "gpu")]
    specs = [(spec, "watches" if spec.startswith("rwatch") else frame) for spec, frame in specs]
    specs = [(spec, "probe_counts" if "count=yes" in spec else frame) for spec, frame in specs]
    gpu = gpu_programs().shared
    gpu.parent.chmod(0o755)
    Path(known()).parent.chmod(0o755)
    tmp_path.chmod(0o777)
    nobody = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        # The interpreter may lie in a folder that only root may enter; nothing else is kept.
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    ]  # fmt: skip
    done = subprocess.run(
        [*nobody, sys.executable, "-c", UNPRIVILEGED, program, known(), gpu, json.dumps(specs)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for spec in (SPECS["uprobe"], SPECS["uretprobe"], SPECS["usdt"], SPECS["watch"]):
        assert found[spec] == 1500, spec
    assert found["cpu:999"] > 100 and found["gpu"] > 8000
    assert found[SPECS["malloc"]] > 0 and found[SPECS["free"]] > 0
