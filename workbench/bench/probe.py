"""Cost of a hit: programs attached by our jumps, against the kernel's uprobes on the same functions in the same run.

The kernel's cost depends on the first instruction by a factor of thirty, so three classes are measured and the best of
them is what we are compared with. Costs are net of the call itself; each is the least of many short rounds (a round is
shorter than a time slice), kernel and user space in turn.
"""

from __future__ import annotations

import statistics
import sysconfig
from pathlib import Path

import numpy as np

from workbench.bench.probe_target import CLASSES, Target, started
from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import WorkbenchError
from workbench.frames.symbols.elf import ElfSymbols
from workbench.kernel.ring import ColumnReader
from workbench.objects.model import BpfObject, builtin
from workbench.runtime.attach.survey import Survey, survey

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = (
    "cost of a probe hit in user space and in the kernel; which exported functions take a jump"
)
_UPROBE_MULTI = 48  # enum bpf_attach_type
_ROUNDS = 5
_FAST, _SLOW = (20_000, 60), (200, 20)
_RECORD = (10_000, 40)
_RING = 1 << 20
_LIBRARIES = {
    "libc": ("libc.so.6",),
    "libpython": (sysconfig.get_config_var("LDLIBRARY") or "", "libpython3.11.so.1.0"),
    "libsqlite3": ("libsqlite3.so.0",),
    "redis-server": ("redis-server",),
}
_FOLDERS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/bin",
    sysconfig.get_config_var("LIBDIR") or "",
)


def _offset(target: Target, function: str) -> int:
    symbols = ElfSymbols.open(target.path)
    one = symbols.find_name(function, "function")[0]
    offsets, _ = symbols.vaddr_to_offset(np.array([one.address], np.uint64))
    return int(offsets[0])


def _cost(
    obj: BpfObject,
    backend: str,
    target: Target,
    function: str,
    hooks: tuple[tuple[str, bool], ...],
    size: tuple[int, int],
    threads: int = 1,
) -> float:
    """ns per call with programs attached."""
    offset = _offset(target, function)
    types = {program: _UPROBE_MULTI for program, _ in hooks}
    with obj.load(backend=backend, attach_types=types) as loaded:
        for program, on_return in hooks:
            loaded.attach_uprobes(
                program, str(target.path), [offset], pid=target.pid, on_return=on_return
            )
            if backend == "userspace":
                loaded.programs[program].wait()
        return target.measure(function, *size, threads)


def _record_cost(obj: BpfObject, target: Target) -> tuple[float, int]:
    """ns per call with an entry and a return program that sends a record; records lost.

    The ring is small and emptied between the rounds, as a reader would, so that its pages are known to the target.
    """
    offset = _offset(target, "push")
    best = float("inf")
    with obj.load(backend="userspace", map_sizes={"calls": _RING}) as loaded:
        for program, on_return in (("entered", False), ("returned", True)):
            loaded.attach_uprobes(
                program, str(target.path), [offset], pid=target.pid, on_return=on_return
            )
            loaded.programs[program].wait()
        reader = ColumnReader(loaded.ring("calls"), obj.record_dtype("calls"))
        for _ in range(_RECORD[1]):
            best = min(best, target.measure("push", _RECORD[0], 1))
            while reader.drain():
                pass
        return best, int(np.sum(loaded.maps["counts"].lookup(1)))


def _files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, files in _LIBRARIES.items():
        for folder in _FOLDERS:
            for file in files:
                if folder and file and (path := Path(folder, file)).is_file():
                    found.setdefault(name, path)
    return found


def _kernel(obj: BpfObject, target: Target) -> tuple[dict[str, float], str]:
    """The kernel's cost by class; why there is none where it refuses."""
    try:
        return {
            name: _cost(obj, "kernel", target, name, (("count", False),), _SLOW) for name in CLASSES
        }, ""
    except WorkbenchError as error:
        return {}, error.message.splitlines()[0]


def run() -> BenchResult:
    """Measure; the kernel's side needs the privilege to load BPF."""
    obj = builtin("bench_probe")
    count = (("count", False),)
    ours: dict[str, list[float]] = {name: [] for name in CLASSES}
    kernel: dict[str, list[float]] = {name: [] for name in CLASSES}
    base: dict[str, list[float]] = {name: [] for name in CLASSES}
    record: list[float] = []
    one: list[float] = []
    two: list[float] = []
    why, lost = "", 0
    with started() as target:
        for _ in range(_ROUNDS):
            for name in CLASSES:
                base[name].append(target.measure(name, *_FAST))
                ours[name].append(_cost(obj, "userspace", target, name, count, _FAST))
            costs, why = _kernel(obj, target)
            for name, value in costs.items():
                kernel[name].append(value)
            cost, missing = _record_cost(obj, target)
            record.append(cost)
            lost += missing
            one.append(_cost(obj, "userspace", target, "push", count, _FAST))
            two.append(_cost(obj, "userspace", target, "push", count, _FAST, 2))
    net = {name: min(ours[name]) - min(base[name]) for name in CLASSES}
    kernel_net = {name: min(v) - min(base[name]) for name, v in kernel.items() if v}
    worst = max(net.values())
    rows = [Row("call without probe (push)", min(base["push"]), "ns")]
    rows += [
        Row(
            f"user space, {CLASSES[name]}: count per CPU",
            value,
            "ns",
            "kernel" if name in kernel_net else "",
            value / kernel_net[name] if name in kernel_net else None,
        )
        for name, value in net.items()
    ]
    rows += [
        Row(f"kernel, {CLASSES[name]}: count per CPU", value, "ns")
        for name, value in kernel_net.items()
    ]
    if why:
        rows.append(Row("kernel", float("nan"), f"not compared: {why}"))
    returned = min(record) - min(base["push"])
    rows += [
        Row("entry + return with a ring record of 40 bytes", returned, "ns"),
        Row(
            "two threads at once, per hit",
            min(two) - min(base["push"]),
            "ns",
            "one thread",
            min(two) / min(one),
        ),
        Row("median of the rounds, count per CPU (push)", statistics.median(ours["push"]), "ns"),
    ]
    checks = [
        Check.at_most("ns per hit, count per CPU, full registers", worst, 10),
        Check.at_most("ns per call, entry + return + record", returned, 40),
        Check.at_most("records lost", lost, 0),
        Check.at_most("two threads / one thread, per hit", min(two) / min(one), 1.25),
    ]
    if kernel_net:
        best = min(kernel_net, key=lambda name: kernel_net[name])
        checks.append(
            Check.at_least(
                f"kernel's best class ({CLASSES[best]}) / ours", kernel_net[best] / net[best], 30
            )
        )
    for name, path in _files().items():
        result: Survey = survey(path)
        rows.append(
            Row(
                f"{name}: exported functions that take a jump",
                100 * result.share,
                f"% of {result.functions:,}",
            )
        )
        checks.append(Check.at_least(f"{name}: jumpable %", 100 * result.share, 98))
    return BenchResult("probe", tuple(rows), tuple(checks))
