"""What is recorded of one target, from the first attach to the last row: collectors, processes, window and writer.

The order at the end is the same whatever ends it: close the window, detach every probe, drain once more, finish.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from workbench.collectors import together
from workbench.collectors.jit_maps import perf_maps
from workbench.collectors.processes import Processes
from workbench.collectors.twice import overlaps
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workbench.collectors.base import Collector, Target
    from workbench.frames.manifest import Status
    from workbench.frames.recording import Recording
    from workbench.frames.writer import RecordingWriter

__all__ = ("Capture",)

FLUSH_SECONDS = 1.0
TIMER_NAME = "wb-timer"
FIRST_SECONDS, CHECKPOINT_SECONDS, _SHARE = 0.5, 2.0, 20
"""Counts in maps are kept after the first time that often, and at most for one part in `_SHARE` of the time."""


class _Kept:
    """A sink that remembers what it was given."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Mapping[str, Any]]] = []

    def append(self, frame: str, columns: Mapping[str, Any]) -> None:
        self.rows.append((frame, columns))


class Capture:
    """One target being recorded.

    Parameters
    ----------
    target : Target
    collectors : sequence of Collector
    writer : RecordingWriter

    Attributes
    ----------
    begin, end : float
        Of the window, in seconds of `time.monotonic`; 0 before.
    """

    def __init__(
        self, target: Target, collectors: Sequence[Collector], writer: RecordingWriter
    ) -> None:
        self.target, self.writer = target, writer
        self._collectors = collectors
        self._attached: list[Collector] = []
        self._processes: Processes | None = None
        self._flushed = 0.0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._warnings: list[str] = []
        self._counting: list[str] = []
        self._checkpoint = 0.0
        self.begin = self.end = 0.0

    def attach(self) -> None:
        """Attach every collector; nothing is recorded yet."""
        target, writer = self.target, self.writer
        target.window.hold()
        wants_data = any(getattr(one, "data_mappings", False) for one in self._collectors)
        self._processes = Processes(target, writer, data=wants_data)
        self._processes.start()
        writer.flush()  # loads all that writing needs, before any event waits for it
        for one in self._collectors:
            one.attach(target, writer)  # one that fails undoes itself
            self._attached.append(one)
        self._warnings = overlaps(self._collectors)
        self.note()
        self._keep_code_names()
        self._counting = together.counting(self._collectors)
        if self._counting:
            writer.note(counted_in_maps=self._counting)
        if self._warnings:
            writer.note(warnings=self._warnings)
        self._prepare_unwinder()
        writer.begin()

    def _prepare_unwinder(self) -> None:
        """Load unwind tables before the command runs, so that the first samples need not wait for them."""
        if self.target.unwinding:
            for pid in sorted(self.target.pids):
                with contextlib.suppress(WorkbenchError, OSError):
                    self.target.unwinder().prepare(pid)

    def _keep_code_names(self) -> dict[int, bytes]:
        """Names of our own code in the recorded processes (user space), which is gone once it is detached."""
        names: dict[int, bytes] = {}
        if self.target.backend == "userspace":
            from workbench.runtime.attach.names import code_names

            for loaded in self.target.window.loaded:
                names |= code_names(loaded)
        for pid, content in names.items():
            with contextlib.suppress(WorkbenchError):
                self.writer.attach_file(f"perf-{pid}.map", content)
        return names

    def undo(self) -> None:
        """Attaching failed: leave nothing behind."""
        together.undo(self._attached)
        if self._processes is not None:
            with contextlib.suppress(WorkbenchError, OSError):
                self._processes.finish()
        self.writer.discard()

    def open(self, seconds: float | None = None) -> None:
        """Let all collectors record, from the same moment on, for that long or until `close`."""
        now = self.writer.begin(save=False)
        self.target.window.open(now.monotonic_ns)
        self._flushed = self.begin = now.monotonic_ns / 1e9
        self._checkpoint = self.begin + FIRST_SECONDS
        if seconds is not None and self.target.pid != os.getpid():  # there the timer would be recorded
            self._timer = threading.Timer(seconds, self.close)  # draining may last
            self._timer.name, self._timer.daemon = TIMER_NAME, True
            self._timer.start()

    def close(self) -> None:
        """No collector records any more, from the same moment on; harmless twice."""
        with self._lock:
            if not self.end:
                now = self.writer.end()
                self.target.window.close(now.monotonic_ns)
                self.end = now.monotonic_ns / 1e9
        if self._timer is not None:
            self._timer.cancel()

    def note(self) -> None:
        """What collectors say of themselves, into the manifest."""
        self.writer.note(**together.notes(self._collectors))

    def drain(self) -> None:
        """Move what has arrived into the writer, and from time to time to the disk.

        Raises
        ------
        RunFailed
            The disk is full or broken.
        """
        assert self._processes is not None
        together.drain(self._collectors, self._processes)
        now = time.monotonic()
        if now - self._flushed >= FLUSH_SECONDS:
            self.writer.flush()
            self._flushed = now
        if self.writer.failure is not None:
            raise self.writer.failure
        if now >= self._checkpoint:
            self.checkpoint()
            self._checkpoint = max(now + CHECKPOINT_SECONDS, _SHARE * (time.monotonic() - now) + now)

    def checkpoint(self) -> None:
        """Keep what is counted in maps as it is now: it is not lost with this process."""
        if self._counting:
            kept: Any = _Kept()
            together.checkpoint(self._collectors, kept)
            self.writer.checkpoint(kept.rows)

    def detach(self) -> list[Exception]:
        """Close the window, remove every probe and take what is left; the errors."""
        assert self._processes is not None
        self.close()
        ours = self._keep_code_names()
        errors = [*together.each(self._collectors, "detach")]
        with contextlib.suppress(WorkbenchError):
            self._processes.drain(last=True)
        for step in ("drain", "finish"):
            errors += together.each(self._collectors, step)
        with contextlib.suppress(WorkbenchError, OSError):
            self._processes.finish()
        since = time.time() - (time.monotonic() - self.begin)
        for pid, content in perf_maps(self._processes.seen, since):
            with contextlib.suppress(WorkbenchError):
                self.writer.attach_file(f"perf-{pid}.map", content + ours.get(pid, b""))
        return errors

    def finish(
        self,
        status: Status,
        reason: str,
        *,
        exit_status: int | None,
        progress: Callable[[float, str], None],
    ) -> Recording:
        """Write the last notes and the recording; `reason` is why it ended."""
        with contextlib.suppress(WorkbenchError):  # the disk is full: `finish` says so
            self.note()
            self.writer.note(exit_status=exit_status, ended_by=reason or "stopped")
        return self.writer.finish(status, reason if status != "complete" else "", progress=progress)
