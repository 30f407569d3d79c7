"""Experiments in the threads of one process, by the userspace runtime alone: for kernels without sched_ext.

The idea is the scheduler's and Coz's: while a thread is in the region, all others are delayed for as long as the region
would have been shorter. Where the scheduler withholds the CPU, threads sleep here, in programs (`bpf/causal.bpf.c`) at
places where the runtime enters them anyway:

| place | what happens there |
| --- | --- |
| every `period` ns of a thread's CPU time | in the region, its clock is put back (R1); else a debt is paid |
| futex(2), a wake; a function that lets others go on | a debt is paid; the clock is noted |
| futex(2), the end of a wait | the clock of the thread that woke this one is taken over |
| clone(2), end of a thread | as a wake: a child begins with its parent's clock, who joins takes over the ended one's |
| a progress point | its moment is noted, on the thread's own clock |

So a thread that blocks in a lock, a condition variable, a barrier, a semaphore or a join needs no case of its own: all
of them wait by futex(2), in whatever language. One that slept for another reason (a timer, a socket) pays what accrued
meanwhile. That is what Coz does with `pre_block`, `post_block` and `catch_up` in interposed functions; the difference
is that a clock is taken over from the thread that woke this one, with what that one still owes or has paid too much,
instead of being set to the common one. The common functions of the C library that let others go on (`RELEASES`) are
probed beside it, so that threads that meet without waiting do so in the right order.

A sample stands for a period, or for as many as the timer let pass, where a driver counts them (POSIX timers). Of perf
events none are lost that matter: 0.1 to 0.6 % of the CPU time of a busy thread; a longer gap in a thread's CPU time is
time in the kernel, where nothing is sampled. A thread's first sample stands for half a period more: that is what
follows its last one.

No process can be left in a bad state: a sleep ends after 20 ms at the latest (`bpf_delay`), and no program puts a clock
back or pays after a moment that this process moves on several times a second. When it is killed, the target runs
undelayed `GRACE` seconds later, hooked but idle, until `workbench bpf gc`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import numpy as np

from workbench.errors import BadSpec, MissingCapability, TargetGone, WorkbenchError
from workbench.sched.schedcoz import PIECES, Measured, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from workbench.collectors.modules import Modules
    from workbench.objects.model import BpfObject
    from workbench.runtime.loaded import Loaded

__all__ = ("DEFAULTS", "GRACE", "RELEASES", "UserspaceEngine", "refuse_processes")

DEFAULTS = Parameters(period=250_000, min_debt=250_000)
"""A sample costs some microseconds here and a sleep no more than that, so both may be finer than the scheduler's."""

GRACE = 1.0
"""Seconds after the death of this process until nobody is delayed any more, at most."""
_BEATS = 4  # times in that time that it is said that this process lives
RELEASES = (
    "pthread_mutex_unlock",
    "pthread_cond_signal",
    "pthread_cond_broadcast",
    "pthread_barrier_wait",
    "pthread_rwlock_unlock",
    "pthread_spin_unlock",
    "sem_post",
)
"""Functions of the C library at whose entry debts are paid."""
_CALLS = {
    "futex_entered": "sys_enter_futex",
    "futex_left": "sys_exit_futex",
    "thread_ends": "sys_enter_exit",
    "clone_entered": "sys_enter_clone",
    "clone_left": "sys_exit_clone",
    "clone3_entered": "sys_enter_clone3",
    "clone3_left": "sys_exit_clone3",
}
_COUNTED = ("samples", "hits", "weighted", "payments", "paid")


def refuse_processes(pids: Sequence[int]) -> None:
    """Raise MissingCapability where a target is more than one process.

    Parameters
    ----------
    pids : sequence of int
        The target, and what it forked.
    """
    if len(pids) > 1:
        others = ", ".join(map(str, pids[1:4])) + (", ..." if len(pids) > 4 else "")
        raise MissingCapability(
            f"without sched_ext experiments are on one process, and process {pids[0]} has forked {others}",
            "name the one that works (`workbench causal attach --pid`), add --lab to run all of it in a guest that has "
            "sched_ext, or use a kernel that has it",
        )


class UserspaceEngine:
    """Enter one process and run experiments in its threads; a context manager.

    Parameters
    ----------
    obj : BpfObject
        `workbench.open` of the built ``causal``.
    pid : int
        A running process.
    points : sequence of (path, offset, semaphore)
        Progress points; see `workbench.causal.points`.
    parameters : Parameters, optional
        `period`, `min_debt` and `frames` count here; the others are a scheduler's. By default `DEFAULTS`.
    modules : Modules, optional
        Of the process: where to look for `RELEASES`.

    Attributes
    ----------
    loaded : Loaded
    driver : str
        What samples CPU time: "perf", or "timer" where perf events are refused (`why`).
    period : int
        ns of CPU time between two samples, as it is kept.

    Raises
    ------
    BadSpec
        No progress point, or too many.
    MissingCapability, NotPermitted, TargetGone, UnknownSymbol
        See `workbench.runtime.loaded`.
    """

    def __init__(
        self,
        obj: BpfObject,
        pid: int,
        points: Sequence[tuple[str, int, int]],
        parameters: Parameters | None = None,
        *,
        modules: Modules | None = None,
    ) -> None:
        if not 0 < len(points) <= 16:
            raise BadSpec(
                f"{len(points)} progress points",
                "give one to sixteen: what counts as a unit of work done",
            )
        self.pid, self.parameters = pid, parameters or DEFAULTS
        self._points, self._begun = len(points), 0
        self._stop, self._beat = threading.Event(), threading.Thread(target=self._live, daemon=True)
        with ExitStack() as stack:
            self.loaded: Loaded = stack.enter_context(
                obj.load("userspace", pid=pid, constants={"walk_frames": self.parameters.frames})
            )
            by_path: dict[str, list[tuple[int, int, int]]] = {}
            for number, (path, offset, semaphore) in enumerate(points):
                by_path.setdefault(path, []).append((offset, number, semaphore))
            for path, places in by_path.items():
                offsets, cookies, semaphores = zip(*places, strict=True)
                self.loaded.attach_uprobes(
                    "progress", path, offsets, cookies=cookies, semaphores=semaphores
                )
            for program, name in _CALLS.items():
                self.loaded.attach_tracepoint(program, "syscalls", name)
            if modules is not None:
                self._attach_releases(modules)
            sampling = self.loaded.attach_sampling(
                "sample", max(1_000_000_000 // self.parameters.period, 1)
            )
            self.driver, self.why, self.period = sampling.driver, sampling.why, sampling.period
            self._keep = stack.pop_all()
        self._beat.start()

    def _attach_releases(self, modules: Modules) -> None:
        from workbench.collectors.resolve import resolve_function

        found: dict[str, set[int]] = {}
        for name in RELEASES:
            with contextlib.suppress(WorkbenchError):
                for place in resolve_function(modules, name):
                    found.setdefault(place.path, set()).add(place.file_offset)
        for path, offsets in found.items():
            with contextlib.suppress(WorkbenchError):
                self.loaded.attach_uprobes("releases", path, sorted(offsets), refused={})

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
        """End the experiment and leave the process; harmless twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._beat.join()
        self.loaded.globals["experiment"]["active"] = 0
        self._keep.close()

    def _live(self) -> None:
        until = self.loaded.globals["alive_until"]
        while True:
            until[()] = time.monotonic_ns() + round(GRACE * 1e9)
            if self._stop.wait(GRACE / _BEATS):
                until[()] = 0
                return

    stood_still = 0
    """Threads are sampled by their own CPU time: of the machine's pauses it knows nothing."""

    @property
    def why_ended(self) -> str:
        """Nobody can take this engine away: empty."""
        return ""

    def select(self, places: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """Make the pieces [low, high) of the process the region.

        Raises
        ------
        MissingCapability
            The target has become several processes.
        BadSpec
            There are more than eight pieces.
        """
        refuse_processes([self.pid, *(pid for pid in places if pid != self.pid)])
        if self.pid not in places:
            raise TargetGone(f"process {self.pid} has ended")
        pieces = places[self.pid]
        if len(pieces) > PIECES:
            raise BadSpec(f"a region of {len(pieces)} pieces", f"{PIECES} at most")
        ends = np.zeros((2, PIECES), np.uint64)
        ends[:, : len(pieces)] = np.array(pieces, np.uint64).T
        region = self.loaded.globals["region"]
        region["low"], region["high"] = ends[0], ends[1]

    def begin(self, speedup: float) -> None:
        """Start an experiment in the selected region; `speedup` is a fraction, 0 measures the base line."""
        experiment, points = self.loaded.globals["experiment"], self.loaded.globals["points"]
        experiment["active"] = 0
        counters = self.loaded.globals["counters"]
        for field in counters.dtype.names or ():
            counters[field] = 0
        points[:] = np.zeros_like(points)
        experiment["base"] = self.loaded.globals["global_clock"][()]
        experiment["period"], experiment["min_debt"] = self.period, self.parameters.min_debt
        experiment["speedup"] = round(1000 * speedup)
        experiment["number"] += 1
        experiment["active"] = 1
        self._begun = time.monotonic_ns()

    def count_anew(self) -> None:
        """Count progress from now on, in the experiment that is running: what was made before was settling."""
        self.loaded.globals["points"]["count"] = 0

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
        found = []
        for point in points:
            count = int(point["count"])
            steps = count - 1
            virtual = int(point["last"]) - int(point["first"])
            real = int(point["last_time"]) - int(point["first_time"])
            periods = [span / steps if steps > 0 else float("nan") for span in (virtual, real)]
            counted = {field: int(counters[field]) for field in _COUNTED}
            found.append(
                Measured(
                    count=count,
                    period=periods[0],
                    real_period=periods[1],
                    grown=grown,
                    elapsed=elapsed,
                    merges=int(counters["woken"]),
                    kicks=0,
                    valid=True,
                    **counted,
                )
            )
        return found
