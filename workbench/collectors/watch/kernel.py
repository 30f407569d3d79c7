"""Hits through a BPF program on the breakpoint events (bpf/watch.bpf.c)."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.stacks import StackReader
from workbench.collectors.watch.backend import Hits
from workbench.errors import MissingCapability
from workbench.kernel.loaded import Loaded, load
from workbench.kernel.maps import possible_cpus
from workbench.kernel.ring import RecordReader
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.watch.slots import Place

__all__ = ("KernelBackend",)

_SET_BPF = 0x40042408
_RING, _LARGE_RING = 16 << 20, 64 << 20  # the larger one for copies of stacks
_BATCH = 8192


class KernelBackend:
    """The BPF way: exact, with kernel accesses and unwound stacks; needs CAP_BPF and CAP_PERFMON (or root).

    Parameters
    ----------
    stacks : {"no", "fp", "dwarf"}
    copy : int
        Bytes of user stack copied for ``dwarf``.
    values : bool
        Read the value at every hit.
    """

    mode = "bpf"
    token = 0

    def __init__(self, *, stacks: str, copy: int, values: bool) -> None:
        self._obj = builtin("watch")
        self._stacks_mode, self._values = stacks, values
        ring = _LARGE_RING if stacks == "dwarf" else _RING
        self._loaded: Loaded | None = load(
            self._obj,
            constants={
                "want_values": values,
                "want_stacks": stacks != "no",
                "copy_bytes": copy if stacks == "dwarf" else 0,
                "wake_bytes": ring // 4,
            },
            map_sizes={"scratches": possible_cpus(), "hits": ring},
        )
        self._dtype = self._obj.record_dtype("hits")
        self._ring = self._loaded.ring("hits")
        self._reader = RecordReader(self._ring, buffer_bytes=ring // 4, capacity=_BATCH)
        self._stack_reader: StackReader | None = None
        self._final: tuple[dict[str, int], int] = ({}, 0)

    def begin(self, target: Target, sink: Sink) -> None:
        """Before the first event is opened."""
        unwinder = target.unwinder() if self._stacks_mode == "dwarf" else None
        self._stack_reader = StackReader(sink, unwinder)
        if self._values and target.follow:
            self._live.attach_raw_tracepoint("on_fork", "sched_process_fork")

    @property
    def _live(self) -> Loaded:
        if self._loaded is None:
            raise MissingCapability("this watch was closed")
        return self._loaded

    def connect(self, event: int) -> None:
        fcntl.ioctl(event, _SET_BPF, self._live.programs["on_access"].fd)

    def watch(self, slot: int, place: Place) -> None:
        places, armed = self._live.maps["places"], self._live.globals["armed"]
        places[place.address] = np.array((place.size, 0, 0), places.value_dtype)
        if slot < len(armed):
            armed[slot] = place.address

    def count(self, place: Place) -> tuple[int, int]:
        places = self._live.maps["places"]
        entry = places.pop(place.address, None)
        return (int(entry["hits"]), int(entry["recorded"])) if entry is not None else (0, 0)

    def allow(self, budget: int, share: int) -> None:
        self._live.globals["budget"][()] = budget
        self._live.globals["window"][()] = share

    def renew(self, share: int) -> None:
        self._live.globals["window"][()] = share

    @property
    def spent(self) -> bool:
        return int(self._live.globals["budget"][()]) <= 0

    @property
    def paused(self) -> bool:
        return int(self._live.globals["window"][()]) <= 0

    def remember(self, pid: int, place: Place, value: int) -> None:
        values = self._live.maps["values"]
        values[np.array((place.address, pid, 0), values.key_dtype)] = value

    def wake_fds(self) -> tuple[int, ...]:
        return (self._ring.fileno(),) if self._loaded is not None else ()

    def drain(self) -> Hits | None:
        if self._loaded is None:
            return None
        records = self._reader.drain()
        if not len(records):
            return None
        head = records.head(self._dtype)
        columns: dict[str, NDArray[Any]] = {
            "time": head["time"].astype(np.int64),
            **{name: head[name].astype(np.int32) for name in ("pid", "tid", "cpu")},
            **{
                name: head[name] for name in ("comm", "address", "size", "before", "after", "flags")
            },
        }
        return Hits(columns, head["registers"], head["code"], (records, head["stack"]))

    def stack_ids(self, hits: Hits, leaf: NDArray[np.uint64]) -> NDArray[np.int32]:
        if self._stacks_mode == "no" or self._stack_reader is None:
            return np.full(len(hits), -1, np.int32)
        records, stack = hits.stacks
        return self._stack_reader.ids(
            records, hits.columns["pid"], stack, self._dtype.itemsize, leaf=leaf,
            times=hits.columns["time"],
        )  # fmt: skip

    def _global(self, name: str) -> int:
        return int(self._live.globals[name][()])

    def losses(self) -> dict[str, int]:
        if self._loaded is None:
            return self._final[0]
        return {
            "ring full": self._global("lost_ring_full"),
            "hit budget spent": self._global("lost_budget_spent"),
            "hit rate limited": self._global("lost_rate_limited"),
        }

    def taken(self) -> int:
        return self._final[1] if self._loaded is None else self._global("taken")

    def close(self) -> None:
        if self._loaded is None:
            return
        self._final = (self.losses(), self.taken())
        loaded: Any = self._loaded
        self._loaded = None
        self._ring.close()
        loaded.close()
