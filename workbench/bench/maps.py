"""Maps of user space against the kernel's own: the same object, the same programs, run by test run on both sides.

One program run does many operations in a bpf_loop on keys drawn at random; the cost of the loop and the generator,
measured the same way, is subtracted. Times are the thread's own processor time, so that others who want the processor
do not count, and both sides alternate. In user space the programs are compiled as any other, their maps lie in shared
memory, survive kills at any instruction, and take part in grace periods. Then two processes work on one map and, in
turn, on a map each.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.bench.result import BenchResult, Check, Row
from workbench.kernel.loaded import load as load_into_kernel
from workbench.objects.model import BpfObject, builtin
from workbench.runtime.loaded import load as load_into_user_space

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "maps of user space against the kernel's; two processes on one map"
SIZES = {"10k": 10_000, "1M": 1_000_000}
OPERATIONS = {
    "lookup": "lookup",
    "miss": "lookup of an absent key",
    "update": "update",
    "insert_delete": "insert and delete",
}
LIMITS = {
    ("lookup", "10k"): 2.5,
    ("update", "10k"): 4.0,
    ("lookup", "1M"): 1.6,
    ("update", "1M"): 2.0,
}
IN_A_RUN = (
    500  # a program that runs for long holds up the others' grace periods, as no real one does
)
REPEAT = 200
COUNT = IN_A_RUN * REPEAT
ROUNDS = 7
PAIR_ROUNDS = 5
PAIR_RUNS = 10


def _prepare(loaded: Any, entries: int) -> None:
    table = loaded.maps["entries"]
    table.update_many(np.arange(entries, dtype="u8"), np.zeros(entries, table.value_dtype))
    loaded.globals["keys"][()] = entries
    loaded.globals["count"][()] = IN_A_RUN


def _cost(loaded: Any, program: str) -> float:
    """Nanoseconds of one operation and its share of the loop: the least disturbed of six runs, after one that warms."""
    best = float("inf")
    for turn in range(7):
        begin = time.thread_time_ns()
        loaded.test_run(program, repeat=REPEAT)
        spent = (time.thread_time_ns() - begin) / COUNT
        best = min(best, spent) if turn else best
    return best


def _costs(sides: dict[str, Any], programs: list[str]) -> dict[tuple[str, str], float]:
    """(side, program) -> median of the rounds, the loop subtracted."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for program in programs:
            for side, loaded in sides.items():
                taken.setdefault((side, program), []).append(_cost(loaded, program))
    return {
        (side, program): statistics.median(
            a - b for a, b in zip(values, taken[side, "nothing"], strict=True)
        )
        for (side, program), values in taken.items()
        if program != "nothing"
    }


def _pair(loaded: list[Any], program: str) -> float:
    """Operations per second of two processes, process i on `loaded[i]`, until both have done their runs."""
    ready, told = os.pipe()
    go, start = os.pipe()
    pids = []
    for one in loaded:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                one.test_run(program)  # the process joins
                os.write(told, b"r")
                os.read(go, 1)
                for _ in range(PAIR_RUNS):
                    one.test_run(program, repeat=REPEAT)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    for _ in pids:
        os.read(ready, 1)
    begin = time.perf_counter()
    os.write(start, b"g" * len(pids))
    failed = [os.waitpid(pid, 0)[1] for pid in pids]
    spent = time.perf_counter() - begin
    for end in (ready, told, go, start):
        os.close(end)
    if any(failed):
        raise RuntimeError(f"a process of the pair ended with status {failed}")
    return len(pids) * PAIR_RUNS * COUNT / spent


def _shared(
    load: Callable[..., Any], obj: BpfObject, entries: int, programs: tuple[str, ...]
) -> list[tuple[str, float, float, float]]:
    """(operation, one map, a map each, median ratio): operations per second of two processes."""
    sizes = {"entries": entries + entries // 8}
    found = []
    with load(obj, map_sizes=sizes) as first, load(obj, map_sizes=sizes) as second:
        for loaded in (first, second):
            _prepare(loaded, entries)
            for program in programs:
                loaded.test_run(program)  # compiled before the processes part
        for program in programs:
            together, apart = [], []
            for _ in range(PAIR_ROUNDS):
                together.append(_pair([first, first], program))
                apart.append(_pair([first, second], program))
            found.append(
                (
                    program,
                    statistics.median(together),
                    statistics.median(apart),
                    statistics.median(a / b for a, b in zip(together, apart, strict=True)),
                )
            )
    return found


def _both(obj: BpfObject, entries: int, work: Callable[[dict[str, Any]], Any]) -> Any:
    sizes = {"entries": entries + entries // 8}
    with (
        load_into_user_space(obj, map_sizes=sizes) as ours,
        load_into_kernel(obj, map_sizes=sizes) as theirs,
    ):
        sides = {"ours": ours, "kernel": theirs}
        for loaded in sides.values():
            _prepare(loaded, entries)
        return work(sides)


def run() -> BenchResult:
    """Measure; needs the privilege to load BPF."""
    obj = builtin("bench_maps")
    rows, checks = [], []
    for name, entries in SIZES.items():
        costs = _both(obj, entries, lambda sides: _costs(sides, ["nothing", *OPERATIONS]))
        for program, words in OPERATIONS.items():
            ours, kernel = costs["ours", program], costs["kernel", program]
            rows.append(Row(f"hash {words}, {name} entries", ours, "ns"))
            rows.append(
                Row(
                    f"kernel: hash {words}, {name} entries",
                    kernel,
                    "ns",
                    "user space",
                    kernel / ours,
                )
            )
            if limit := LIMITS.get((program, name)):
                checks.append(
                    Check.at_least(f"{words} at {name}: kernel / user space", kernel / ours, limit)
                )
    costs = _both(obj, 1000, lambda sides: _costs(sides, ["nothing", "array", "percpu_array"]))
    for program, words in (("array", "array"), ("percpu_array", "per-CPU array")):
        ours, kernel = costs["ours", program], costs["kernel", program]
        rows.append(Row(f"{words}: count in place", ours, "ns"))
        rows.append(Row(f"kernel: {words}: count in place", kernel, "ns"))
    extra = costs["ours", "percpu_array"] - costs["ours", "array"]
    checks.append(Check.at_most("per-CPU array - array, ns", extra, 2.0))
    ours_of, theirs_of = load_into_user_space, load_into_kernel
    pairs = [("10k", one) for one in _shared(ours_of, obj, SIZES["10k"], ("lookup", "update"))]
    pairs += [("1M", one) for one in _shared(ours_of, obj, SIZES["1M"], ("update",))]
    for name, (program, together, apart, ratio) in pairs:
        rows.append(
            Row(
                f"two processes, {program} at {name}, one map",
                together / 1e6,
                "M operations/s",
                "a map each",
                ratio,
            )
        )
        words = f"two processes, {program} at {name}"
        rows.append(Row(f"{words}, a map each", apart / 1e6, "M operations/s"))
        checks.append(Check.at_least(f"{words}: one map / a map each", ratio, 0.8))
    # What the machine makes of the same by the kernel's maps, whose operations take several times as long.
    for program, together, _, ratio in _shared(theirs_of, obj, SIZES["10k"], ("update",)):
        rows.append(
            Row(
                f"kernel: two processes, {program} at 10k, one map",
                together / 1e6,
                "M operations/s",
                "a map each",
                ratio,
            )
        )
    return BenchResult("maps", tuple(rows), tuple(checks))
