"""CPU samples with user and kernel stacks: frame `samples`.

Sampling is by the cycle counter where the machine has one, else by the CPU clock; the choice is noted in the
recording. A process is sampled through one inherited event per thread, so new threads and children are followed and
no other process pays; the whole machine through one event per CPU. Stacks of code without frame pointers are unwound
from a copy of the top of the user stack (`stacks=dwarf`, the default; see `frames.unwind`).

In user space (`--backend userspace`) the program runs in the sampled thread itself, told by a signal of the CPU clock:
the same rows of user code. Time in the kernel is not sampled. Where perf events are refused, POSIX timers take their
place, at most as often as the kernel's tick; the recording notes it and why.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.base import Counters
from workbench.collectors.cost import SampleCost
from workbench.collectors.samplers import Samplers
from workbench.collectors.session import WAKE_BYTES, Session
from workbench.collectors.stacks import COPY_BYTES, StackReader
from workbench.collectors.thread_events import open_on_target
from workbench.errors import BadSpec, MissingCapability
from workbench.kernel import perf
from workbench.kernel.maps import possible_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("CpuCollector",)

MAX_HZ = 10_000
_LOSSES = {
    "ring full": "lost_ring_full",
    "more samples preempted each other than there are stack buffers": "lost_nested",
}
_SCRATCH_SLOTS = 4  # SLOTS of bpf/cpu.bpf.c


class CpuCollector:
    """Samples where threads are.

    Parameters
    ----------
    hz : int
        Samples per second of CPU time, 1 to 10,000.
    stacks : {"dwarf", "fp", "no"}
        Unwind copied stacks, follow frame pointers, or take none.
    copy : int
        Bytes of user stack copied per sample for ``dwarf``.
    kernel : bool
        Kernel stacks as well.
    event : {"auto", "cycles", "clock", "timer"}
        What drives the sampling. A POSIX timer for each thread is for user space, where perf events are refused.
    """

    SUMMARY = "CPU samples with user and kernel stacks (frame samples)"
    USAGE = "cpu[:HZ][,stacks=dwarf|fp|no][,kernel=yes|no][,copy=BYTES][,event=auto|cycles|clock|timer]"

    name = "cpu"
    frames = ("samples",)

    def __init__(
        self,
        hz: int = 999,
        *,
        stacks: str = "dwarf",
        copy: int = COPY_BYTES,
        kernel: bool = True,
        event: str = "auto",
    ) -> None:
        if not 1 <= hz <= MAX_HZ:
            raise BadSpec(
                f"cpu:{hz} is outside 1 to {MAX_HZ} samples per second",
                "999 is usual; a rate that is no round number keeps out of step with timers",
            )
        self.hz, self.stacks, self.copy, self.kernel, self.event = hz, stacks, copy, kernel, event
        self.counters = Counters()
        self.driver = ""
        self.events: tuple[int, ...] = ()
        self._session: Session | None = None
        self._samplers: Samplers | None = None
        self._missed = 0

    @classmethod
    def from_spec(cls, spec: Spec) -> CpuCollector:
        made = cls(
            spec.argument_integer(999, 1, MAX_HZ),
            stacks=spec.choice("stacks", "dwarf", ("dwarf", "fp", "no")),
            copy=spec.integer("copy", COPY_BYTES, 512, 56 * 1024),
            kernel=spec.flag("kernel", True),
            event=spec.choice("event", "auto", ("auto", "cycles", "clock", "timer")),
        )
        spec.done()
        return made

    def attach(self, target: Target, sink: Sink) -> None:
        self._sink = sink
        user = self.stacks != "no"
        session = Session(
            target,
            "cpu",
            constants={
                "copy_bytes": self.copy if self.stacks == "dwarf" else 0,
                "kernel_stacks": self.kernel and user and target.backend == "kernel",
                "user_stacks": user,
                "wake_bytes": WAKE_BYTES,
            },
            map_sizes={"scratches": _SCRATCH_SLOTS * possible_cpus()},
            ring="samples",
        )
        try:
            self._stacks = StackReader(sink, target.unwinder() if self.stacks == "dwarf" else None)
            self._attach_events(target, session)
        except BaseException:
            session.close()
            raise
        self._session = session

    def _attach_events(self, target: Target, session: Session) -> None:
        loaded = session.loaded
        if target.backend == "userspace":
            self._attach_signals(target, session)
            return
        if self.event == "timer":
            raise MissingCapability(
                "POSIX timers sample in user space alone", "use event=clock, or --backend userspace"
            )

        def open_one(tid: int, cpu: int, flags: tuple[str, ...]) -> int:
            event = self._open_bare(tid, cpu, flags)
            loaded.attach_perf_event("sample_cpu", event)  # owns the event, also when it fails
            return event

        self.events = tuple(open_on_target(target, open_one))
        for event in self.events:
            perf.enable(event)

    def _attach_signals(self, target: Target, session: Session) -> None:
        if self.event == "cycles":
            raise MissingCapability(
                "user space samples by the CPU clock, not by the cycle counter",
                "leave event=cycles away, or record with --backend kernel",
            )
        wanted = "timer" if self.event == "timer" else "auto"
        self._samplers = samplers = Samplers(
            target, session.loaded, "sample_cpu", self.hz, driver=wanted
        )
        self.driver = "timer" if samplers.driver == "timer" else "clock"
        session.measure(
            SampleCost(target.window, "sample_cpu", samplers.cost, lambda: session.counter("taken"))
        )

    def _open_bare(self, tid: int, cpu: int, inherit: tuple[str, ...]) -> int:
        flags = ("disabled", *inherit, *(("exclude_idle",) if tid < 0 else ()))
        wanted = self.driver or self.event
        if wanted != "clock":
            cycles = perf.EventAttributes(
                perf.HARDWARE, perf.CPU_CYCLES, sample=self.hz, flags=(*flags, "freq"), wakeup=1
            )
            try:
                event = perf.open_event(cycles, pid=tid, cpu=cpu)
                self.driver = "cycles"
                return event
            except MissingCapability as error:
                if wanted == "cycles":
                    error.hint = "this machine has no cycle counter (or the hypervisor hides it); use event=clock"
                    raise
        period = 1_000_000_000 // self.hz
        clock = perf.EventAttributes(
            perf.SOFTWARE, perf.CPU_CLOCK, sample=period, flags=flags, wakeup=1
        )
        event = perf.open_event(clock, pid=tid, cpu=cpu)
        self.driver = "clock"
        return event

    @contextlib.contextmanager
    def bare_event(self, tid: int) -> Iterator[int]:
        """The sampling event of a thread with no program attached, disabled: the floor of what sampling costs."""
        event = self._open_bare(tid, -1, ("inherit", "inherit_thread"))
        try:
            yield event
        finally:
            perf.close(event)

    def notes(self) -> dict[str, Any]:
        """What the recording should remember of how sampling was done."""
        found: dict[str, Any] = {"driver": self.driver, "hz": self.hz, "stacks": self.stacks}
        if self._samplers is not None:
            found["left_out"] = ["time in the kernel", "kernel frames"]
            if self._samplers.driver == "timer":
                found["left_out"] = ["kernel frames", "the first 50 ms or so of new threads"]
                found["hz"] = min(self.hz, round(1e9 / self._samplers.period))
                found["why"] = self._samplers.why
            if self._samplers.late:
                found["left_out"].append(
                    f"the beginning of {self._samplers.late} children or executed programs"
                )
        return {"sampling": found}

    def attach_process(self, pid: int) -> None:
        """Inherited events follow children by themselves; in user space a child gets its own."""
        if self._samplers is not None:
            self._samplers.add(pid)

    def wake_fds(self) -> tuple[int, ...]:
        return self._session.fds if self._session else ()

    def drain(self) -> int:
        total = 0
        if self._session is None:
            return 0
        self._session.look()
        if self._samplers is not None and self._session.attached:
            self._samplers.tend()
        dtype = self._session.dtype
        for records in self._session.batches():
            head = records.head(dtype)
            pids = head["pid"].astype(np.int32)
            times = head["time"].astype(np.int64)
            stacks = self._stacks.ids(
                records, pids, head["stack"], dtype.itemsize, times=times
            )
            self._sink.append(
                "samples",
                {
                    "time": times,
                    "pid": pids,
                    "tid": head["tid"].astype(np.int32),
                    "cpu": head["cpu"].astype(np.int32),
                    "comm": head["comm"],
                    "stack": stacks,
                },
            )
            total += len(records)
        self.counters.events += total
        if self._samplers is not None and self._session.attached:
            self._missed = self._samplers.missed()
        self.counters.lost = sum(map(self._session.counter, _LOSSES.values())) + self._missed
        return total

    def detach(self) -> None:
        if self._session is not None:
            if self._samplers is not None:
                self._missed = self._samplers.missed()
            self._session.detach()

    def finish(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.last_rows(self._sink, self.name, "samples", _LOSSES)
            if self._samplers is not None:
                self._sink.append(
                    "losses",
                    {
                        "collector": [self.name],
                        "frame": ["samples"],
                        "cause": ["the thread was inside a probe's program"],
                        "lost": np.array([self._missed], np.int64),
                    },
                )
        finally:
            session.close()
