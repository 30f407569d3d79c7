"""CPU samples with user and kernel stacks: frame `samples`.

Sampling is by the cycle counter where the machine has one, else by the CPU clock; the choice is noted in the
recording. A process is sampled through one inherited event per thread, so new threads and children are followed and
no other process pays; the whole machine through one event per CPU. Stacks of code without frame pointers are unwound
from a copy of the top of the user stack (`stacks=dwarf`, the default; see `frames.unwind`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.base import Counters
from workbench.collectors.cost import RunCost
from workbench.collectors.sideband import online_cpus
from workbench.collectors.stacks import COPY_BYTES, StackReader
from workbench.collectors.target import threads
from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone
from workbench.kernel import perf
from workbench.kernel.loaded import Loaded, load
from workbench.kernel.maps import possible_cpus
from workbench.kernel.ring import RecordReader, Ring
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("CpuCollector",)

MAX_HZ = 10_000


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
    event : {"auto", "cycles", "clock"}
        What drives the sampling.
    """

    SUMMARY = "CPU samples with user and kernel stacks (frame samples)"
    USAGE = "cpu[:HZ][,stacks=dwarf|fp|no][,kernel=yes|no][,copy=BYTES][,event=auto|cycles|clock]"

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
            raise BadSpec(f"cpu:{hz} is outside 1 to {MAX_HZ} samples per second")
        self.hz, self.stacks, self.copy, self.kernel, self.event = hz, stacks, copy, kernel, event
        self.counters = Counters()
        self.driver = ""
        self.events: tuple[int, ...] = ()
        self._loaded: Loaded | None = None
        self._taken = 0

    @classmethod
    def from_spec(cls, spec: Spec) -> CpuCollector:
        made = cls(
            spec.argument_integer(999, 1, MAX_HZ),
            stacks=spec.choice("stacks", "dwarf", ("dwarf", "fp", "no")),
            copy=spec.integer("copy", COPY_BYTES, 512, 56 * 1024),
            kernel=spec.flag("kernel", True),
            event=spec.choice("event", "auto", ("auto", "cycles", "clock")),
        )
        spec.done()
        return made

    def attach(self, target: Target, sink: Sink) -> None:
        self._sink = sink
        user = self.stacks != "no"
        obj = builtin("cpu")
        self._loaded = loaded = load(
            obj,
            constants={
                "copy_bytes": self.copy if self.stacks == "dwarf" else 0,
                "kernel_stacks": self.kernel and user,
                "user_stacks": user,
                "wake_bytes": 1 << 20,
            },
            map_sizes={"scratches": possible_cpus()},
        )
        try:
            self._dtype = obj.record_dtype("samples")
            self._ring = Ring(*loaded.ring_fds["samples"])
            self._reader = RecordReader(self._ring, buffer_bytes=16 << 20)
            self._stacks = StackReader(sink, target.unwinder() if self.stacks == "dwarf" else None)
            self._cost = RunCost(loaded)
            self._attach_events(target)
        except BaseException:
            loaded.close()
            raise

    def _attach_events(self, target: Target) -> None:
        events: list[int] = []
        if target.machine:
            events.extend(self._open(pid=-1, cpu=cpu) for cpu in online_cpus())
        else:
            covered: set[int] = set()
            # New threads of a covered thread inherit its event; those that an uncovered one makes meanwhile
            # appear in the next scan.
            while new := {tid for pid in target.pids for tid in threads(pid)} - covered:
                for tid in sorted(new):
                    with contextlib.suppress(TargetGone):
                        events.append(self._open(pid=tid, cpu=-1, follow=target.follow))
                covered |= new
            if not events:
                raise TargetGone(f"process {target.pid} exited while it was being attached")
        for event in events:
            perf.enable(event)
        self.events = tuple(events)

    def _open(self, *, pid: int, cpu: int, follow: bool = False) -> int:
        assert self._loaded is not None
        event = self._open_bare(pid=pid, cpu=cpu, follow=follow)
        try:
            self._loaded.attach_perf_event("sample_cpu", event)
        except NotPermitted:
            perf.close(event)
            raise
        return event

    def _open_bare(self, *, pid: int, cpu: int, follow: bool = False) -> int:
        flags = ["disabled"]
        if pid >= 0:
            flags.append("inherit")
            if not follow:
                flags.append("inherit_thread")
        else:
            flags.append("exclude_idle")
        wanted = self.driver or self.event
        if wanted != "clock":
            cycles = perf.EventAttributes(
                perf.HARDWARE, perf.CPU_CYCLES, sample=self.hz, flags=(*flags, "freq"), wakeup=1
            )
            try:
                event = perf.open_event(cycles, pid=pid, cpu=cpu)
                self.driver = "cycles"
                return event
            except MissingCapability as error:
                if wanted == "cycles":
                    error.hint = "this machine has no cycle counter (or the hypervisor hides it); use event=clock"
                    raise
        period = 1_000_000_000 // self.hz
        clock = perf.EventAttributes(
            perf.SOFTWARE, perf.CPU_CLOCK, sample=period, flags=tuple(flags), wakeup=1
        )
        event = perf.open_event(clock, pid=pid, cpu=cpu)
        self.driver = "clock"
        return event

    @contextlib.contextmanager
    def bare_event(self, tid: int) -> Iterator[int]:
        """The sampling event of a thread with no program attached, disabled: the floor of what sampling costs."""
        event = self._open_bare(pid=tid, cpu=-1)
        try:
            yield event
        finally:
            perf.close(event)

    def notes(self) -> dict[str, Any]:
        """What the recording should remember of how sampling was done."""
        return {"sampling": {"driver": self.driver, "hz": self.hz, "stacks": self.stacks}}

    def attach_process(self, pid: int) -> None:
        """Inherited events follow children by themselves."""

    def wake_fds(self) -> tuple[int, ...]:
        return (self._ring.fd,) if self._loaded else ()

    def drain(self) -> int:
        total = 0
        if self._loaded is None:
            return 0
        self._cost.look()
        while len(records := self._reader.drain()):
            head = records.head(self._dtype)
            pids = head["pid"].astype(np.int32)
            stacks = self._stacks.ids(records, pids, head["stack"], self._dtype.itemsize)
            self._sink.append(
                "samples",
                {
                    "time": head["time"].astype(np.int64),
                    "pid": pids,
                    "tid": head["tid"].astype(np.int32),
                    "cpu": head["cpu"].astype(np.int32),
                    "comm": head["comm"],
                    "stack": stacks,
                },
            )
            total += len(records)
        self.counters.events += total
        self._taken = int(self._loaded.globals["taken"][()])
        self.counters.lost = int(self._loaded.globals["lost_ring_full"][()])
        return total

    def detach(self) -> None:
        if self._loaded is not None:
            self._cost.stop()
            self._loaded.detach()

    def finish(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        self._sink.append(
            "losses",
            {
                "collector": ["cpu"],
                "frame": ["samples"],
                "cause": ["ring full"],
                "lost": np.array([self.counters.lost], np.int64),
            },
        )
        self._sink.append("overhead", self._cost.rows("cpu"))
        self._ring.close()
        loaded.close()
