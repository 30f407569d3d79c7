"""What the two ways of receiving hits have in common: by a BPF program, or by SIGTRAP in the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.watch.slots import Place

__all__ = ("KNOWS_AFTER", "KNOWS_BEFORE", "KNOWS_CODE", "LATE", "Backend", "Hits")

KNOWS_BEFORE, KNOWS_AFTER, KNOWS_CODE = 1, 2, 4
LATE = 8
"""The signal was blocked and came later: registers and instruction pointer are not those of the access."""


@dataclass(slots=True)
class Hits:
    """A batch of n hits.

    Attributes
    ----------
    columns : dict
        ``time`` int64, ``pid``, ``tid``, ``cpu`` int32, ``comm`` bytes, ``address``, ``size``, ``before``, ``after``
        uint64, ``flags`` uint32; each of shape (n,).
    registers : uint64, shape (n, registers)
    code : uint8, shape (n, bytes)
    stacks : object
        What the backend needs for `Backend.stack_ids`.
    """

    columns: dict[str, NDArray[Any]]
    registers: NDArray[np.uint64]
    code: NDArray[np.uint8]
    stacks: Any

    def __len__(self) -> int:
        return len(self.columns["time"])


class Backend(Protocol):
    """Receives hits."""

    mode: str
    token: int
    """What the events' signal data say (sigtrap), else 0."""

    def begin(self, target: Target, sink: Sink) -> None:
        """Before the first event is opened."""

    def connect(self, event: int) -> None:
        """Take the hits of a breakpoint event (a descriptor that stays the caller's)."""

    def watch(self, slot: int, place: Place) -> None:
        """A slot is about to watch `place`, which no other slot watches."""

    def count(self, place: Place) -> tuple[int, int]:
        """Traps taken and hits recorded since `watch` of this place, which is no longer watched."""

    def allow(self, budget: int, share: int) -> None:
        """Hits that may be recorded in all, and in this rate window."""

    def renew(self, share: int) -> None:
        """A new rate window."""

    @property
    def spent(self) -> bool:
        """The budget is spent: nothing more will be recorded."""

    @property
    def paused(self) -> bool:
        """This rate window's share is spent."""

    def remember(self, pid: int, place: Place, value: int) -> None:
        """What is at `place` now."""

    def wake_fds(self) -> tuple[int, ...]:
        """Descriptors that become readable when the reader should come."""

    def drain(self) -> Hits | None:
        """A batch, None when nothing waits."""

    def stack_ids(self, hits: Hits, leaf: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Interned stacks of a batch, the innermost frame replaced by `leaf`."""

    def losses(self) -> dict[str, int]:
        """Hits not recorded, by cause."""

    def taken(self) -> int:
        """Traps taken in all."""

    def close(self) -> None:
        """Release everything; safe to call twice."""
