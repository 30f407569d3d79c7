"""Set the scope filter of system-wide hooks (bpf/scope.h) to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from workbench.collectors.base import Target
    from workbench.kernel.loaded import Loaded

__all__ = ("constants", "enter_scope")


def constants(target: Target) -> dict[str, int]:
    """Knobs of bpf/scope.h for `load`."""
    # In user space the scope is what was entered; children have their parent's hooks.
    everything = target.follow if target.backend == "userspace" else target.machine
    return {
        "scope_machine": everything,
        "scope_follow": target.follow,
        "scope_left_out": 0 if target.machine else target.left_out,
    }


def enter_scope(loaded: Loaded, target: Target) -> None:
    """Put the target's processes in scope and follow forks; call it before the collector's own hooks attach."""
    if target.machine or (target.backend == "userspace" and target.follow):
        return
    pids = np.array(sorted(target.pids), np.uint32)
    loaded.maps["targets"].update_many(pids, np.ones(len(pids), np.uint8))
    if target.backend == "userspace":
        return
    if target.follow:
        loaded.attach_raw_tracepoint("scope_fork", "sched_process_fork")
    loaded.attach_raw_tracepoint("scope_exit", "sched_process_exit")
