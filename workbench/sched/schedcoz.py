"""SchedCoz in charge of some tasks: carry out single experiments and read what they gave.

This is the typed face of bpf/schedcoz.bpf.c. Which regions, which speed-ups and how often is the business of the
causal room above.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np

from workbench.errors import BadSpec, MissingCapability
from workbench.kernel import perf
from workbench.kernel.bpf_syscall import btf_ids
from workbench.sched.measured import Located, Measured, latency, step
from workbench.sched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from numpy.typing import NDArray

    from workbench.objects.model import BpfObject

__all__ = ("CALLERS", "PIECES", "Located", "Measured", "Parameters", "SchedCoz", "interrupt_mask")

PIECES = 8
"""Pieces of code that a region may have in a process: MAX_PIECES of bpf/schedcoz_observe.h."""
CALLERS = 31
"""Callers that can be looked at: MAX_FRAMES - 1 there."""
_POINTS = 16  # MAX_POINTS of bpf/schedcoz_state.h
_BEGIN, _END = 256, 512  # LATENCY_BEGIN and LATENCY_END of bpf/schedcoz_observe.h
_CLEARED = ("count", "first", "last", "first_time", "last_time")

#: Programs that see who wakes whom, by itself and with what it sends.
_OBSERVERS = ("waking", "packet_sent", "packet_received", "packets_done")
_INT, _VARIABLE = 1, 14  # kinds of BTF
#: Bits of the preemption count outside a task's own context, by the size of the variable in the kernel's BTF: softirq,
#: hard interrupt, NMI (include/linux/preempt.h; the layout changed when the variable became 8 bytes in Linux 7.3).
_MASKS = {4: 0x00FF_FF00, 8: 0xFF00_FF00}


_LOCATED = ("count", "weight", "plain")
_STAMPS = (("first", "last"), ("first_time", "last_time"))
_COUNTED = ("samples", "hits", "weighted", "payments", "paid", "merges", "kicks")


@dataclass(frozen=True)
class Parameters:
    """How experiments are carried out.

    `period`: ns between two samples of a CPU; `min_debt`: ns that a task may owe before it is withheld; `stop_cost`: ns
    that being stopped once costs a task; `slice`: ns of service; `preempt`: ns of service that a waking task must be
    behind a running one to take its CPU; `frames`: callers among which the place of a sample is looked for when its
    instruction is out of scope (`SchedCoz.limit`); `only_scoped`: only tasks under the scheduler make progress.
    """

    period: int = 1_000_000
    min_debt: int = 500_000
    stop_cost: int = 0
    slice: int = 3_000_000
    preempt: int = 1_000_000
    frames: int = 0
    only_scoped: bool = False


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


Place: TypeAlias = tuple[str, int] | tuple[str, int, int]
"""ELF file, file offset of an instruction, and of the semaphore of a USDT mark (0: none)."""


class SchedCoz:
    """Load SchedCoz, bring tasks under it, run experiments; a context manager.

    Parameters
    ----------
    obj : BpfObject
        The scheduler, `workbench.open` of the built ``schedcoz``.
    points : sequence of (path, offset) or (path, offset, semaphore)
        Progress points: ELF file and file offset of the instruction whose passing is progress, and of the semaphore of
        a USDT mark (0: none).
    parameters : Parameters, optional
    latencies : sequence of (begin, end)
        Places, as those of points, at which something begins and at which it ends. A latency takes the room of two
        points, of which there are 16.

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
        points: Sequence[Place],
        parameters: Parameters | None = None,
        latencies: Sequence[tuple[Sequence[Place], Sequence[Place]]] = (),
    ) -> None:
        if not 0 < len(points) + 2 * len(latencies) <= _POINTS:
            raise BadSpec(
                f"{len(points)} progress points and {len(latencies)} latencies",
                "give one to sixteen points, of which a latency takes two: what counts as a unit of work done",
            )
        self.parameters = given = parameters or Parameters()
        if not 0 <= given.frames <= CALLERS:
            raise BadSpec(f"{given.frames} callers", f"0 to {CALLERS} can be looked at")
        self._points, self._latencies = len(points), len(latencies)
        placed = [(place, number) for number, place in enumerate(points)]
        for number, (begin, end) in enumerate(latencies):
            first = len(points) + 2 * number
            placed += [(place, first | _BEGIN) for place in begin]
            placed += [(place, (first + 1) | _END) for place in end]
        constants = {
            "slice_ns": given.slice,
            "preempt_ns": given.preempt,
            "walk_frames": given.frames,
            "interrupt_mask": interrupt_mask(),
            "cpu_count": os.cpu_count() or 1,
            "only_scoped": int(given.only_scoped),
        }
        with ExitStack() as stack:
            self.scheduler = stack.enter_context(Scheduler(obj, constants=constants))
            loaded = self.loaded = self.scheduler.loaded
            loaded.globals["experiment"]["period"] = given.period
            for observer in _OBSERVERS:
                loaded.attach(observer)
            by_path: dict[str, list[tuple[int, int, int]]] = {}
            for (path, offset, *semaphore), cookie in placed:
                place = (offset, cookie, semaphore[0] if semaphore else 0)
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

    @property
    def stood_still(self) -> int:
        """The longest time in the last experiment in which a CPU took no sample, ns."""
        return int(self.loaded.globals["counters"]["still"])

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within it, all tasks are under the kernel's own scheduler, and progress is what they make there."""
        # From before they go until after they are back: a passing that is missed would leave somebody inside for good.
        self.loaded.globals["lent"][()] = 1
        try:
            with self.scheduler.lent():
                yield
        finally:
            self.loaded.globals["lent"][()] = 0

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
        self._write("regions", places)

    def limit(self, places: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """A sample of these processes belongs to its innermost frame in these pieces [low, high), or in the region.

        Of a process that is not named, and until this is called, it belongs to its instruction.

        Raises
        ------
        BadSpec
            There are more than eight pieces in a process.
        """
        self._write("scopes", places)

    def _write(self, name: str, places: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        known = self.loaded.maps[name]
        for pid in list(known):
            if int(pid) not in places:
                del known[pid]
        for pid, pieces in places.items():
            if len(pieces) > PIECES:
                raise BadSpec(
                    f"a region of {len(pieces)} pieces in process {pid}", f"{PIECES} at most"
                )
            ends = np.zeros((2, PIECES), np.uint64)
            ends[:, : len(pieces)] = np.array(pieces, np.uint64).reshape(-1, 2).T
            known[pid] = (ends[0], ends[1])

    def locations(self) -> list[Located]:
        """Where the samples of tasks in scope were, since the scheduler was loaded."""
        return [
            Located(int(key["tgid"]), int(key["address"]), *(int(value[name]) for name in _LOCATED))
            for key, value in self.loaded.maps["locations"].items()
        ]

    def forget_locations(self) -> None:
        """Count samples by their places anew."""
        known = self.loaded.maps["locations"]
        for key in list(known):
            known.pop(key, None)

    def begin(self, speedup: float, *, without: int = 0) -> None:
        """Start an experiment in the selected region; `speedup` is a fraction, 0 measures the base line."""
        given = self.parameters
        experiment, points = self.loaded.globals["experiment"], self.loaded.globals["points"]
        experiment["active"] = 0
        counters = self.loaded.globals["counters"]
        for field in counters.dtype.names or ():
            counters[field] = 0
        for field in _CLEARED:
            points[field] = 0
        before = self._whole_points()
        experiment["base"] = self.loaded.globals["global_clock"][()]
        experiment["period"], experiment["min_debt"] = given.period, given.min_debt
        experiment["stop_cost"], experiment["without"] = given.stop_cost, without
        experiment["speedup"] = round(1000 * speedup)
        experiment["number"] += 1
        experiment["active"] = 1
        self._begun = time.monotonic_ns()
        self._window = before, self._begun - int(experiment["base"])

    def count_anew(self) -> None:
        """Count progress from now on, in the experiment that is running: what was made before was settling.

        That is the passes of points, and the time over which those inside of a latency are averaged. Samples and
        payments are those of the whole experiment.
        """
        self.loaded.globals["points"]["count"] = 0
        before = self._whole_points()
        now = time.monotonic_ns()
        self._window = before, now - int(self.loaded.globals["global_clock"][()])

    def counts(self) -> list[int]:
        """Passes of every progress point since the experiment began."""
        return [int(count) for count in self.loaded.globals["points"]["count"][: self._points]]

    def end(self) -> list[Measured]:
        """End the experiment; what it gave, by progress point."""
        experiment = self.loaded.globals["experiment"]
        points = self._whole_points()
        now = time.monotonic_ns()
        grown = int(self.loaded.globals["global_clock"][()]) - int(experiment["base"])
        elapsed = now - self._begun
        counters = self.loaded.globals["counters"].copy()
        experiment["active"] = 0
        valid = self.scheduler.in_charge
        counted = {field: int(counters[field]) for field in _COUNTED}
        counted["lost"] = round(int(counters["lost"]) / int(experiment["period"]))
        whole: dict[str, Any] = {"grown": grown, "elapsed": elapsed, "valid": valid, **counted}
        found = []
        for point in points[: self._points]:
            periods = [step(point, first, last) for first, last in _STAMPS]
            found.append(
                Measured(
                    count=int(point["count"]), period=periods[0], real_period=periods[1], **whole
                )
            )
        base = int(experiment["base"])
        before, since = self._window
        window = (since, now - base - grown)
        for number in range(self._points, self._points + 2 * self._latencies, 2):
            pair = slice(number, number + 2)
            found.append(latency(before[pair], points[pair], window, whole))
        return found

    def _whole_points(self) -> NDArray[Any]:
        """A copy of the points in which no passing of a latency's end is half counted, if that can be had."""
        points = self.loaded.globals["points"]
        count = self._points + 2 * self._latencies
        for _ in range(100):
            copy: NDArray[Any] = points[:count].copy()
            if (copy["entered"] == copy["left"]).all():
                break
            time.sleep(0.0001)
        return copy
