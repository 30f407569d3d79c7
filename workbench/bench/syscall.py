"""Cost of a program at the entry and at the exit of a system call: our jumps against the kernel's raw tracepoints.

The call is getppid, the shortest that the C library does not answer itself. Each number is the median over rounds that
alternate between the plain call, ours and the kernel's, so all see the same machine; in a round it is the least of many
short runs. The target belongs to the same user, and nothing on our side needs privilege.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import RunFailed, WorkbenchError
from workbench.native.build import compiler
from workbench.objects.model import BpfObject, builtin

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = (
    "cost of programs at the entry and exit of a system call, in user space and in the kernel"
)
_ROUNDS = 11
_CALLS, _RUNS = 5_000, 40
_HOOKS = (("enter", "sys_enter"), ("leave", "sys_exit"))
_SOURCE = r"""
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    long calls, runs;
    while (scanf("%ld %ld", &calls, &runs) == 2) {
        double least = 1e18;
        for (long r = 0; r < runs; r++) {
            struct timespec a, b;
            clock_gettime(CLOCK_MONOTONIC, &a);
            for (long i = 0; i < calls; i++) {
                long result;
                __asm__ volatile("syscall\n\ttest %0, %0" : "=a"(result) : "0"(SYS_getppid) : "rcx", "r11", "memory");
            }
            clock_gettime(CLOCK_MONOTONIC, &b);
            double t = ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / (double)calls;
            if (t < least) least = t;
        }
        printf("%.3f\n", least);
        fflush(stdout);
    }
}
"""


class Caller:
    """The program that makes the calls."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def measure(self) -> float:
        """Least ns per call."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{_CALLS} {_RUNS}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RunFailed(f"the observed program ended with {self.process.wait()}")
        return float(answer)


@contextlib.contextmanager
def _started() -> Iterator[Caller]:
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        source, path = Path(folder, "caller.c"), Path(folder, "caller")
        source.write_text(_SOURCE)
        subprocess.run([compiler(), "-O2", "-o", path, source], check=True)
        process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield Caller(process)
        finally:
            process.kill()
            process.communicate()


def _counted(loaded: Any) -> int:
    """How often both programs ran."""
    return int(loaded.maps["counts"].table()[1][:2].sum())


def _cost(obj: BpfObject, backend: str, caller: Caller) -> float:
    """ns per call with a program at entry and exit."""
    options = {"pid": caller.pid} if backend == "userspace" else {}
    with obj.load(backend=backend, programs=["enter", "leave"]) as loaded:
        for program, point in _HOOKS:
            loaded.attach_raw_tracepoint(program, point, **options)
            if backend == "userspace":
                loaded.programs[program].wait()
        spent = caller.measure()
        if _counted(loaded) < 2 * _CALLS * _RUNS:
            raise RunFailed(f"{backend}: programs ran {_counted(loaded):,} times")
        return spent


def _passed_by(obj: BpfObject, caller: Caller) -> float:
    """ns per call with a program at another system call only."""
    with obj.load(backend="userspace", programs=["opened"]) as loaded:
        loaded.attach_tracepoint("opened", "syscalls", "sys_enter_openat", pid=caller.pid)
        loaded.programs["opened"].wait()
        return caller.measure()


def run() -> BenchResult:
    """Measure; the kernel's side needs the privilege to load BPF."""
    obj = builtin("bench_syscall")
    plain: list[float] = []
    ours: list[float] = []
    other: list[float] = []
    kernel: list[float] = []
    why = ""
    with _started() as caller:
        for _ in range(_ROUNDS):
            plain.append(caller.measure())
            ours.append(_cost(obj, "userspace", caller))
            other.append(_passed_by(obj, caller))
            if not why:
                try:
                    kernel.append(_cost(obj, "kernel", caller))
                except WorkbenchError as error:
                    why = error.message.splitlines()[0]
    base = statistics.median(plain)
    net = statistics.median(ours) - base
    passed = statistics.median(other) - base
    peer = statistics.median(kernel) - base if kernel else None
    rows = [
        Row("getppid without programs", base, "ns"),
        Row(
            "user space: programs at entry and exit",
            net,
            "ns",
            "kernel's raw tracepoints" if peer is not None else "",
            net / peer if peer is not None else None,
        ),
        Row("user space: a program at another system call only", passed, "ns"),
    ]
    if peer is not None:
        rows.append(Row("kernel: raw tracepoints sys_enter and sys_exit", peer, "ns"))
    else:
        rows.append(Row("kernel", float("nan"), f"not compared: {why}"))
    checks = (
        Check.at_most("ns per call, entry and exit", net, 60),
        Check.at_most("ns per call that no program wants", passed, 15),
    )
    return BenchResult("syscall", tuple(rows), checks)
