"""The contract between the recorder and a collector, and what both know of the target.

Life of a recording
-------------------
1. The recorder resolves the `Target`. A command is started and held at its program entry (shared libraries mapped,
   no line of the program run yet), so that every symbol has an address before the first event.
2. Every collector's `attach` runs; the first that fails detaches the others and the error reaches the user.
3. The window is opened (`window`): all programs begin together, and the target is let go. The recorder waits on the
   collectors' `wake_fds` and a timer, and calls `drain` on each. `drain` moves what is there into the sink in batches
   of numpy columns, never one event at a time.
4. On exit of the target, on `seconds`, on Stop or on an interrupt: the window is closed, `detach` on each (no probe
   remains), one last `drain`, then `finish`, which appends what lives in kernel maps, and the rows of `losses` and
   `overhead`.
`detach` and `finish` are called exactly once, whatever failed before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from workbench.collectors.window import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from workbench.frames.unwind import Unwinder

__all__ = ("Collector", "Counters", "Sink", "Target")


@dataclass(slots=True)
class Target:
    """What is observed: one process with its threads and later children, or the whole machine.

    Parameters
    ----------
    pid : int or None
        Root process; None for the whole machine.
    command : tuple of str
        The command that the workbench started, empty when it attached to a pid.
    follow : bool
        Processes forked from the root are observed as well.
    """

    pid: int | None
    command: tuple[str, ...] = ()
    follow: bool = True
    pids: set[int] = field(default_factory=set)
    """Every process in scope right now; the recorder adds children and keeps those that exited out."""
    backend: str = "kernel"
    """Where programs run: kernel, or userspace (in the target's own processes)."""
    left_out: int = 0
    """Thread of the recorder itself: not observed when the target is the process that records; 0 if there is none."""
    window: Window = field(default_factory=Window)
    """When the programs of all collectors record; always, unless a recorder holds them back until all are attached."""
    others: set[int] = field(default_factory=set)
    """Processes out of scope that a collector saw on a stack (a waker); the recorder records their mappings."""
    _unwinder: Unwinder | None = None

    @property
    def machine(self) -> bool:
        """True for a recording of the whole machine."""
        return self.pid is None

    def unwinder(self) -> Unwinder:
        """The unwinder that all collectors of this target share; the recorder keeps its mappings current."""
        if self._unwinder is None:
            from workbench.frames.unwind import Unwinder

            self._unwinder = Unwinder()
        return self._unwinder

    @property
    def unwinding(self) -> bool:
        """True once a collector asked for the unwinder."""
        return self._unwinder is not None


class Sink(Protocol):
    """Where a collector puts what it saw. Implemented by the recording writer."""

    def append(self, frame: str, columns: Mapping[str, Any]) -> None:
        """Append rows to `frame`: equally long columns, all recorded columns of its schema.

        Text columns may be sequences of str, arrays of dtype ``S``/``O``, pyarrow dictionary arrays, or a tuple
        ``(codes, names)``.
        The arrays may be reused by the caller as soon as this returns.
        """

    def intern(
        self,
        pids: NDArray[np.int32],
        addresses: NDArray[np.uint64],
        lengths: NDArray[np.int32],
        times: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int32]:
        """Stack ids for a batch of stacks.

        Parameters
        ----------
        pids : int32, shape (n,)
            Process of each stack.
        addresses : uint64, shape (sum of lengths,)
            All stacks end to end, innermost frame first, kernel frames (>= 1 << 63) before user
            frames. Each is an instruction that was running: the caller has already subtracted 1
            from return addresses, that is from all but the first kernel and the first user frame.
        lengths : int32, shape (n,)
            Frames of each stack; 0 gives id -1.
        times : int64, shape (n,), optional
            When each was taken, in ns of CLOCK_MONOTONIC: tells the mappings before an exec from
            those after it. Without, it is now.
        """

    def declare(self, frame: str, name: str, dtype: str, unit: str, meaning: str) -> None:
        """Declare an extra column of an open frame before it is first appended."""


@dataclass(slots=True)
class Counters:
    """Live numbers of one collector for progress lines and the widget."""

    events: int = 0
    lost: int = 0


class Collector(Protocol):
    """One recipe. Constructed from a parsed specification; touches nothing until `attach`."""

    name: str
    counters: Counters

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of the frames this collector fills."""

    def attach(self, target: Target, sink: Sink) -> None:
        """Load, attach and begin to record. On an exception nothing may stay attached."""

    def attach_process(self, pid: int) -> None:
        """A process came into scope (fork in a followed target); attach to it if events do not follow by themselves."""

    def wake_fds(self) -> tuple[int, ...]:
        """File descriptors that become readable when there is something to drain."""

    def drain(self) -> int:
        """Move what has arrived into the sink; returns the number of rows. Never blocks."""

    def detach(self) -> None:
        """Remove every probe. What was already recorded stays in the rings for one last `drain`."""

    def finish(self) -> None:
        """After the last drain: append map contents, `losses` and `overhead` rows, and close everything."""
