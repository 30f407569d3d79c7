"""Fires the timers of programs (bpf_timer_*): a thread of the process that loaded them.

A timer that a program starts, in this process or in a target, is known through the namespace's ring `.timers`. A record
names addresses of the process that wrote it; what is known here of that process makes addresses of ours of them. They
are checked against the programs and maps that were registered: a damaged ring fires nothing.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import struct
import threading
import time
from collections.abc import Callable, Container, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.native import core

if TYPE_CHECKING:
    from workbench.runtime.maps import Map, Space

__all__ = ("RING", "Started", "Timers")

#: The ring, to be created before a program that starts timers runs.
RING = LinkedMap(".timers", 27, 0, 0, 1 << 16)
_RECORD = struct.Struct("<QQQQQII")
_STOP = b"stop"
_BUSY = -16
_RETRY = 0.001


class Started(NamedTuple):
    """struct wb_timer_start: a timer was started. Addresses are those of process `pid`.

    `expires` is in ns of CLOCK_MONOTONIC; `program` is the one that started the timer, not always the callback's.
    """

    expires: int
    timer: int
    state: int
    callback: int
    program: int
    pid: int
    unused: int = 0


class Timers:
    """The thread that fires timers of one namespace; use as a context manager.

    Parameters
    ----------
    space : Space
    maps : iterable of Map
        Those whose values hold timers; `add` takes more.
    ring : Map, optional
        Made of `RING`; by default one that is made here.
    elsewhere : callable, optional
        Makes a record of another process, or one with a callback of another process, one of this process; None = it
        cannot be known.

    Attributes
    ----------
    ring : Map
        To be opened by every process whose programs start timers.
    fired, refused : int
        Callbacks that ran; records that named what is not known here.
    """

    def __init__(
        self,
        space: Space,
        maps: Iterable[Map] = (),
        *,
        ring: Map | None = None,
        elsewhere: Callable[[Started], Started | None] | None = None,
    ) -> None:
        from workbench.native.ring_reader import RecordReader

        self.ring = space.create(RING) if ring is None else ring
        known: Any = self.ring
        self._space, self._ring, self._maps = space, known, list(maps)
        self._elsewhere = elsewhere
        self._reader = RecordReader(known, 1 << 16, 1024)
        self._programs: dict[int, Callable[[], Container[int]]] = {}
        self._due: list[tuple[int, int, Started]] = []
        self._count = 0
        self._firing = threading.Lock()
        self.fired = self.refused = 0
        self._fire = core().wb_timer_fire
        self._fire.restype = ctypes.c_int64
        self._fire.argtypes = (ctypes.c_void_p,) * 3
        self._thread = threading.Thread(target=self._run, name="bpf timers", daemon=True)
        self._thread.start()

    def add(
        self, program: int, callbacks: Callable[[], Container[int]], maps: Iterable[Map] = ()
    ) -> None:
        """Let callbacks of a program run.

        Parameters
        ----------
        program : int
            Address of its `struct wb_program`.
        callbacks : callable
            Gives the addresses of its functions that a timer may call: no other address is jumped to.
        maps : iterable of Map
            Those whose values hold its timers.
        """
        with self._firing:
            self._programs[program] = callbacks
            known = set(map(id, self._maps))
            self._maps += [one for one in maps if id(one) not in known]

    def remove(self, programs: Iterable[int], maps: Iterable[Map]) -> None:
        """Programs and maps are about to go: none of their callbacks runs when this returns, or later."""
        gone = set(map(id, maps))
        with self._firing:
            for program in programs:
                self._programs.pop(program, None)
            self._maps = [one for one in self._maps if id(one) not in gone]

    def close(self) -> None:
        """Stop the thread; what is still armed does not fire any more. Safe to call twice."""
        while self._thread.is_alive():
            self._ring.output(_STOP)  # again where the ring is full
            self._thread.join(1)

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
                _, _, started = heapq.heappop(self._due)
                self._one(run, started, now)
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
                if length != _RECORD.size:
                    continue
                own = self._own(Started(*_RECORD.unpack(record)))
                if own is None:
                    self.refused += 1
                else:
                    self._push(own.expires, own)
        return True

    def _own(self, started: Started) -> Started | None:
        """The record with addresses of this process."""
        if started.pid == os.getpid() and self._program_of(started.callback):
            return started
        return self._elsewhere(started) if self._elsewhere is not None else None

    def _program_of(self, callback: int) -> int:
        for program, callbacks in list(self._programs.items()):
            if callback in callbacks():
                return program
        return 0

    def _push(self, expires: int, started: Started) -> None:
        self._count += 1
        heapq.heappush(self._due, (expires, self._count, started))

    def _one(self, run: int, started: Started, now: int) -> None:
        with self._firing:
            timer = started.timer
            found = next(
                (
                    one
                    for one in self._maps
                    if 0 <= timer - (one.struct.segment or 0) < one.struct.length
                ),
                None,
            )
            program = self._program_of(started.callback)
            if found is None or not program:
                self.refused += 1
                return
            record = _RECORD.pack(*started._replace(program=program))
            held = ctypes.create_string_buffer(record, len(record))
            result = self._fire(run, found.handle, held)
        if result == _BUSY:
            self._push(now + int(_RETRY * 1e9), started)
        elif result == 1:
            self.fired += 1
