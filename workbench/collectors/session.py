"""What the collectors of system-wide hooks and perf events have in common: a loaded object, its ring, its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.backend import load
from workbench.collectors.cost import Readings, RunCost
from workbench.kernel.ring import SpanReader
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workbench.collectors.base import Sink, Target
    from workbench.kernel.loaded import Loaded
    from workbench.kernel.ring import Records, Ring

__all__ = ("WAKE_BYTES", "Session")

WAKE_BYTES = 16 << 20
"""A quarter of the ring: what is left bridges the time until the reader runs. Below, the recorder's timer drains."""


class Session:
    """A built-in object from load to unload. Everything it holds is given back by `close`, whatever failed before.

    Parameters
    ----------
    target : Target
        What is recorded: says which backend runs the object.
    name : str
        The object.
    constants, map_sizes
        As for `kernel.loaded.load`.
    ring : str
        The ring to read, if it has one.
    """

    def __init__(
        self,
        target: Target,
        name: str,
        *,
        constants: Mapping[str, int | bool],
        map_sizes: Mapping[str, int] | None = None,
        ring: str = "",
    ) -> None:
        obj = builtin(name)
        self._ring: Ring | None = None
        self._cost: Readings | None = None
        self.attached = True
        """Until `detach`."""
        self.loaded: Loaded = load(target, obj, constants=constants, map_sizes=map_sizes)
        try:
            if ring:
                self._ring = self.loaded.ring(ring)
                self._reader = SpanReader(self._ring)
                self.dtype = obj.record_dtype(ring)
            self._cost = RunCost(target.window, self.loaded) if self.loaded.backend == "kernel" else None
        except BaseException:
            self.close()
            raise

    @property
    def fds(self) -> tuple[int, ...]:
        """What becomes readable when the ring fills up."""
        return (self._ring.fileno(),) if self._ring is not None else ()

    def look(self) -> None:
        """Take a reading of what the programs cost."""
        if self._cost is not None:
            self._cost.look()

    def measure(self, cost: Readings) -> None:
        """Measure the programs in another way than by the kernel's statistics."""
        self._cost = cost

    def batches(self) -> Iterator[Records]:
        """What waits in the ring now; each batch is valid until the next is asked for."""
        return self._reader.batches()

    def counter(self, name: str) -> int:
        """A counter of the programs."""
        return int(self.loaded.globals[name][()])

    def detach(self) -> None:
        """Remove every hook; maps and ring stay readable."""
        self.attached = False
        if self._cost is not None:
            self._cost.stop()
        self.loaded.detach()

    def last_rows(self, sink: Sink, collector: str, frame: str, losses: Mapping[str, str]) -> None:
        """Append the rows of `losses` (cause: counter) and `overhead`."""
        sink.append(
            "losses",
            {
                "collector": [collector] * len(losses),
                "frame": [frame] * len(losses),
                "cause": list(losses),
                "lost": np.array([self.counter(name) for name in losses.values()], np.int64),
            },
        )
        if self._cost is not None:
            rows: dict[str, Any] = self._cost.rows(collector)
            sink.append("overhead", rows)

    def close(self) -> None:
        """Detach and free everything; safe to call twice."""
        if self._cost is not None:
            self._cost.stop()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self.loaded.close()
