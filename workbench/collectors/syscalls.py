"""System call latency, counted in kernel maps: frame `syscalls`, one row per process, call and latency bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors import scope
from workbench.collectors.base import Counters
from workbench.collectors.cost import RunCost
from workbench.collectors.syscall_names import syscall_names
from workbench.kernel.loaded import Loaded, load
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("SyscallsCollector", "bucket_bounds")


def bucket_bounds(buckets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[low, high) in ns of log-linear buckets: 0-3 hold that many ns, then four buckets per octave."""
    bit, part = buckets // 4 + 1, buckets % 4
    width = np.left_shift(1, np.maximum(bit - 2, 0))
    low = np.where(buckets < 4, buckets, (4 + part) * width)
    return low, low + np.where(buckets < 4, 1, width)


class SyscallsCollector:
    """Counts system calls by latency; nothing is sent per call, so it suits busy targets and long times.

    Calls that were entered before the recording began, or have not returned when it ends, are not counted.
    """

    SUMMARY = "system call latency histograms, counted in the kernel (frame syscalls)"
    USAGE = "syscalls"

    name = "syscalls"
    frames = ("syscalls",)

    def __init__(self) -> None:
        self.counters = Counters()
        self._loaded: Loaded | None = None

    @classmethod
    def from_spec(cls, spec: Spec) -> SyscallsCollector:
        spec.done()
        return cls()

    def attach(self, target: Target, sink: Sink) -> None:
        self._sink = sink
        self._loaded = loaded = load(builtin("syscalls"), constants=scope.constants(target))
        try:
            self._cost = RunCost(loaded)
            scope.enter_scope(loaded, target)
            loaded.attach_raw_tracepoint("syscall_exit", "sys_exit")
            loaded.attach_raw_tracepoint("syscall_enter", "sys_enter")
        except BaseException:
            loaded.close()
            raise

    def attach_process(self, pid: int) -> None:
        """The fork hook has put it in scope already."""

    def wake_fds(self) -> tuple[int, ...]:
        return ()

    def drain(self) -> int:
        if self._loaded is None:
            return 0
        self._cost.look()
        before = self.counters.events
        self.counters.events = int(self._loaded.globals["calls"][()])
        self.counters.lost = int(self._loaded.globals["lost_map_full"][()])
        return self.counters.events - before

    def detach(self) -> None:
        if self._loaded is not None:
            self._cost.stop()
            self._loaded.detach()

    def finish(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        keys, cells = loaded.maps["cells"].table()
        order = np.lexsort((keys["bucket"], keys["nr"], keys["pid"]))
        keys, cells = keys[order], cells[order]
        low, high = bucket_bounds(keys["bucket"].astype(np.int64))
        self._sink.append(
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
        self._sink.append(
            "losses",
            {
                "collector": ["syscalls"],
                "frame": ["syscalls"],
                "cause": ["map full"],
                "lost": np.array([int(loaded.globals["lost_map_full"][()])], np.int64),
            },
        )
        self._sink.append("overhead", self._cost.rows("syscalls"))
        loaded.close()
