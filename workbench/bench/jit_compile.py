"""What compiling costs: both tiers, and code from the cache; part of `workbench bench jit`.

Times are of this thread's processor, the fastest of a few: with more threads than processors, wall-clock time says
nothing about a compiler. Reloading is measured by the wall clock as well, for it reads a file.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from workbench.bench.result import Check, Row
from workbench.errors import WorkbenchError
from workbench.objects import model
from workbench.objects.compile import BUILT, compile_file
from workbench.objects.link import link
from workbench.objects.linked import LinkedObject, LinkedProgram
from workbench.runtime.jit.code import load
from workbench.runtime.jit.compile import compile_program, find

__all__ = ("compiling",)

SMALLEST = 100  # instructions: below, what a module costs by itself is most of it
TRIES = 5


def _objects(folder: Path) -> Iterator[LinkedObject]:
    """The collectors' programs where this machine's types are known, and the benchmark's own."""
    for path in sorted(BUILT.glob("*.bpf.o")):
        with suppress(WorkbenchError):
            yield link(model.open(path))
    for path in sorted(folder.glob("*.bpf.c")):
        yield link(model.open(compile_file(path)))


def _fastest(work: Callable[[], object], clock: Callable[[], int]) -> float:
    """Milliseconds."""
    times = []
    for _ in range(TRIES):
        begin = clock()
        work()
        times.append(clock() - begin)
    return min(times) / 1e6


@contextmanager
def _empty_cache() -> Iterator[None]:
    before = os.environ.get("WORKBENCH_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORKBENCH_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["WORKBENCH_CACHE"]
            else:
                os.environ["WORKBENCH_CACHE"] = before


def _reload(program: LinkedProgram, obj: LinkedObject) -> None:
    blob = find(program, obj.maps, tier="optimised")
    assert blob is not None
    load(blob).close()


def compiling(folder: Path) -> tuple[list[Row], list[Check]]:
    """Rows and checks; `folder` holds the benchmark's programs."""
    slots, quick, optimised = 0, 0.0, 0.0
    reload_cpu: list[float] = []
    reload_wall: list[float] = []
    with _empty_cache():
        for obj in _objects(folder):
            for program in obj.programs.values():
                if len(program.code) // 8 < SMALLEST:
                    continue
                slots += len(program.code) // 8
                once = partial(compile_program, program, obj.maps, cached=False)
                quick += _fastest(once, time.thread_time_ns)
                begin = time.thread_time_ns()
                compile_program(program, obj.maps, tier="optimised")
                optimised += (time.thread_time_ns() - begin) / 1e6
                again = partial(_reload, program, obj)
                again()
                reload_cpu.append(_fastest(again, time.thread_time_ns))
                reload_wall.append(_fastest(again, time.perf_counter_ns))
    per_thousand = quick / slots * 1000
    cpu, wall = max(reload_cpu), max(reload_wall)
    rows = [
        Row("quick tier, ms per 1,000 instructions", per_thousand, "ms"),
        Row("optimised tier, ms per 1,000 instructions", optimised / slots * 1000, "ms"),
        Row("programs compiled for that", len(reload_cpu), f"programs, {slots:,} instructions"),
        Row("reload from cache, median", statistics.median(reload_cpu), "ms"),
        Row("reload from cache, slowest program", cpu, "ms"),
        Row("reload from cache, slowest, wall clock", wall, "ms"),
    ]
    checks = [
        Check.at_most("quick tier, ms per 1,000 instructions", per_thousand, 25),
        Check.at_most("reload from cache, ms", wall, 2),
    ]
    return rows, checks
