"""Off-CPU time: why threads left the CPU, who woke them, how long they then waited to run. Frame `offcpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors import scope
from workbench.collectors.backend import kernel_only
from workbench.collectors.base import Counters
from workbench.collectors.session import WAKE_BYTES, Session
from workbench.collectors.stacks import StackReader, tracepoint_iterators
from workbench.collectors.target import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("SchedCollector", "state_names")

_WAKER, _OFF = 1, 2
# include/linux/sched.h: bits of task_struct.__state; a combination is named by its first match.
_STATES = (
    (0x0400 | 0x0002, 0x0400 | 0x0002, "idle"),
    (0x0001, 0x0001, "sleeping"),
    (0x0002, 0x0002, "blocked"),
    (0x0004, 0x0004, "stopped"),
    (0x0008, 0x0008, "traced"),
    (0x0040, 0x0040, "parked"),
    (0x00B0, 0x0000, "exiting"),
)
_NAMES = ["preempted", "other", *(name for *_, name in _STATES)]


def state_names(states: NDArray[np.uint32]) -> tuple[NDArray[np.int32], list[str]]:
    """Names of task states as (codes, names); 0 is a thread that could have gone on: preempted."""
    codes = np.where(states == 0, 0, 1).astype(np.int32)
    for number, (mask, value, _name) in reversed(list(enumerate(_STATES))):
        match = (states & mask) == value if value else (states & mask) != 0
        codes[match & (states != 0)] = number + 2
    return codes, list(_NAMES)


class SchedCollector:
    """Off-CPU intervals of the target's threads.

    Parameters
    ----------
    least : int
        Intervals shorter than this many microseconds are not recorded.
    stacks : {"dwarf", "fp", "no"}
        How the stack at switch-out is taken.
    wakers : bool
        Record the waker's stack as well.
    slots : int
        Threads that can be off the CPU at the same time; 0 fits the target.
    """

    SUMMARY = "off-CPU time with the waker's stack, and run-queue latency (frame offcpu)"
    USAGE = "sched[,least=MICROSECONDS][,stacks=dwarf|fp|no][,wakers=yes|no][,copy=BYTES][,slots=N]"

    name = "sched"
    frames = ("offcpu",)

    def __init__(
        self,
        *,
        least: int = 0,
        stacks: str = "dwarf",
        wakers: bool = True,
        copy: int = 8192,
        slots: int = 0,
    ) -> None:
        self.least, self.stacks, self.wakers, self.copy, self.slots = (
            least,
            stacks,
            wakers,
            copy,
            slots,
        )
        self.counters = Counters()
        self._session: Session | None = None
        self._pending: dict[tuple[int, int], int] = {}

    @classmethod
    def from_spec(cls, spec: Spec) -> SchedCollector:
        made = cls(
            least=spec.integer("least", 0, 0),
            stacks=spec.choice("stacks", "dwarf", ("dwarf", "fp", "no")),
            wakers=spec.flag("wakers", True),
            copy=spec.integer("copy", 8192, 512, 8192),
            slots=spec.integer("slots", 0, 0, 65536),
        )
        spec.done()
        return made

    def attach(self, target: Target, sink: Sink) -> None:
        kernel_only(target, "sched", "the scheduler is there")
        self._sink, self._target = sink, target
        user = self.stacks != "no"
        count = sum(len(threads(pid)) for pid in target.pids)
        slots = self.slots or (4096 if target.machine else max(512, 2 * count))
        session = Session(
            target,
            "sched",
            constants=scope.constants(target)
            | {
                "least": self.least * 1000,
                "wakers": self.wakers,
                "copy_bytes": self.copy if self.stacks == "dwarf" else 0,
                "kernel_stacks": user,
                "user_stacks": user,
                "skip_frames": 2,
                "wake_bytes": WAKE_BYTES,
            },
            map_sizes={"slots": slots},
            ring="events",
        )
        try:
            self._stacks = StackReader(
                sink,
                target.unwinder() if self.stacks == "dwarf" else None,
                left_out=tracepoint_iterators("sched_switch", "sched_waking") if user else (),
            )
            loaded = session.loaded
            for slot in range(slots):
                loaded.maps["free_slots"].push(slot)
            scope.enter_scope(loaded, target)
            for program in ("off_waking", "off_switch"):
                loaded.attach_tracing(program)
        except BaseException:
            session.close()
            raise
        self._session = session

    def attach_process(self, pid: int) -> None:
        """The fork hook has put it in scope already."""

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
            # A waker's stack belongs to the waker's process: its head carries that pid.
            pids = head["pid"].astype(np.int32)
            if not self._target.machine:
                self._target.others.update(set(np.unique(pids).tolist()) - self._target.pids - {0})
            stacks = self._stacks.ids(
                records,
                pids,
                head["stack"],
                session.dtype.itemsize,
                times=head["time"].astype(np.int64),
            )
            total += self._append(head, stacks)
        self.counters.events += total
        self.counters.lost = session.counter("lost_ring_full") + session.counter("lost_slots_full")
        return total

    def _append(self, head: dict[str, NDArray[Any]], stacks: NDArray[np.int32]) -> int:
        off = head["kind"] == _OFF
        wakers = self._pending
        for tid, time, stack in zip(
            head["tid"][~off].tolist(),
            head["time"][~off].tolist(),
            stacks[~off].tolist(),
            strict=True,
        ):
            wakers[tid, time] = stack
        rows = {name: column[off] for name, column in head.items()}
        keys = zip(rows["tid"].tolist(), rows["time"].tolist(), strict=True)
        waker_stacks = np.array([wakers.pop(key, -1) for key in keys], np.int32)
        if len(wakers) > 65536:  # their records were lost
            wakers.clear()
        woken = rows["woken"].astype(np.int64)
        left, time = rows["left"].astype(np.int64), rows["time"].astype(np.int64)
        preempted = rows["state"] == 0
        self._sink.append(
            "offcpu",
            {
                "time": left,
                "pid": rows["pid"].astype(np.int32),
                "tid": rows["tid"].astype(np.int32),
                "cpu": rows["cpu"].astype(np.int32),
                "comm": rows["comm"],
                "duration": time - left,
                "runqueue": np.where(woken > 0, time - woken, np.where(preempted, time - left, -1)),
                "state": state_names(rows["state"]),
                "stack": stacks[off],
                "waker_pid": np.where(woken > 0, rows["waker_pid"].astype(np.int32), -1),
                "waker_tid": np.where(woken > 0, rows["waker_tid"].astype(np.int32), -1),
                "waker_comm": rows["waker_comm"],
                "waker_stack": waker_stacks,
            },
        )
        return int(off.sum())

    def detach(self) -> None:
        if self._session is not None:
            self._session.detach()

    def finish(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        losses = {"ring full": "lost_ring_full", "more threads than slots": "lost_slots_full"}
        try:
            session.last_rows(self._sink, self.name, "offcpu", losses)
        finally:
            session.close()
