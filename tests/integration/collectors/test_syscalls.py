"""System calls counted in the kernel against a program that makes a known number of them."""

from __future__ import annotations

import ctypes
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_program import go, known, record, waiting

from workbench.collectors.recorder import Recorder
from workbench.collectors.syscalls import SyscallsCollector, bucket_bounds

needs_tracepoints = pytest.mark.needs("raw tracepoint", "ptrace")
PROGRAM = Path(__file__).parents[3] / "bpf" / "syscalls.bpf.c"


@needs_tracepoints
def test_exact_counts_errors_and_latencies(tmp_path: Path) -> None:
    recording = record(tmp_path, "syscalls", "calls")
    rows = recording.syscalls
    assert set(rows["pid"]) == {recording.manifest.pid}
    totals = rows.groupby("syscall", observed=True)[["count", "errors", "total"]].sum()
    for name, count, errors in (
        ("getppid", 1000, 0),
        ("readlink", 7, 7),
        ("clock_nanosleep", 30, 0),
    ):
        assert tuple(totals.loc[name, ["count", "errors"]]) == (count, errors), name
    assert totals.loc["close", "errors"] == 100 <= totals.loc["close", "count"]
    naps = rows[rows["syscall"] == "clock_nanosleep"]
    assert naps["bucket_high"].min() > 2_000_000 > naps["bucket_low"].min() * 0.99
    # Every call lies in its bucket, so the sum lies between those of the bounds.
    assert (rows["total"] >= rows["count"] * rows["bucket_low"]).all()
    assert (rows["total"] < rows["count"] * rows["bucket_high"]).all()
    assert not rows.duplicated(["pid", "syscall", "bucket_low"]).any()
    assert (rows["bucket_high"] - rows["bucket_low"] <= np.maximum(rows["bucket_low"] / 4, 1)).all()
    assert recording.lost == {}
    # What the programs cost: one run at the begin and one at the end of every call.
    overhead = recording.overhead.set_index("probe")
    assert int(overhead.loc["syscall_exit", "hits"]) >= int(rows["count"].sum())


@needs_tracepoints
@pytest.mark.parametrize("follow", [True, False])
def test_forks(tmp_path: Path, follow: bool) -> None:
    command = ["/bin/sh", "-c", f"{known()} calls & {known()} calls; wait; true"]
    recording = Recorder(["syscalls"], output=tmp_path / "r", command=command, follow=follow).run()
    rows = recording.syscalls
    mine = rows[rows["syscall"] == "getppid"].groupby("pid")["count"].sum()
    assert sorted(mine[mine >= 1000]) == ([1000, 1000] if follow else [])
    assert (rows["pid"].nunique() == 1) is not follow


@needs_tracepoints
def test_process_and_machine(tmp_path: Path) -> None:
    """Two recorders at once, one on the process and one on the machine, count the same."""
    with waiting("forks", 0.01) as process:
        whole = Recorder(["syscalls"], output=tmp_path / "m", machine=True).start()
        one = Recorder(["syscalls"], output=tmp_path / "p", pid=process.pid).start()
        go(process)
        counted = one.result()
        whole.stop()
        machine = whole.result()
    mine = counted.syscalls
    same = machine.syscalls[machine.syscalls["pid"].isin(mine["pid"])]
    for name in ("wait4", "clock_gettime", "clone"):
        sums = [
            int(rows.loc[rows["syscall"] == name, "count"].sum()) for rows in (mine, same)
        ]
        assert sums[0] == sums[1] > 0 or name != "wait4", name
    assert machine.syscalls["pid"].nunique() > mine["pid"].nunique()


def counts(folder: Path, backend: str, *command: str) -> dict[str, tuple[int, int]]:
    """Calls and errors by name."""
    recording = Recorder(
        ["syscalls"], output=folder / backend, command=list(command), backend=backend
    ).run()
    assert recording.lost == {}
    totals = recording.syscalls.groupby("syscall", observed=True)[["count", "errors"]].sum()
    return {str(name): (int(row["count"]), int(row["errors"])) for name, row in totals.iterrows()}


@pytest.mark.needs("ptrace")
def test_user_space_alone(tmp_path: Path) -> None:
    found = counts(tmp_path, "userspace", known(), "calls")
    for name, number, errors in (
        ("getppid", 1000, 0),
        ("readlink", 7, 7),
        ("clock_nanosleep", 30, 0),
        ("close", 100, 100),
    ):
        assert found[name] == (number, errors)


@needs_tracepoints
@pytest.mark.parametrize("what", ["calls", "forks"])
def test_user_space_counts_what_the_kernel_counts(tmp_path: Path, what: str) -> None:
    kernel = counts(tmp_path, "kernel", known(), what)
    ours = counts(tmp_path, "userspace", known(), what)
    # A call that a stop interrupts is begun twice in the kernel; where memory lies changes how often more is asked for.
    varying = {"restart_syscall", "brk", "mmap", "futex"}
    assert {k: v for k, v in ours.items() if k not in varying} == {
        k: v for k, v in kernel.items() if k not in varying
    }
    assert set(ours) >= {"getppid"} if what == "calls" else ours


HANDLERS_AND_CHILDREN = r"""
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void handler(int n) { (void)n; syscall(SYS_getuid); }
static void *thread(void *unused) { syscall(SYS_getppid); return unused; }
int main(void) {
    signal(SIGUSR1, handler);
    for (int i = 0; i < 50; i++) kill(getpid(), SIGUSR1);
    for (int i = 0; i < 20; i++) {
        pid_t pid = vfork();
        if (!pid) { syscall(SYS_getppid); _exit(0); }
        while (waitpid(pid, 0, 0) < 0) {}
    }
    for (int i = 0; i < 10; i++) {
        pthread_t t;
        pthread_create(&t, 0, thread, 0);
        pthread_join(t, 0);
    }
    return 0;
}
"""


@pytest.mark.needs("ptrace")
def test_handlers_and_vfork_children_in_user_space(tmp_path: Path) -> None:
    """A handler's calls lie inside the interrupted one; a vfork child's calls are its own, not its parent's."""
    (tmp_path / "both.c").write_text(HANDLERS_AND_CHILDREN)
    program = tmp_path / "both"
    subprocess.run(["gcc", "-O1", "-o", program, tmp_path / "both.c", "-lpthread"], check=True)
    recording = Recorder(
        ["syscalls"], output=tmp_path / "r", command=[str(program)], backend="userspace"
    ).run()
    rows = recording.syscalls
    total = rows.groupby("syscall", observed=True)["count"].sum()
    expected = {"kill": 50, "getuid": 50, "vfork": 20, "wait4": 20, "getppid": 30, "set_robust_list": 10}
    assert {name: int(total[name]) for name in expected} == expected
    own = rows[rows["pid"] == recording.manifest.pid].groupby("syscall", observed=True)["count"].sum()
    assert (int(own["vfork"]), int(own["wait4"]), int(own["getppid"])) == (20, 20, 10)
    children = rows[(rows["syscall"] == "getppid") & (rows["pid"] != recording.manifest.pid)]
    assert children["pid"].nunique() == int(children["count"].sum()) == 20


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("follow", [True, False])
def test_forks_in_user_space(tmp_path: Path, follow: bool) -> None:
    """Children inherit the hooks; without `follow` they are not counted."""
    source = tmp_path / "forks.c"
    source.write_text(
        "#include <sys/syscall.h>\n#include <sys/wait.h>\n#include <unistd.h>\n"
        "int main(void) { for (int i = 0; i < 3; i++) if (!fork()) {"
        " for (int k = 0; k < 500; k++) syscall(SYS_getppid); _exit(0); }"
        " for (int k = 0; k < 200; k++) syscall(SYS_getppid);"
        " while (wait(0) > 0) {} return 0; }"
    )
    program = tmp_path / "forks"
    subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
    recording = Recorder(
        ["syscalls"], output=tmp_path / "r", command=[str(program)], follow=follow, backend="userspace"
    ).run()  # fmt: skip
    rows = recording.syscalls
    mine = rows[rows["syscall"] == "getppid"].groupby("pid")["count"].sum()
    assert sorted(mine) == ([200, 500, 500, 500] if follow else [200])
    assert recording.manifest.pid in set(rows["pid"])


@pytest.mark.needs("ptrace")
def test_a_child_that_runs_another_program_is_entered(tmp_path: Path) -> None:
    source = tmp_path / "later.c"
    source.write_text(
        "#include <sys/syscall.h>\n#include <unistd.h>\n"
        "int main(void) { char c; while (read(0, &c, 1) > 0) for (int k = 0; k < 300; k++) syscall(SYS_getppid);"
        " return 0; }"
    )
    program = tmp_path / "later"
    subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
    with subprocess.Popen(
        ["/bin/sh", "-c", f"read line; {program}; true"], stdin=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin
        recorder = Recorder(
            ["syscalls"], output=tmp_path / "r", pid=shell.pid, backend="userspace"
        ).start()
        collector = recorder.collectors[0]
        assert isinstance(collector, SyscallsCollector)
        assert collector.entered == {shell.pid}
        shell.stdin.write("go\n")
        shell.stdin.flush()
        end = time.monotonic() + 60
        while len(collector.entered) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        shell.stdin.write("xx")
        shell.stdin.close()
        shell.wait(60)
        counted = recorder.result().syscalls
    mine = counted[counted["syscall"] == "getppid"]
    mine = mine[mine["comm"] == "later"]
    assert int(mine["count"].sum()) == 600
    assert set(mine["pid"]) == collector.entered - {shell.pid}


@pytest.fixture(scope="module")
def bucket_of(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The function that runs in the kernel, compiled for user space."""
    found = re.search(
        r"static __always_inline (__u32 bucket_of\(__u64 value\)\n\{.*?\n\})",
        PROGRAM.read_text(),
        re.DOTALL,
    )
    assert found
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "bucket.c").write_text(
        f"typedef unsigned int __u32; typedef unsigned long long __u64;\n{found[1]}\n"
    )
    library = folder / "bucket.so"
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-o", library, folder / "bucket.c"], check=True
    )
    function = ctypes.CDLL(str(library)).bucket_of
    function.argtypes, function.restype = [ctypes.c_uint64], ctypes.c_uint32
    return function


def check_bucket(bucket_of: object, value: int) -> None:
    bucket = bucket_of(value)  # type: ignore[operator]
    low, high = bucket_bounds(np.array([bucket]))
    assert low[0] <= value < high[0]
    assert high[0] - low[0] == 1 or (high[0] - low[0]) * 4 <= low[0]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.integers(0, (1 << 62) - 1), st.integers(0, 4096)))
def test_every_value_lies_in_its_bucket(bucket_of: object, value: int) -> None:
    check_bucket(bucket_of, value)


def test_edges_of_buckets(bucket_of: object) -> None:
    for bit in range(62):
        for near in (-1, 0, 1):
            check_bucket(bucket_of, max((1 << bit) + near, 0))


def test_buckets_leave_no_gap() -> None:
    low, high = bucket_bounds(np.arange(240))
    assert low[0] == 0
    assert (low[1:] == high[:-1]).all()
