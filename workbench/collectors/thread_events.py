"""One perf event per thread of the target, or per CPU of the machine, without a gap for threads made meanwhile."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from workbench.collectors.sideband import online_cpus
from workbench.collectors.target import descendants, threads
from workbench.errors import TargetGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.collectors.base import Target

__all__ = ("open_on_target",)


def open_on_target(target: Target, open_event: Callable[[int, int, tuple[str, ...]], int]) -> list[int]:
    """Open an inherited event on every thread of the target.

    Threads and (with `follow`) processes that a covered thread makes inherit its event; those that a thread made
    before it was covered are found by the next look.

    Parameters
    ----------
    target : Target
    open_event : callable
        Called with thread id, CPU (one of them is -1) and the flags that inheritance needs; returns the event.

    Raises
    ------
    TargetGone
        No thread is left.
    """
    if target.machine:
        return [open_event(-1, cpu, ()) for cpu in online_cpus()]
    flags = ("inherit",) if target.follow else ("inherit", "inherit_thread")
    covered, events = {target.left_out}, []
    while True:
        if target.follow:
            target.pids |= descendants(target.pids)
        new = {tid for pid in target.pids for tid in threads(pid)} - covered
        if not new:
            break
        for tid in sorted(new):
            with contextlib.suppress(TargetGone):
                events.append(open_event(tid, -1, flags))
        covered |= new
    if not events:
        raise TargetGone(
            f"process {target.pid} exited while it was being attached", "start it again"
        )
    return events
