"""Page faults with the faulting instruction and data address: frame `faults`.

On x86 the exception tracepoints say whether it was a read, a write or a fetch; elsewhere the software page-fault
event is used and `access` is ``unknown``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors import scope
from workbench.collectors.base import Counters
from workbench.collectors.cost import RunCost
from workbench.collectors.sideband import online_cpus
from workbench.collectors.stacks import COPY_BYTES, StackReader
from workbench.collectors.target import threads
from workbench.errors import MissingCapability, TargetGone
from workbench.kernel import perf
from workbench.kernel.loaded import Loaded, load
from workbench.kernel.maps import possible_cpus
from workbench.kernel.ring import RecordReader, Ring
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("PagesCollector",)

_PAGE_FAULTS = 2
_ACCESS = ["read", "write", "execute", "unknown"]


class PagesCollector:
    """Records every page fault.

    Parameters
    ----------
    stacks : {"no", "dwarf", "fp"}
        Stack at the fault; `ip` and its function are always there.
    source : {"auto", "tracepoint", "event"}
        What reports the fault.
    """

    SUMMARY = "page faults with instruction and address (frame faults)"
    USAGE = "pages[,stacks=no|dwarf|fp][,source=auto|tracepoint|event]"

    name = "pages"
    frames = ("faults",)
    data_mappings = True

    def __init__(self, *, stacks: str = "no", source: str = "auto") -> None:
        self.stacks, self.source = stacks, source
        self.counters = Counters()
        self.driver = ""
        self._loaded: Loaded | None = None

    @classmethod
    def from_spec(cls, spec: Spec) -> PagesCollector:
        made = cls(
            stacks=spec.choice("stacks", "no", ("no", "dwarf", "fp")),
            source=spec.choice("source", "auto", ("auto", "tracepoint", "event")),
        )
        spec.done()
        return made

    def notes(self) -> dict[str, Any]:
        """What the recording should remember."""
        return {"page_faults": {"source": self.driver}}

    def attach(self, target: Target, sink: Sink) -> None:
        self._sink = sink
        obj = builtin("pages")
        self._loaded = loaded = load(
            obj,
            constants=scope.constants(target)
            | {
                "stacks": self.stacks != "no",
                "kernel_stacks": False,
                "copy_bytes": COPY_BYTES if self.stacks == "dwarf" else 0,
                "wake_bytes": 1 << 20,
            },
            map_sizes={"scratches": possible_cpus()},
        )
        try:
            self._dtype = obj.record_dtype("events")
            self._ring = Ring(*loaded.ring_fds["events"])
            self._reader = RecordReader(self._ring, buffer_bytes=16 << 20)
            self._stacks = StackReader(sink, target.unwinder() if self.stacks == "dwarf" else None)
            self._cost = RunCost(loaded)
            if self.source != "event":
                self._attach_tracepoints(target)
            if not self.driver:
                self._attach_events(target)
        except BaseException:
            loaded.close()
            raise

    def _attach_tracepoints(self, target: Target) -> None:
        assert self._loaded is not None
        try:
            self._loaded.attach_raw_tracepoint("fault_user", "page_fault_user")
            self._loaded.attach_raw_tracepoint("fault_kernel", "page_fault_kernel")
        except MissingCapability as error:
            self._loaded.detach()
            if self.source == "tracepoint":
                error.hint = "this kernel has no page-fault tracepoints; use source=event"
                raise
            return
        scope.enter_scope(self._loaded, target)
        self.driver = "tracepoint"

    def _attach_events(self, target: Target) -> None:
        assert self._loaded is not None
        events = []
        if target.machine:
            places = [(-1, cpu) for cpu in online_cpus()]
        else:
            places = [(tid, -1) for pid in sorted(target.pids) for tid in threads(pid)]
        for tid, cpu in places:
            flags = ("disabled",) if target.machine else ("disabled", "inherit")
            attributes = perf.EventAttributes(
                perf.SOFTWARE, _PAGE_FAULTS, sample=1, sample_type=8, flags=flags
            )
            with contextlib.suppress(TargetGone):
                event = perf.open_event(attributes, pid=tid, cpu=cpu)
                self._loaded.attach_perf_event("fault_event", event)
                events.append(event)
        if not events:
            raise TargetGone(f"process {target.pid} exited while it was being attached")
        for event in events:
            perf.enable(event)
        self.driver = "event"

    def attach_process(self, pid: int) -> None:
        """Followed by the fork hook or by inheritance."""

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
            if self.stacks == "no":
                stacks = np.full(len(pids), -1, np.int32)
            else:
                stacks = self._stacks.ids(records, pids, head["stack"], self._dtype.itemsize)
            self._sink.append(
                "faults",
                {
                    "time": head["time"].astype(np.int64),
                    "pid": pids,
                    "tid": head["tid"].astype(np.int32),
                    "cpu": head["cpu"].astype(np.int32),
                    "comm": head["comm"],
                    "address": head["address"],
                    "ip": head["ip"],
                    "access": (head["access"].astype(np.int32), _ACCESS),
                    "user": head["user"].astype(bool),
                    "stack": stacks,
                },
            )
            total += len(records)
        self.counters.events += total
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
                "collector": ["pages"],
                "frame": ["faults"],
                "cause": ["ring full"],
                "lost": np.array([int(loaded.globals["lost_ring_full"][()])], np.int64),
            },
        )
        self._sink.append("overhead", self._cost.rows("pages"))
        self._ring.close()
        loaded.close()
