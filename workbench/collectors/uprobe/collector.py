"""Uprobes, return probes and USDT marks: frames `calls`, `probe_counts` and `probe_latencies`."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.base import Counters
from workbench.collectors.resolve import Modules
from workbench.collectors.stacks import StackReader
from workbench.collectors.uprobe.abi import ARGUMENT_BYTES, MAX_ARGUMENTS
from workbench.collectors.uprobe.attachment import Attachment
from workbench.collectors.uprobe.options import USAGE, Options
from workbench.collectors.uprobe.plan import Plan, make_plan
from workbench.collectors.uprobe.rows import Rows, record_dtype
from workbench.collectors.uprobe.summary import append_counts, append_summary
from workbench.errors import TargetGone
from workbench.kernel.maps import possible_cpus
from workbench.kernel.ring import ColumnReader, RecordReader
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec
    from workbench.kernel.ring import Ring

__all__ = ("UprobeCollector",)

_SCRATCH_SLOTS, _FUNCTION_START = 4, 1  # SLOTS and FUNCTION_START of bpf/uprobe.bpf.c


class UprobeCollector:
    """Records calls of functions and hits of USDT marks.

    Parameters
    ----------
    options : Options
        See `Options.from_spec` for the words of the specification.
    """

    SUMMARY = "calls of functions and USDT marks, with arguments, result and latency (frame calls)"
    USAGE = USAGE

    def __init__(self, options: Options) -> None:
        self.options = options
        self.name = options.kind
        self.counters = Counters()
        self.plan: Plan | None = None
        self._attachment: Attachment | None = None
        self._ring: Ring | None = None
        self._rows: Rows | None = None
        self._multi = True
        self._refused: dict[int, str] = {}
        self._late = 0

    @classmethod
    def from_spec(cls, spec: Spec) -> UprobeCollector:
        return cls(Options.from_spec(spec))

    @property
    def frames(self) -> tuple[str, ...]:
        own = ("calls",) if self.options.events else ()
        return (*own, "probe_counts", *(("probe_latencies",) if self.options.latency else ()))

    # Life ----------------------------------------------------------------------------------------------------------

    def attach(self, target: Target, sink: Sink) -> None:
        self._sink, self._target = sink, target
        options = self.options
        self.plan = plan = make_plan(options, Modules(target.pid), target.backend)
        self._exact = (
            options.children == "exact"
            and target.follow
            and not target.machine
            and target.backend
            == "kernel"  # a child of an entered process has its parent's probes anyway
        )
        self._rows = Rows(options, plan, sink) if options.events else None
        self._stacks: StackReader | None = None
        if options.stacks != "no":
            self._stacks = StackReader(sink, target.unwinder() if options.stacks == "yes" else None)
        strings = "_strings" if plan.string_slots else ""
        entry = (
            ("mark" if options.kind == "usdt" else "enter") + strings if options.entries else None
        )
        self._attachment = Attachment(
            target,
            builtin("uprobe"),
            self._constants(plan),
            self._map_sizes(plan),
            plan.sites,
            entry,
            "leave" if options.returns else None,
            options.attach,
        )
        try:
            self._open()
            pids: list[int | None] = [None]
            if not target.machine and not self._exact:
                wanted = target.pids if target.follow and options.children != "no" else {target.pid}
                pids = [*sorted(pid for pid in wanted if pid is not None)]
            if self._attachment.attach(self._alive(pids)):
                self._open()
        except BaseException:
            self._close()
            raise

    def _alive(self, pids: list[int | None]) -> list[int | None]:
        """Children of the target may have exited since they were listed; the target itself may not."""
        assert self._attachment is not None
        from pathlib import Path

        alive = [pid for pid in pids if pid is None or Path(f"/proc/{pid}").exists()]
        if not alive or (
            self._target.pid is not None and pids != [None] and self._target.pid not in alive
        ):
            raise TargetGone(
                f"process {self._target.pid} exited while it was being attached",
                "start the command with `-- CMD`",
            )
        return alive

    def _constants(self, plan: Plan) -> dict[str, int | bool]:
        options = self.options
        return {
            "want_events": options.events,
            "join": options.join,
            "want_latency": options.latency,
            "want_stacks": options.stacks != "no",
            "argument_slots": plan.argument_slots,
            "string_slots": plan.string_slots,
            "string_bytes": options.string,
            "limit_scope": self._exact,
            "left_out": self._target.left_out,
            "kernel_stacks": False,
            "copy_bytes": options.copy if options.stacks == "yes" else 0,
            "wake_bytes": 1 << 20,
        }

    def _map_sizes(self, plan: Plan) -> dict[str, int]:
        stacks, strings = self.options.stacks != "no", plan.string_slots > 0
        return {
            "sites": len(plan.sites),
            "scratches": possible_cpus() * _SCRATCH_SLOTS if stacks else 1,
            "pending": 16384 if self.options.join else 1,
            "pending_strings": 16384 if self.options.join and strings else 1,
            "counts": max(65536, 4 * len(plan.sites)),
            "latencies": 65536 if self.options.latency else 1,
            **({} if self.options.events else {"hits": 4096}),
        }

    def _open(self) -> None:
        """Fill the maps of the loaded programs and map the ring."""
        assert self._attachment is not None and self.plan is not None
        loaded, plan, options = self._attachment.loaded, self.plan, self.options
        if self._ring is not None:
            self._ring.close()
        table = loaded.maps["sites"]
        packed = b"".join(
            b"".join(source.pack() for *_, source in site.arguments).ljust(
                ARGUMENT_BYTES * MAX_ARGUMENTS, b"\0"
            )
            + struct.pack("<II", len(site.arguments), _FUNCTION_START if site.at_start else 0)
            for site in plan.sites
        )
        table.update_many(
            np.arange(len(plan.sites), dtype=np.uint32), np.frombuffer(packed, table.value_dtype)
        )
        if self._exact:
            for pid in self._target.pids:
                loaded.maps["targets"][pid] = 1
            self._attachment.follow()
        self._ring = loaded.ring("hits")
        stack = loaded.object.record_dtype("stack") if self._stacks is not None else None
        self._dtype = record_dtype(
            loaded.object.record_dtype("hits"),
            stack,
            plan.argument_slots,
            plan.string_slots,
            options.string,
        )
        self._columns = self._records = None
        if self._stacks is None:
            self._columns = ColumnReader(self._ring, self._dtype)
        else:
            self._records = RecordReader(self._ring, buffer_bytes=16 << 20)

    def attach_process(self, pid: int) -> None:
        if (
            self._attachment is None
            or self._exact
            or self._target.machine
            or self.options.children == "no"
        ):
            return
        self._attachment.prune()
        self._attachment.attach_one(pid)
        self._late += 1

    def notes(self) -> dict[str, Any]:
        """What was left out and how the probes were attached, for the manifest."""
        plan, refused = self.plan, self._refused
        if self._attachment is not None:
            self._multi, refused = self._attachment.multi, self._attachment.refused
            self._refused = refused
        names = {i: plan.sites[i].function for i in refused} if plan else {}
        left_out = plan.notes[:100] if plan else []
        if self._late:
            left_out.append(
                f"first calls of {self._late} children, probed once they ran (children=exact has them too)"
            )
        notes: dict[str, Any] = {
            "sites": len(plan.sites) if plan else 0,
            "attach": "multi" if self._multi else "events",
            "left_out": left_out,
            "refused": [f"{names[i]}: {why}" for i, why in refused.items()][:100],
            "children": self.options.children,
            "children_attached_late": self._late,
            "rows_with_unreadable_arguments": self._rows.unreadable if self._rows else 0,
        }
        return {f"probe {self.options.text}": notes}

    def wake_fds(self) -> tuple[int, ...]:
        return (self._ring.fileno(),) if self._ring is not None and self.options.events else ()

    def drain(self) -> int:
        if self._attachment is None or self._rows is None or self._ring is None:
            return 0
        total = 0
        # Only what waits now: probes on what the recorder itself calls never run dry.
        ring = self._ring
        end = ring.position + ring.waiting
        if self._columns is not None:
            while ring.position < end and (rows := self._columns.drain()):
                self._sink.append("calls", self._rows.columns_of(self._columns.take(rows), None))
                total += rows
        elif self._records is not None and self._stacks is not None:
            while ring.position < end and len(records := self._records.drain()):
                head = records.head(self._dtype)
                pids = head["pid"].astype(np.int32)
                stacks = self._stacks.ids(
                    records,
                    pids,
                    head["stack"],
                    self._dtype.itemsize,
                    times=head["time"].astype(np.int64),
                )
                self._sink.append("calls", self._rows.columns_of(head, stacks))
                total += len(records)
        self.counters.events += total
        lost = self._attachment.loaded.globals
        self.counters.lost = sum(
            int(lost[name][()]) for name in ("lost_ring_full", "lost_map_full", "lost_nested")
        )
        return total

    def checkpoint(self, sink: Sink) -> None:
        """Append what is counted in maps, as it is now."""
        if self._attachment is not None and self.plan is not None:
            append_counts(sink, self.options, self.plan, self._attachment)

    def detach(self) -> None:
        if self._attachment is not None:
            self._attachment.detach()

    def finish(self) -> None:
        if self._attachment is None or self.plan is None:
            return
        try:
            self.notes()
            append_summary(self._sink, self.options, self.plan, self._attachment)
        finally:
            self._close()

    def _close(self) -> None:
        attachment, self._attachment = self._attachment, None
        ring, self._ring = self._ring, None
        if attachment is not None:
            attachment.detach()
        if ring is not None:
            with contextlib.suppress(BufferError):
                ring.close()
        if attachment is not None:
            attachment.close()
