"""The simulator of N CPUs under SchedCoz's rules, driven from Python.

A `Workload` is a set of task programs; `Simulation` runs it under the very rules that the kernel scheduler is compiled
from (bpf/schedcoz_rules.h, native/sched_simulator.c) and gives, for one region, what the rules predict and what really
shortening the region gives. There is no noise but the injected one, so the difference is the rules' own error.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Self

from workbench.errors import RunFailed
from workbench.native.library import load

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Experiment", "Machine", "Outcome", "Program", "Simulation", "Workload")

_U64, _I64, _U32, _I32, _P = (
    ctypes.c_uint64,
    ctypes.c_int64,
    ctypes.c_uint32,
    ctypes.c_int32,
    ctypes.c_void_p,
)
POINTS = 8
(
    _END,
    _RUN,
    _LOCK,
    _UNLOCK,
    _BARRIER,
    _SEND,
    _RECEIVE,
    _SLEEP,
    _PROGRESS,
    _LOOP,
    _SPAWN,
    _JOIN,
    _CHOOSE,
) = range(13)
_WHAT_WENT_WRONG = (
    "",
    "a task goes round without doing work",
    "out of memory",
    "more tasks than the workload has room for",
    "more events than allowed",
)


class _Config(ctypes.Structure):
    _fields_ = (
        *((name, _U64) for name in ("seed", "slice", "wake_latency", "stop_latency", "stop_cost", "timer_latency",
                                    "sample_cost", "switch_cost", "preempt")),
        *((name, _U32) for name in ("lost", "jitter", "cpus", "fifo", "race", "reserved")),
    )  # fmt: skip


class _Operation(ctypes.Structure):
    _fields_ = (("kind", _I64), ("a", _I64), ("b", _I64), ("c", _I64))


class _Experiment(ctypes.Structure):
    _fields_ = (
        *((name, _U64) for name in ("base", "period", "min_debt", "stop_cost")),
        *((name, _U32) for name in ("number", "active", "speedup", "without")),
    )


class _Point(ctypes.Structure):
    _fields_ = tuple((name, _U64) for name in ("count", "first", "last", "first_time", "last_time"))


class _Output(ctypes.Structure):
    _fields_ = (
        *((name, _U64) for name in ("now", "global_", "samples", "hits", "lost", "payments", "paid", "merges", "kicks",
                                    "region_time", "events", "busy", "max_debt")),
        ("points", _Point * POINTS),
    )  # fmt: skip


@cache
def _library() -> ctypes.CDLL:
    core = load()
    core.wb_sim_new.restype = _P
    core.wb_sim_new.argtypes = (_P, _P, _U64, _P, _U32, _U32, _P, _U32)
    core.wb_sim_begin.argtypes = (_P, _P, _I32, _U32)
    core.wb_sim_begin.restype = None
    core.wb_sim_run.argtypes = (_P, _U64, _I32, _U64, _U64)
    core.wb_sim_run.restype = _I32
    core.wb_sim_read.argtypes = (_P, _P)
    core.wb_sim_read.restype = None
    core.wb_sim_free.argtypes = (_P,)
    core.wb_sim_free.restype = None
    core.wb_sim_size.argtypes = (_U32,)
    core.wb_sim_size.restype = _U64
    for which, mirror in enumerate((_Config, _Operation, _Experiment, _Output)):
        if core.wb_sim_size(which) != ctypes.sizeof(mirror):
            raise RunFailed(
                f"the native core's {mirror.__name__} has another size",
                "rebuild it: python -m workbench.native.build --force",
            )
    return core


class Program:
    """What one task does, operation by operation; every method returns the program, so that calls chain.

    Regions are 0 to 63; region 0 stands for code that is in no region. Times are nanoseconds, `jitter` is the half
    width of an even distribution around a time, as a fraction of it.
    """

    def __init__(self) -> None:
        self.operations: list[tuple[int, int, int, int]] = []
        self._counters = 0

    def _add(self, kind: int, a: int = 0, b: int = 0, c: int = 0) -> Self:
        self.operations.append((kind, a, b, c))
        return self

    def run(self, nanoseconds: float, region: int = 0, jitter: float = 0.0) -> Self:
        """Use a CPU."""
        return self._add(_RUN, region, round(nanoseconds), round(1000 * jitter))

    def sleep(self, nanoseconds: float, jitter: float = 0.0) -> Self:
        """Wait for a timer or a device."""
        return self._add(_SLEEP, round(nanoseconds), round(1000 * jitter))

    def lock(self, number: int) -> Self:
        """Take a lock; waiters are woken one at a time and try again, as futexes do."""
        return self._add(_LOCK, number)

    def unlock(self, number: int) -> Self:
        """Give a lock back and wake the first waiter."""
        return self._add(_UNLOCK, number)

    def barrier(self, number: int) -> Self:
        """Wait until as many tasks as the barrier has parties are here."""
        return self._add(_BARRIER, number)

    def send(self, number: int) -> Self:
        """Put an item into a channel; waits while it is full."""
        return self._add(_SEND, number)

    def receive(self, number: int) -> Self:
        """Take an item from a channel; waits while it is empty."""
        return self._add(_RECEIVE, number)

    def progress(self, point: int = 0) -> Self:
        """Pass a progress point."""
        return self._add(_PROGRESS, point)

    def spawn(self, start: int) -> Self:
        """Start a child at operation `start` of the workload (see `Workload.add`)."""
        return self._add(_SPAWN, start)

    def join(self) -> Self:
        """Wait until every child has ended."""
        return self._add(_JOIN)

    def repeat(self, body: Program, times: int = 0) -> Self:
        """Carry out `body` `times` times; 0 is for ever. Bodies nest up to four deep."""
        return self._insert(body, times)

    def maybe(self, body: Program, probability: float) -> Self:
        """Carry out `body` with a probability."""
        self._add(
            _CHOOSE,
            len(self.operations) + 1 + len(body.operations),
            round(1000 * (1 - probability)),
        )
        return self._insert(body, None)

    def then(self, body: Program) -> Self:
        """Carry out `body` once."""
        return self._insert(body, None)

    def _insert(self, body: Program, times: int | None) -> Self:
        base = len(self.operations)
        for kind, a, b, c in body.operations:
            self.operations.append((kind, a + base if kind in (_LOOP, _CHOOSE) else a, b, c))
        self._counters = max(self._counters, body._counters)
        if times is not None:
            if self._counters == 4 and times:
                raise ValueError("loops nest at most four deep")
            self._add(_LOOP, base, times, self._counters if times else 0)
            self._counters += bool(times)
        return self


@dataclass
class Workload:
    """Tasks and what they share.

    Attributes
    ----------
    objects : list of int
        The limit of every lock (ignored), barrier (its parties) and channel (its room), by number.
    room : int
        Tasks that may live at once, children included.
    """

    objects: list[int] = field(default_factory=list)
    room: int = 256
    operations: list[tuple[int, int, int, int]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def lock(self) -> int:
        """A new lock's number."""
        self.objects.append(1)
        return len(self.objects) - 1

    def barrier(self, parties: int) -> int:
        """A new barrier's number."""
        self.objects.append(parties)
        return len(self.objects) - 1

    def channel(self, room: int) -> int:
        """A new channel's number."""
        self.objects.append(room)
        return len(self.objects) - 1

    def add(self, program: Program) -> int:
        """Append a program's code without starting a task; returns where it starts, for `Program.spawn`."""
        base = len(self.operations)
        for kind, a, b, c in program.operations:
            self.operations.append((kind, a + base if kind in (_LOOP, _CHOOSE) else a, b, c))
        self.operations.append((_END, 0, 0, 0))
        return base

    def task(self, program: Program, count: int = 1, *, scoped: bool = True) -> None:
        """Start `count` tasks that carry out `program`; those out of scope take no part in experiments."""
        start = self.add(program)
        self.starts.extend([start if scoped else -1 - start] * count)


@dataclass(frozen=True)
class Machine:
    """The simulated machine: CPUs, base policy and injected costs, all times in nanoseconds.

    With `race`, a task that is ready goes to whichever CPU comes first, also one that becomes free while another is
    being woken for it, as in the kernel; without, it waits for the one that is woken.
    """

    cpus: int = 2
    slice: int = 4_000_000
    wake_latency: int = 0
    stop_latency: int = 0
    stop_cost: int = 0
    timer_latency: int = 0
    sample_cost: int = 0
    switch_cost: int = 2_000
    preempt: int = 0
    lost: float = 0.0
    jitter: float = 0.5
    fifo: bool = False
    race: bool = False
    seed: int = 1


@dataclass(frozen=True)
class Experiment:
    """What one experiment does. `speedup` is virtual, `shortened` is real; both are fractions of the region's time."""

    region: int = -1
    speedup: float = 0.0
    shortened: float = 0.0
    period: int = 1_000_000
    min_debt: int = 500_000
    stop_cost: int = 0
    without: int = 0
    active: bool = True


@dataclass(frozen=True)
class Outcome:
    """What one experiment gave; times in nanoseconds."""

    count: int
    period: float
    elapsed_period: float
    samples: int
    hits: int
    lost: int
    payments: int
    paid: int
    merges: int
    global_growth: int
    region_time: int
    elapsed: int
    max_debt: int
    events: int


class Simulation:
    """One running workload on one machine; a context manager.

    Raises
    ------
    ValueError
        The workload has an operation that does not exist or names an object that it has not made.
    """

    def __init__(self, workload: Workload, machine: Machine | None = None) -> None:
        machine = machine or Machine()
        self._operations = (_Operation * len(workload.operations))(
            *(_Operation(*given) for given in workload.operations)
        )
        limits = (_I64 * max(1, len(workload.objects)))(*workload.objects)
        starts = (_I64 * len(workload.starts))(*workload.starts)
        config = _Config(
            machine.seed, machine.slice, machine.wake_latency, machine.stop_latency, machine.stop_cost,
            machine.timer_latency, machine.sample_cost, machine.switch_cost, machine.preempt,
            round(1000 * machine.lost), round(1000 * machine.jitter), machine.cpus, machine.fifo, machine.race, 0,
        )  # fmt: skip
        self._handle = _library().wb_sim_new(
            ctypes.byref(config), self._operations, len(self._operations), starts, len(starts),
            max(workload.room, len(starts)), limits, len(workload.objects),
        )  # fmt: skip
        if not self._handle:
            raise ValueError(
                "the workload cannot be simulated: an operation or an object is not there"
            )

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
        """Free the simulation."""
        handle, self._handle = self._handle, None
        if handle:
            _library().wb_sim_free(handle)

    def run(
        self,
        experiment: Experiment,
        *,
        hits: int = 400,
        point: int = 0,
        limit: float = 1e12,
        settle: float = 0.0,
        max_events: int = 20_000_000,
    ) -> Outcome:
        """Carry out one experiment until `point` has been passed `hits` times or `limit` ns have gone by.

        `settle` is the time in ns for which the conditions hold before counting begins.

        Raises
        ------
        RunFailed
            The workload does nothing, outgrows its room or needs more than `max_events`.
        """
        core, given = _library(), experiment
        raw = _Experiment(
            0,
            given.period,
            given.min_debt,
            given.stop_cost,
            0,
            given.active,
            round(1000 * given.speedup),
            given.without,
        )
        if settle:
            core.wb_sim_begin(
                self._handle, ctypes.byref(raw), given.region, round(1000 * (1 - given.shortened))
            )
            self._check(core.wb_sim_run(self._handle, int(settle), -1, 0, max_events))
        core.wb_sim_begin(
            self._handle, ctypes.byref(raw), given.region, round(1000 * (1 - given.shortened))
        )
        before = self._read()
        self._check(core.wb_sim_run(self._handle, int(limit), point, hits, max_events))
        after = self._read()
        found = after.points[point]
        steps = found.count - 1
        return Outcome(
            found.count,
            (found.last - found.first) / steps if steps > 0 else float("nan"),
            (found.last_time - found.first_time) / steps if steps > 0 else float("nan"),
            after.samples, after.hits, after.lost, after.payments, after.paid, after.merges,
            after.global_ - before.global_, after.region_time, after.now - before.now, after.max_debt, after.events,
        )  # fmt: skip

    def _check(self, status: int) -> None:
        if status:
            raise RunFailed(
                f"the simulation stopped: {_WHAT_WENT_WRONG[status]}",
                "look at the workload's loops",
            )

    def _read(self) -> _Output:
        out = _Output()
        _library().wb_sim_read(self._handle, ctypes.byref(out))
        return out
