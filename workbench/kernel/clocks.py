"""Events of the CPU clock that programs of section perf_event are attached to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import TargetGone
from workbench.kernel import perf

if TYPE_CHECKING:
    from workbench.kernel.loaded import Loaded

__all__ = ("attach_events", "interval_events", "sampling_events")


def sampling_events(hertz: int, pid: int | None) -> Iterator[int]:
    """`hertz` times a second of CPU time: one event per thread of a process, or one per CPU.

    Raises
    ------
    TargetGone
        There is no such process.
    """
    cpus = range(os.cpu_count() or 1) if pid is None else (-1,)
    try:
        tasks = (
            (-1,)
            if pid is None
            else tuple(int(one.name) for one in Path(f"/proc/{pid}/task").iterdir())
        )
    except (FileNotFoundError, ProcessLookupError):
        raise TargetGone(f"process {pid} does not exist", "check the pid; it may have exited") from None
    attributes = perf.EventAttributes(
        perf.SOFTWARE, perf.CPU_CLOCK, sample=1_000_000_000 // hertz,
        flags=("disabled",) if pid is None else ("disabled", "inherit"), wakeup=1,
    )  # fmt: skip
    for task in tasks:
        for cpu in cpus:
            yield perf.open_event(attributes, pid=task, cpu=cpu)


def interval_events(period: int) -> Iterator[int]:
    """Every `period` ns of wall-clock time: the clock of one CPU, which goes on while that is idle."""
    attributes = perf.EventAttributes(
        perf.SOFTWARE, perf.CPU_CLOCK, sample=period, flags=("disabled",), wakeup=1
    )
    yield perf.open_event(attributes, pid=-1, cpu=min(os.sched_getaffinity(0)))


def attach_events(loaded: Loaded, program: str, events: Iterable[int], cookie: int = 0) -> list[int]:
    """Attach a program to each event and enable it; descriptors to be closed in this order."""
    links = []
    for event in events:
        links.append(loaded.attach_perf_event(program, event, cookie=cookie))
        perf.enable(event)
    return [fd for link in links for fd in link.take()]
