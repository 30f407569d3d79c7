"""The ring buffer of user space against the kernel's: the same object, its producer's rate on one core.

Filling alternates between the two, so both see the same machine; the reader is the same as well. Then many producers
in processes of their own share the ring while it is read, every record is checked, and producers are killed in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.bench.result import BenchResult, Check, Row
from workbench.kernel.loaded import load as load_into_kernel
from workbench.kernel.ring import ColumnReader, Ring
from workbench.objects.model import builtin
from workbench.runtime.loaded import load as load_into_user_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.runtime.maps.rings import RingBuffer

__all__ = ("DESCRIPTION", "Checker", "run")

DESCRIPTION = "ring buffer of user space against the kernel's; many producers, some of them killed"
STRIDE = 48
PER_RUN = 64
RING_BYTES = 1 << 20
ROUNDS = 21
PRODUCERS = 4
RUNS = 20_000  # of each producer: 1.28 M records
KILLS = 40
_PR_SET_PDEATHSIG = 1


class Checker:
    """Records as they come: each producer's numbers without a gap, nothing torn.

    Attributes
    ----------
    received, bad : int
        Records seen; records that are torn or out of order.
    following : dict of int to int
        Producer -> the number that its next record must have.
    """

    def __init__(self) -> None:
        self.received = self.bad = 0
        self.following: dict[int, int] = {}

    def take(self, columns: dict[str, NDArray[Any]]) -> None:
        """Check a batch."""
        producer, number = columns["producer"], columns["number"]
        self.received += len(number)
        whole = (columns["check"] == producer ^ number) & (columns["end"] == ~number)
        self.bad += int(len(number) - whole.sum())
        for who in np.unique(producer):
            mine = number[producer == who]
            first = self.following.get(int(who), int(mine[0]))
            expected = np.arange(first, first + len(mine), dtype=np.uint64)
            self.bad += int((mine != expected).sum())
            self.following[int(who)] = int(mine[-1]) + 1


def _drain(reader: ColumnReader) -> int:
    total = 0
    while rows := reader.drain():
        total += rows
    return total


def _fill(loaded: Any, reader: ColumnReader) -> float:
    """Records per second of filling the empty ring once, by this thread's own time: others may want the processor."""
    runs = (RING_BYTES // STRIDE - PER_RUN) // PER_RUN
    begin = time.thread_time_ns()
    loaded.test_run("produce", repeat=runs)
    spent = (time.thread_time_ns() - begin) / 1e9
    made = _drain(reader)
    assert made == runs * PER_RUN, f"{made} records of {runs * PER_RUN}"
    return made / spent


def _rates(obj: Any, kernel: Any, user: Any) -> tuple[list[float], list[float]]:
    """Alternating: records per second of the kernel's producer and of ours, each round."""
    ring = Ring(*kernel.ring_fds["events"])
    try:
        readers = [
            ColumnReader(ring, obj.record_dtype("events")),
            ColumnReader(user.ring("events"), obj.record_dtype("events")),
        ]
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS + 3):
            for which, loaded in enumerate((kernel, user)):
                rates[which].append(_fill(loaded, readers[which]))
    finally:
        ring.close()
    return rates[0][3:], rates[1][3:]


def _child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives the benchmark
        work()
        status = 0
    finally:
        os._exit(status)


def _refused(user: Any) -> int:
    return int(user.maps["counts"].table()[1]["refused"].sum())


class _Reading:
    """The ring and its reader, with everything that comes checked."""

    def __init__(self, ring: RingBuffer, reader: ColumnReader) -> None:
        self.ring, self.reader, self.checker = ring, reader, Checker()
        self.longest = 0.0
        self._last = time.monotonic()

    def once(self) -> None:
        """Read what waits; notes the longest time in which nothing came."""
        self.ring.wait(0.001)  # producers wake nobody
        if rows := self.reader.drain():
            now = time.monotonic()
            self.longest, self._last = max(self.longest, now - self._last), now
            self.checker.take(self.reader.take(rows))

    def restart(self) -> None:
        self._last, self.longest = time.monotonic(), 0.0


def _together(user: Any, reading: _Reading) -> tuple[int, int, float]:
    """Producers in processes of their own: (records offered, refused because the ring was full, records per second)."""
    before, received = _refused(user), reading.checker.received
    ring = reading.ring

    def work() -> None:
        for turn in range(RUNS // 50):
            if turn % 20:  # the twentieth does not care whether there is room
                while ring.waiting > RING_BYTES // 2:
                    os.sched_yield()
            user.test_run("produce", repeat=50)

    begin = time.monotonic()
    working = {_child(work) for _ in range(PRODUCERS)}
    while working:
        reading.once()
        for pid in tuple(working):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0, f"a producer ended with status {status}"
                working.discard(pid)
    while reading.ring.waiting:
        reading.once()
    spent = time.monotonic() - begin
    got = reading.checker.received - received
    return PRODUCERS * RUNS * PER_RUN, _refused(user) - before, got / spent


def _killed(user: Any, reading: _Reading) -> int:
    """Kill producers while others work; how many were killed. Every second one dies between reserve and submit."""
    ring = reading.ring

    def for_ever() -> None:
        while True:
            user.test_run("produce", repeat=10)

    def dies_holding_a_record() -> None:
        while not ring.reserve(40):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGKILL)

    working = [_child(for_ever) for _ in range(2)]
    reading.restart()
    try:
        for number in range(KILLS):
            if number % 2:
                victim = _child(dies_holding_a_record)
            else:
                victim = working.pop(0)
                os.kill(victim, signal.SIGKILL)
                working.append(_child(for_ever))
            while os.waitpid(victim, os.WNOHANG) == (0, 0):  # it may wait for room
                reading.once()
            goal = reading.checker.received + 20_000
            while reading.checker.received < goal:  # the others go on
                reading.once()
    finally:
        for pid in working:
            os.kill(pid, signal.SIGKILL)
        for pid in working:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    while ring.waiting:
        reading.once()
    return KILLS + 2


def run() -> BenchResult:
    """Measure; needs the privilege to load BPF for the kernel's side."""
    obj = builtin("bench_ring_user")
    sizes = {"events": RING_BYTES}
    with (
        load_into_kernel(obj, map_sizes=sizes) as kernel,
        load_into_user_space(obj, map_sizes=sizes) as user,
    ):
        theirs, ours = _rates(obj, kernel, user)
        ring = user.ring("events")
        reading = _Reading(ring, ColumnReader(ring, obj.record_dtype("events")))
        offered, refused, shared = _together(user, reading)
        unaccounted = offered - refused - reading.checker.received
        killed = _killed(user, reading)
        abandoned, bad, left = ring.abandoned, reading.checker.bad, ring.waiting
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    ratio = statistics.median(ratios)
    rows = (
        Row("user space, one core", statistics.median(ours) / 1e6, "M records/s", "kernel", ratio),
        Row("kernel, one core", statistics.median(theirs) / 1e6, "M records/s"),
        Row("lowest ratio of a round", ratios[0], "x kernel"),
        Row("highest ratio of a round", ratios[-1], "x kernel"),
        Row(f"{PRODUCERS} processes into one ring, received", shared / 1e6, "M records/s"),
        Row("records refused because the ring was full", refused, f"of {offered:,}, counted"),
        Row("records neither received nor counted", unaccounted, f"of {offered:,}"),
        Row("producers killed", killed, f"{abandoned} left a record unsubmitted"),
        Row("longest wait for a record while they were killed", reading.longest * 1e3, "ms"),
    )
    checks = (
        Check.at_least("user space / kernel", ratio, 4),
        Check.at_most("records neither received nor counted", abs(unaccounted), 0),
        Check.at_most("records torn or out of order", bad, 0),
        Check.at_least("records abandoned by killed producers", abandoned, KILLS // 2),
        Check.at_most("bytes stuck behind dead producers", left, 0),
        Check.at_most("longest wait for a record, s", reading.longest, 2),
    )
    return BenchResult("ring-user", rows, checks)
