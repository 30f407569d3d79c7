"""SchedCoz in charge of some tasks: carry out single experiments and read what they gave.

This is the typed face of bpf/schedcoz.bpf.c. Which regions, which speed-ups and how often is the business of the
causal room above.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from workbench.errors import BadSpec, MissingCapability
from workbench.kernel import perf
from workbench.kernel.bpf_syscall import btf_ids
from workbench.sched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from workbench.objects.model import BpfObject

__all__ = ("PIECES", "Measured", "Parameters", "SchedCoz", "interrupt_mask")

PIECES = 8
"""Pieces of code that a region may have in a process: MAX_PIECES of bpf/schedcoz_observe.h."""

_INT, _VARIABLE = 1, 14  # kinds of BTF
#: Bits of the preemption count outside a task's own context, by the size of the variable in the kernel's BTF: softirq,
#: hard interrupt, NMI (include/linux/preempt.h; the layout changed when the variable became 8 bytes in Linux 7.3).
_MASKS = {4: 0x00FF_FF00, 8: 0xFF00_FF00}


_COUNTED = ("samples", "hits", "weighted", "payments", "paid", "merges", "kicks")


@dataclass(frozen=True)
class Parameters:
    """How experiments are carried out.

    `period`: ns between two samples of a CPU; `min_debt`: ns that a task may owe before it is withheld; `stop_cost`: ns
    that being stopped once costs a task; `slice`: ns of service; `preempt`: ns of service that a waking task must be
    behind a running one to take its CPU; `frames`: callers that are compared with the region beside the instruction.
    """

    period: int = 1_000_000
    min_debt: int = 500_000
    stop_cost: int = 0
    slice: int = 3_000_000
    preempt: int = 1_000_000
    frames: int = 0


@dataclass(frozen=True)
class Measured:
    """What one experiment gave for one progress point.

    `count` passes; `period` ns between two on the clock of the tasks that passed (R7); `real_period` ns of the machine;
    `grown` ns that the common clock was held back; `samples` in scope and `hits` in the region; `weighted` ns that the
    hits stand for; `payments` and `paid` ns; `valid` False when the scheduler was not in charge throughout.
    """

    count: int
    period: float
    real_period: float
    grown: int
    elapsed: int
    samples: int
    hits: int
    weighted: int
    payments: int
    paid: int
    merges: int
    kicks: int
    valid: bool


def interrupt_mask(kernel: bytes = b"") -> int:
    """The bits of the preemption count that tell an interrupt from a task's own context.

    `kernel` is the kernel's raw BTF; by default that of the running one. A wrong mask gives wrong predictions without
    any error (wake-ups by timers are taken for dependencies), so an unknown layout is refused.

    Raises
    ------
    MissingCapability
        The layout is not known.
    """
    data = kernel or Path("/sys/kernel/btf/vmlinux").read_bytes()
    integers = {(_INT, name) for name in ("int", "long unsigned int", "unsigned long")}
    found = btf_ids(data, {(_VARIABLE, "__preempt_count"), *integers})
    sizes = {found[key][0]: found[key][1] for key in integers & found.keys()}
    _, type_number = found.get((_VARIABLE, "__preempt_count"), (0, 0))
    if (size := sizes.get(type_number, 0)) not in _MASKS:
        raise MissingCapability(
            "this kernel's preemption count is not laid out as known",
            "SchedCoz knows those of x86-64 kernels from 6.15 to 7.3; the table is in workbench/sched/schedcoz.py",
        )
    return _MASKS[size]


class SchedCoz:
    """Load SchedCoz, bring tasks under it, run experiments; a context manager.

    Parameters
    ----------
    obj : BpfObject
        The scheduler, `workbench.open` of the built ``schedcoz``.
    points : sequence of (path, offset) or (path, offset, semaphore)
        Progress points: ELF file and file offset of the instruction whose passing is progress, and of the semaphore of
        a USDT mark (0: none); 16 at most.
    parameters : Parameters, optional

    Raises
    ------
    BadSpec
        No progress point, or too many.
    MissingCapability, NotPermitted, VerifierRejected
        See `workbench.sched.scheduler.Scheduler`.
    """

    def __init__(
        self,
        obj: BpfObject,
        points: Sequence[tuple[str, int] | tuple[str, int, int]],
        parameters: Parameters | None = None,
    ) -> None:
        if not 0 < len(points) <= 16:
            raise BadSpec(
                f"{len(points)} progress points",
                "give one to sixteen: what counts as a unit of work done",
            )
        self.parameters = given = parameters or Parameters()
        self._points = len(points)
        constants = {
            "slice_ns": given.slice,
            "preempt_ns": given.preempt,
            "walk_frames": given.frames,
            "interrupt_mask": interrupt_mask(),
            "cpu_count": os.cpu_count() or 1,
        }
        with ExitStack() as stack:
            self.scheduler = stack.enter_context(Scheduler(obj, constants=constants))
            loaded = self.loaded = self.scheduler.loaded
            loaded.attach("waking")
            by_path: dict[str, list[tuple[int, int, int]]] = {}
            for number, (path, offset, *semaphore) in enumerate(points):
                place = (offset, number, semaphore[0] if semaphore else 0)
                by_path.setdefault(path, []).append(place)
            for path, places in by_path.items():
                offsets, cookies, semaphores = zip(*places, strict=True)
                loaded.attach_uprobes(
                    "progress", path, offsets, cookies=cookies, semaphores=semaphores
                )
            attributes = perf.EventAttributes(
                perf.SOFTWARE, perf.CPU_CLOCK, sample=given.period, flags=("disabled",)
            )
            for cpu in range(os.cpu_count() or 1):
                event = perf.open_event(attributes, cpu=cpu)
                loaded.attach_perf_event("sample", event)
                perf.enable(event)
            self._keep = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the experiment, give the tasks back, switch the scheduler off."""
        if self.loaded.globals:
            self.loaded.globals["experiment"]["active"] = 0
        self._keep.close()

    @property
    def why_ended(self) -> str:
        """Why the kernel took the scheduler away; empty while it is in charge."""
        return "" if self.scheduler.in_charge else str(self.scheduler.exit)

    def take(self, pid: int) -> None:
        """Bring a process and what it forks into the scope."""
        self.scheduler.take(pid)

    def select(self, places: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """Make the pieces [low, high) the region of each process (by pid); no other process has one afterwards.

        Raises
        ------
        BadSpec
            There are more than eight pieces in a process.
        """
        regions = self.loaded.maps["regions"]
        for pid in list(regions):
            if int(pid) not in places:
                del regions[pid]
        for pid, pieces in places.items():
            if len(pieces) > PIECES:
                raise BadSpec(
                    f"a region of {len(pieces)} pieces in process {pid}", f"{PIECES} at most"
                )
            ends = np.zeros((2, PIECES), np.uint64)
            ends[:, : len(pieces)] = np.array(pieces, np.uint64).T
            regions[pid] = (ends[0], ends[1])

    def begin(self, speedup: float, *, without: int = 0) -> None:
        """Start an experiment in the selected region; `speedup` is a fraction, 0 measures the base line."""
        given = self.parameters
        experiment, points = self.loaded.globals["experiment"], self.loaded.globals["points"]
        experiment["active"] = 0
        counters = self.loaded.globals["counters"]
        for field in counters.dtype.names or ():
            counters[field] = 0
        points[:] = np.zeros_like(points)
        experiment["base"] = self.loaded.globals["global_clock"][()]
        experiment["period"], experiment["min_debt"] = given.period, given.min_debt
        experiment["stop_cost"], experiment["without"] = given.stop_cost, without
        experiment["speedup"] = round(1000 * speedup)
        experiment["number"] += 1
        experiment["active"] = 1
        self._begun = time.monotonic_ns()

    def counts(self) -> list[int]:
        """Passes of every progress point since the experiment began."""
        return [int(count) for count in self.loaded.globals["points"]["count"][: self._points]]

    def end(self) -> list[Measured]:
        """End the experiment; what it gave, by progress point."""
        experiment = self.loaded.globals["experiment"]
        points = self.loaded.globals["points"][: self._points].copy()
        grown = int(self.loaded.globals["global_clock"][()]) - int(experiment["base"])
        elapsed = time.monotonic_ns() - self._begun
        counters = self.loaded.globals["counters"].copy()
        experiment["active"] = 0
        valid = self.scheduler.in_charge
        found = []
        for point in points:
            count = int(point["count"])
            steps = count - 1
            virtual = int(point["last"]) - int(point["first"])
            real = int(point["last_time"]) - int(point["first_time"])
            counted = {field: int(counters[field]) for field in _COUNTED}
            periods = [span / steps if steps > 0 else float("nan") for span in (virtual, real)]
            found.append(
                Measured(
                    count=count,
                    period=periods[0],
                    real_period=periods[1],
                    grown=grown,
                    elapsed=elapsed,
                    valid=valid,
                    **counted,
                )
            )
        return found
