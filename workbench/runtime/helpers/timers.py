"""Fires the timers of programs (bpf_timer_*): a thread of the process that loaded them.

A timer started here or by a program in another thread of this process is known through the namespace's ring `.timers`.
Records are checked against the programs and maps that were registered: a damaged ring fires nothing.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.native import core

if TYPE_CHECKING:
    from workbench.runtime.maps import Map, Space

__all__ = ("RING", "Timers")

#: The ring, to be created before a program that starts timers runs.
RING = LinkedMap(".timers", 27, 0, 0, 1 << 16)
_RECORD = struct.Struct("<QQQQQII")  # struct wb_timer_start
_STOP = b"stop"
_BUSY = -16
_RETRY = 0.001


class Timers:
    """The thread that fires timers of one namespace; use as a context manager.

    Parameters
    ----------
    space : Space
    maps : sequence of Map
        Those whose values hold timers.

    Attributes
    ----------
    fired, refused : int
        Callbacks that ran; records that named what was not registered (another process's timers are among them).
    """

    def __init__(self, space: Space, maps: Sequence[Map]) -> None:
        from workbench.native.ring_reader import RecordReader

        ring: Any = space.create(RING)
        self._space, self._ring, self._maps = space, ring, list(maps)
        self._reader = RecordReader(ring, 1 << 16, 1024)
        self._programs: dict[int, Callable[[], Iterable[tuple[int, int]]]] = {}
        self._due: list[tuple[int, int, bytes]] = []
        self._count = 0
        self.fired = self.refused = 0
        self._fire = core().wb_timer_fire
        self._fire.restype = ctypes.c_int64
        self._fire.argtypes = (ctypes.c_void_p,) * 3
        self._thread = threading.Thread(target=self._run, name="bpf timers", daemon=True)
        self._thread.start()

    def add(self, program: int, code: Callable[[], Iterable[tuple[int, int]]]) -> None:
        """Let a program's timers fire.

        Parameters
        ----------
        program : int
            Address of its `struct wb_program`.
        code : callable
            Gives (address, bytes) of every piece of its code that is mapped now; callbacks must lie in one of them.
        """
        self._programs[program] = code

    def close(self) -> None:
        """Stop the thread; what is still armed does not fire any more. Safe to call twice."""
        if self._thread.is_alive():
            self._ring.output(_STOP)
            self._thread.join()

    def __enter__(self) -> Timers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        from workbench.runtime.maps import current_run

        run = current_run(self._space)
        while self._take():
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            while self._due and self._due[0][0] <= now:
                _, _, record = heapq.heappop(self._due)
                self._one(run, record, now)
            wait = (self._due[0][0] - now) / 1e9 if self._due else None
            self._ring.wait(None if wait is None else min(max(wait, 0.0), 3600.0))

    def _take(self) -> bool:
        """Put the ring's records into the heap; False when asked to stop."""
        while len(records := self._reader.drain()):
            data = records.buffer.tobytes()
            for start, length in zip(
                records.starts.tolist(), records.lengths.tolist(), strict=True
            ):
                record = data[start : start + length]
                if record == _STOP:
                    return False
                if length == _RECORD.size:
                    self._push(int.from_bytes(record[:8], "little"), record)
        return True

    def _push(self, expires: int, record: bytes) -> None:
        self._count += 1
        heapq.heappush(self._due, (expires, self._count, record))

    def _one(self, run: int, record: bytes, now: int) -> None:
        _, timer, _, callback, program, pid, _ = _RECORD.unpack(record)
        found = next(
            (
                one
                for one in self._maps
                if 0 <= timer - (one.struct.segment or 0) < one.struct.length
            ),
            None,
        )
        code = self._programs.get(program)
        if (
            found is None
            or code is None
            or pid != os.getpid()
            or not any(start <= callback < start + size for start, size in code())
        ):
            self.refused += 1
            return
        held = ctypes.create_string_buffer(record, len(record))
        result = self._fire(run, found.handle, held)
        if result == _BUSY:
            self._push(now + int(_RETRY * 1e9), record)
        elif result == 1:
            self.fired += 1
