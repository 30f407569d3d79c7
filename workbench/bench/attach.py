"""How long a process is held still while probes are attached and detached, and that it survives."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

from workbench.bench.probe_target import CLASSES, started
from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import TargetGone
from workbench.runtime.attach import Process, Request
from workbench.runtime.attach.modules import Modules

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "stop time of the target per site and for 1,000 sites; 2,000 cycles on busy threads"
_CYCLES, _THREADS, _SITES = 2000, 4, 1000


@dataclass(frozen=True)
class _Nothing:
    """A program that returns 0."""

    code: bytes = b"\x31\xc0\xc3"
    entry: int = 0


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:,} of {of:,} cycles", end="" if done < of else "\n", file=sys.stderr)


def run() -> BenchResult:
    """Measure; the target is our own child, so no privilege is needed."""
    program = _Nothing()
    single: list[float] = []
    with started() as target, Process(target.pid) as process:
        for _ in range(50):
            before = len(process.stopped)
            process.attach(program, "push").detach()
            single += process.stopped[before + (before == 0) :]
        libc = Modules(target.pid).named("libc").functions()[:_SITES]
        many, taken = [], []
        for _ in range(5):
            began = time.perf_counter()
            links = process.attach_many([Request(program, one.address) for one in libc], [])
            taken.append(time.perf_counter() - began)
            many.append(process.stopped[-1])
            process.detach(links)
            many.append(process.stopped[-1])
        sites = len(links)
    deaths = 0
    busy: list[float] = []
    with started() as target:
        target.spin(_THREADS)
        with Process(target.pid) as process:
            requests = [Request(program, name) for name in CLASSES]
            for cycle in range(_CYCLES):
                try:
                    process.detach(process.attach_many(requests))
                except TargetGone:
                    deaths += 1
                    break
                if cycle % 100 == 99:
                    _progress(cycle + 1, _CYCLES)
            busy = process.stopped
        deaths += target.process.poll() is not None
    rows = [
        Row("held for one site, waiting process", statistics.median(single) * 1e6, "us"),
        Row(f"held for {sites:,} sites", statistics.median(many) * 1e3, "ms"),
        Row("held per site of these", statistics.median(many) / sites * 1e6, "us"),
        Row(f"attaching {sites:,} sites, whole", statistics.median(taken) * 1e3, "ms"),
        Row(
            f"held, {_THREADS} threads that never sleep: median",
            statistics.median(busy) * 1e3,
            "ms",
        ),
        Row("the same: longest", max(busy) * 1e3, "ms"),
        Row("attach and detach cycles on them", cycle + 1, "cycles"),
        Row("stops for them (a thread in the way means another)", len(busy), "stops"),
    ]
    checks = [
        Check.at_most("deaths", deaths, 0),
        Check.at_least("cycles", cycle + 1, _CYCLES),
        Check.at_least("sites of 1,000 attached", sites, 0.98 * _SITES),
    ]
    return BenchResult("attach", tuple(rows), tuple(checks))
