"""System call latency, counted in maps: frame `syscalls`, one row per process, call and latency bucket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors import calibrate, scope
from workbench.collectors.base import Counters
from workbench.collectors.session import Session
from workbench.collectors.target import descendants
from workbench.errors import WorkbenchError
from workbench.frames.syscall_names import syscall_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("SyscallsCollector", "bucket_bounds")

_LOOK_SECONDS = 0.25
_AT_A_TIME = 8
_HOOKS = (("syscall_exit", "sys_exit"), ("syscall_enter", "sys_enter"))


def bucket_bounds(buckets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[low, high) in ns of log-linear buckets: 0-3 hold that many ns, then four buckets per octave."""
    bit, part = buckets // 4 + 1, buckets % 4
    width = np.left_shift(1, np.maximum(bit - 2, 0))
    low = np.where(buckets < 4, buckets, (4 + part) * width)
    return low, low + np.where(buckets < 4, 1, width)


class SyscallsCollector:
    """Counts system calls by latency; nothing is sent per call, so it suits busy targets and long times.

    Calls that were entered before the recording began, or have not returned when it ends, are not counted. In user
    space a call that the kernel restarts after a signal is one call, not two, and a child that replaces its program is
    entered again a moment later: what it does until then is not counted.
    """

    SUMMARY = "system call latency histograms, counted where the calls are made (frame syscalls)"
    USAGE = "syscalls"

    name = "syscalls"
    frames = ("syscalls",)

    def __init__(self) -> None:
        self.counters = Counters()
        self._session: Session | None = None
        self._look_at = 0.0
        self._tried: set[int] = set()
        self.entered: set[int] = set()  # user space: processes with hooks of their own
        self._notes: dict[str, Any] = {"not_hooked": {}, "not_entered": []}

    @classmethod
    def from_spec(cls, spec: Spec) -> SyscallsCollector:
        spec.done()
        return cls()

    def attach(self, target: Target, sink: Sink) -> None:
        self._sink = sink
        constants = scope.constants(target) | {"nested": target.backend == "userspace"}
        session = Session(target, "syscalls", constants=constants)
        try:
            loaded = session.loaded
            scope.enter_scope(loaded, target)
            if target.backend == "userspace":
                for pid in sorted(target.pids):
                    self._enter(loaded, pid)
            else:
                for program, point in _HOOKS:
                    loaded.attach_raw_tracepoint(program, point)
        except BaseException:
            session.close()
            raise
        self._session, self._target = session, target

    def _enter(self, loaded: Any, pid: int) -> None:
        """Hook one process (user space)."""
        for program, point in _HOOKS:
            loaded.attach_raw_tracepoint(program, point, pid=pid)
        self.entered.add(pid)
        self._notes["not_hooked"] = loaded.not_hooked()

    def _look_for_children(self, loaded: Any) -> None:
        """Enter children that run a program of their own (user space); the others have their parent's hooks."""
        now = time.monotonic()
        target = self._target
        if target.backend != "userspace" or not target.follow or now < self._look_at:
            return
        new = (target.pids | descendants(target.pids)) - self._tried - self.entered
        for pid in sorted(new)[:_AT_A_TIME]:
            try:
                if not loaded.reaches(pid):
                    self._tried.add(pid)
                    self._enter(loaded, pid)
            except WorkbenchError as error:
                self._notes["not_entered"].append(f"process {pid}: {error.message}")
        self._look_at = now + _LOOK_SECONDS

    def notes(self) -> dict[str, Any]:
        """What programs do not see, for the manifest."""
        left_out = {name: found for name, found in self._notes.items() if found}
        return {"syscalls": left_out} if left_out else {}

    def attach_process(self, pid: int) -> None:
        """The fork hook has put it in scope already; in user space it has its parent's hooks."""

    def wake_fds(self) -> tuple[int, ...]:
        return ()

    def drain(self) -> int:
        if self._session is None:
            return 0
        self._session.look()
        self._look_for_children(self._session.loaded)
        before = self.counters.events
        self.counters.events = self._session.counter("calls")
        self.counters.lost = self._session.counter("lost_map_full")
        return self.counters.events - before

    def detach(self) -> None:
        if self._session is not None:
            self._session.detach()

    def finish(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            self._append(self._sink, *session.loaded.maps["cells"].table())
            session.last_rows(self._sink, self.name, "syscalls", {"map full": "lost_map_full"})
            if self._target.backend == "userspace":
                self._append_cost(session.counter("calls"))
        finally:
            session.close()

    def _append_cost(self, calls: int) -> None:
        """The row of `overhead` in user space: the kernel measures its programs itself, here they are calibrated."""
        try:
            cost = calibrate.syscall_cost()
            usual, low, high = cost.usual, cost.low, cost.high
        except WorkbenchError:
            usual = low = high = float("nan")
        self._sink.append(
            "overhead",
            {
                "collector": [self.name],
                "probe": ["entry and exit of a system call"],
                "instruction_class": ["jump"],
                "hits": np.array([calls], np.int64),
                "cost": np.array([usual]),
                "cost_low": np.array([low]),
                "cost_high": np.array([high]),
                "total": np.array([usual * calls if calls else 0.0]),
            },
        )

    def checkpoint(self, sink: Sink) -> None:
        """Append what is counted so far."""
        if self._session is not None:
            self._append(sink, *self._session.loaded.maps["cells"].table())

    @staticmethod
    def _append(sink: Sink, keys: NDArray[Any], cells: NDArray[Any]) -> None:
        order = np.lexsort((keys["bucket"], keys["nr"], keys["pid"]))
        keys, cells = keys[order], cells[order]
        low, high = bucket_bounds(keys["bucket"].astype(np.int64))
        sink.append(
            "syscalls",
            {
                "pid": keys["pid"].astype(np.int32),
                "comm": cells["comm"],
                "syscall": syscall_names(keys["nr"]),
                "bucket_low": low,
                "bucket_high": high,
                "count": cells["count"].astype(np.int64),
                "errors": cells["errors"].astype(np.int64),
                "total": cells["total"].astype(np.int64),
            },
        )
