"""bcc's ring buffer with its callback per event, as its users write it: the peer of `bench ring`.

The same record of 40 bytes, produced at each system call of this process; only the consuming side is timed.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from workbench.kernel.bcc import bcc_program

__all__ = ("callback_rate",)

EVENTS = 100_000
ROUNDS = 3
_TEXT = """
struct event { u64 time; u64 address; u32 pid, tid; u32 cpu, kind; u64 value; };
BPF_RINGBUF_OUTPUT(events, 4096);
RAW_TRACEPOINT_PROBE(sys_enter)
{
    u64 id = bpf_get_current_pid_tgid();
    if (id >> 32 != OWN)
        return 0;
    struct event *e = events.ringbuf_reserve(sizeof(struct event));
    if (!e)
        return 0;
    e->time = bpf_ktime_get_ns(); e->address = 1; e->pid = id >> 32; e->tid = id; e->cpu = 2; e->kind = 3; e->value = 4;
    events.ringbuf_submit(e, 0);
    return 0;
}
"""


def callback_rate() -> float:
    """Events per second through `b["events"].event(data)`, collected as tuples; median of rounds.

    Raises
    ------
    MissingCapability
        bcc, its headers or the tracepoint are not there.
    """
    rates = []
    with bcc_program(_TEXT, cflags=[f"-DOWN={os.getpid()}"]) as program:
        rows: list[tuple[Any, ...]] = []
        ring = program.bpf["events"]

        def on_event(_context: Any, data: Any, _size: int) -> None:
            event = ring.event(data)
            rows.append(
                (
                    event.time,
                    event.address,
                    event.pid,
                    event.tid,
                    event.cpu,
                    event.kind,
                    event.value,
                )
            )

        ring.open_ring_buffer(on_event)
        for _ in range(ROUNDS + 1):
            rows.clear()
            for _ in range(EVENTS):
                os.getppid()
            begin = time.perf_counter()
            program.bpf.ring_buffer_consume()
            rates.append(len(rows) / (time.perf_counter() - begin))
    return statistics.median(rates[1:])
