"""Page faults with the faulting instruction and data address: frame `faults`.

On x86 the exception tracepoints say whether it was a read, a write or a fetch; elsewhere the software page-fault
event is used and `access` is ``unknown``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors import scope
from workbench.collectors.backend import kernel_only
from workbench.collectors.base import Counters
from workbench.collectors.session import WAKE_BYTES, Session
from workbench.collectors.stacks import COPY_BYTES, StackReader
from workbench.collectors.thread_events import open_on_target
from workbench.errors import MissingCapability
from workbench.kernel import perf
from workbench.kernel.maps import possible_cpus

if TYPE_CHECKING:
    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec
    from workbench.kernel.loaded import Loaded

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
        self._session: Session | None = None

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
        kernel_only(target, "pages", "page faults are handled there")
        self._sink = sink
        session = Session(
            target,
            "pages",
            constants=scope.constants(target)
            | {
                "stacks": self.stacks != "no",
                "kernel_stacks": False,
                "copy_bytes": COPY_BYTES if self.stacks == "dwarf" else 0,
                "wake_bytes": WAKE_BYTES,
            },
            map_sizes={"scratches": possible_cpus()},
            ring="events",
        )
        try:
            self._stacks = StackReader(sink, target.unwinder() if self.stacks == "dwarf" else None)
            if self.source != "event":
                self._attach_tracepoints(target, session.loaded)
            if not self.driver:
                self._attach_events(target, session.loaded)
        except BaseException:
            session.close()
            raise
        self._session = session

    def _attach_tracepoints(self, target: Target, loaded: Loaded) -> None:
        try:
            loaded.attach_raw_tracepoint("fault_user", "page_fault_user")
            loaded.attach_raw_tracepoint("fault_kernel", "page_fault_kernel")
        except MissingCapability as error:
            loaded.detach()
            if self.source == "tracepoint":
                error.hint = "this kernel has no page-fault tracepoints; use source=event"
                raise
            return
        scope.enter_scope(loaded, target)
        self.driver = "tracepoint"

    def _attach_events(self, target: Target, loaded: Loaded) -> None:
        def open_one(tid: int, cpu: int, flags: tuple[str, ...]) -> int:
            attributes = perf.EventAttributes(
                perf.SOFTWARE, _PAGE_FAULTS, sample=1, sample_type=8, flags=("disabled", *flags)
            )
            event = perf.open_event(attributes, pid=tid, cpu=cpu)
            loaded.attach_perf_event("fault_event", event)
            return event

        for event in open_on_target(target, open_one):
            perf.enable(event)
        self.driver = "event"

    def attach_process(self, pid: int) -> None:
        """Followed by the fork hook or by inheritance."""

    def wake_fds(self) -> tuple[int, ...]:
        return self._session.fds if self._session else ()

    def drain(self) -> int:
        total = 0
        session = self._session
        if session is None:
            return 0
        session.look()
        for records in session.batches():
            head = records.head(session.dtype)
            pids = head["pid"].astype(np.int32)
            times = head["time"].astype(np.int64)
            if self.stacks == "no":
                stacks = np.full(len(pids), -1, np.int32)
            else:
                stacks = self._stacks.ids(
                    records, pids, head["stack"], session.dtype.itemsize, times=times
                )
            self._sink.append(
                "faults",
                {
                    "time": times,
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
        self.counters.lost = session.counter("lost_ring_full")
        return total

    def detach(self) -> None:
        if self._session is not None:
            self._session.detach()

    def finish(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.last_rows(self._sink, self.name, "faults", {"ring full": "lost_ring_full"})
        finally:
            session.close()
