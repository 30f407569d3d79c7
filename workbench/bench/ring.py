"""Ring buffer to numpy columns, against memcpy of the same bytes and against bcc's callback per event.

Filling and draining alternate, so both sides see the same machine. The producer is a BPF program run by
BPF_PROG_TEST_RUN at the kernel's full rate for one core; records are 40 bytes (48 with the ring's header).
"""

from __future__ import annotations

import statistics
import threading
import time

import numpy as np

from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import WorkbenchError
from workbench.kernel.loaded import Loaded, load
from workbench.kernel.ring import ColumnReader, Ring
from workbench.objects.model import builtin

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = (
    "ring buffer to numpy columns, against memcpy and bcc; nothing lost at the kernel's full rate"
)
STRIDE = 48
PER_RUN = 64
ROUNDS = 9
SUSTAINED_SECONDS = 3.0


def _fill(loaded: Loaded, ring: Ring) -> int:
    """Produce until the ring is nearly full; the number of records waiting."""
    runs = (ring.size // STRIDE - PER_RUN) // PER_RUN
    loaded.test_run("produce", repeat=runs)
    return ring.waiting // STRIDE


def _drain(reader: ColumnReader) -> int:
    total = 0
    while rows := reader.drain():
        total += rows
    return total


def _rates(loaded: Loaded, ring: Ring, reader: ColumnReader) -> tuple[list[float], list[float]]:
    """Alternating: drain to columns, memcpy of the same span. Records per second of each round."""
    target = np.zeros(ring.size, np.uint8)
    span = ring.data_view()
    columns, copies = [], []
    for _ in range(ROUNDS + 1):
        _fill(loaded, ring)
        begin = time.perf_counter()
        records = _drain(reader)
        columns.append(records / (time.perf_counter() - begin))
        used = _fill(loaded, ring) * STRIDE
        begin = time.perf_counter()
        np.copyto(target[:used], span[:used])
        copies.append(used / STRIDE / (time.perf_counter() - begin))
        _drain(reader)
    return columns[1:], copies[1:]


def _sustained(loaded: Loaded, reader: ColumnReader) -> tuple[int, int, int, float]:
    """Producer and consumer at once: (produced, received, lost, producer's records per second)."""
    produced, lost = int(loaded.globals["produced"][()]), int(loaded.globals["lost_ring_full"][()])
    done = threading.Event()

    def produce() -> None:
        end = time.monotonic() + SUSTAINED_SECONDS
        while time.monotonic() < end:
            loaded.test_run("produce", repeat=2000)
        done.set()

    thread = threading.Thread(target=produce)
    begin = time.monotonic()
    thread.start()
    received = 0
    while not done.is_set():
        rows = reader.drain()
        received += rows
        if not rows:
            time.sleep(0.001)
    thread.join()
    seconds = time.monotonic() - begin
    received += _drain(reader)
    made = int(loaded.globals["produced"][()]) - produced
    return made, received, int(loaded.globals["lost_ring_full"][()]) - lost, made / seconds


def _counted_losses(loaded: Loaded, ring: Ring, reader: ColumnReader) -> tuple[int, int]:
    """Overrun the ring on purpose: (events offered, received + counted as lost)."""
    lost, produced = int(loaded.globals["lost_ring_full"][()]), int(loaded.globals["produced"][()])
    runs = 2 * ring.size // STRIDE // PER_RUN
    loaded.test_run("produce", repeat=runs)
    received = _drain(reader)
    dropped = int(loaded.globals["lost_ring_full"][()]) - lost
    assert received == int(loaded.globals["produced"][()]) - produced
    return runs * PER_RUN, received + dropped


def _bcc() -> tuple[float | None, str]:
    """bcc's per-event callback, records per second; None and why where bcc does not work here."""
    from workbench.bench.ring_bcc import callback_rate

    try:
        return callback_rate(), ""
    except WorkbenchError as error:
        return None, error.message.splitlines()[0]


def run() -> BenchResult:
    """Measure; needs the privilege to load BPF."""
    obj = builtin("bench_ring")
    with load(obj) as loaded:
        ring = Ring(*loaded.ring_fds["events"])
        try:
            reader = ColumnReader(ring, obj.record_dtype("events"))
            columns, copies = _rates(loaded, ring, reader)
            made, received, lost, rate = _sustained(loaded, reader)
            offered, accounted = _counted_losses(loaded, ring, reader)
        finally:
            ring.close()
    bcc, why_not = _bcc()
    ours, memcpy = statistics.median(columns), statistics.median(copies)
    ratios = sorted(a / b for a, b in zip(columns, copies, strict=True))
    rows = [
        Row(
            "ring to reused columns",
            ours / 1e6,
            "M records/s",
            "memcpy of the same bytes",
            ours / memcpy,
        ),
        Row("memcpy of the same bytes", memcpy / 1e6, "M records/s"),
        Row("lowest ratio of a round", ratios[0], "x memcpy"),
        Row("highest ratio of a round", ratios[-1], "x memcpy"),
        Row("kernel producer, one core, while drained", rate / 1e6, "M records/s"),
        Row("records lost at that rate", lost, f"of {made:,}"),
        Row("records unaccounted for in an overrun", offered - accounted, f"of {offered:,}"),
    ]
    checks = [
        Check.at_least("ring to columns / memcpy", ours / memcpy, 0.35),
        Check.at_most("lost at the producer's full rate", lost, 0),
        Check.at_most("produced but not received", made - received, 0),
        Check.at_most("losses not counted", offered - accounted, 0),
    ]
    if bcc is not None:
        rows.insert(
            2,
            Row(
                "bcc callback per event",
                bcc / 1e6,
                "M records/s",
                "ring to reused columns",
                bcc / ours,
            ),
        )
        checks.insert(1, Check.at_least("ring to columns / bcc", ours / bcc, 50))
    else:
        rows.append(Row("bcc", float("nan"), f"not compared: {why_not}"))
    return BenchResult("ring", tuple(rows), tuple(checks))
