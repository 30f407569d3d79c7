"""What the loaded objects of this process share: one namespace for those that name none, one way into each target.

Two objects that probe one function must see each other's jumps, and a thread of the target joins one namespace: so
there is one `Process` for each target, counted, and it is left when the last object goes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, WorkbenchError
from workbench.runtime.maps import Space, collect
from workbench.runtime.maps.holding import sweep

if TYPE_CHECKING:
    from workbench.runtime.attach import Process

__all__ = ("enter_process", "enter_space", "leave_process", "leave_space")


@dataclass(slots=True)
class _Counted:
    """Something that several hold."""

    what: Space | Process
    holders: int = 0


_lock = threading.RLock()
_spaces: dict[str | None, _Counted] = {}
_processes: dict[int, _Counted] = {}
_collected = False
_follower: threading.Thread | None = None
_FOLLOW_SECONDS = 0.05
_VFORK_PATIENCE = 1.0


def _after_fork() -> None:
    """The child holds nothing: its parent's namespaces and targets stay the parent's."""
    global _follower
    _spaces.clear()
    _processes.clear()
    _follower = None


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _leave_everything() -> None:
    """A program that ends with loaded objects restores its targets and takes its namespace away."""
    for process in [one.what for one in _processes.values()]:
        with contextlib.suppress(WorkbenchError, OSError):
            process.close()
    for space in [one.what for one in _spaces.values()]:
        with contextlib.suppress(WorkbenchError, OSError):
            space.close()
    _after_fork()


def _collect_once() -> None:
    """Free the memory of namespaces whose processes were killed, before taking more."""
    global _collected
    if not _collected:
        _collected = True
        with contextlib.suppress(WorkbenchError, OSError):
            collect()


def enter_space(name: str | None) -> Space:
    """The namespace of that name; None is the one of this process, which vanishes with its last holder."""
    with _lock:
        _collect_once()
        if name not in _spaces:
            made = Space(name)
            _spaces[name] = _Counted(made)
            if name is not None:
                with contextlib.suppress(WorkbenchError, OSError):
                    sweep(made.path)
        one = _spaces[name]
        one.holders += 1
        assert isinstance(one.what, Space)
        return one.what


def leave_space(space: Space) -> None:
    """Give up one hold."""
    with _lock:
        for name, one in list(_spaces.items()):
            if one.what is space:
                one.holders -= 1
                if not one.holders:
                    del _spaces[name]
                    space.close()


def enter_process(pid: int, space: Space) -> Process:
    """The way into a target.

    Raises
    ------
    MissingCapability
        It was entered with another namespace.
    TargetGone, NotPermitted
    """
    from workbench.runtime.attach import Process

    with _lock:
        one = _processes.get(pid)
        if one is None:
            found = _child(pid) or Process(pid, space)
            found.held = True
            one = _processes[pid] = _Counted(found)
            _start_following()
        entered = one.what
        assert isinstance(entered, Process)
        if entered.space is not space:
            raise MissingCapability(
                f"process {pid} is already in namespace {entered.space.name if entered.space else ''!r}",
                "load both objects into one namespace: load(namespace=...)",
            )
        one.holders += 1
        return entered


def _child(pid: int) -> Process | None:
    """A process that inherited the hooks of one that was entered.

    Raises
    ------
    MissingCapability
        It still shares its parent's memory (vfork): it has no code of its own that could be probed.
    """
    from workbench.runtime.attach.address_space import shares_memory

    for one in list(_processes.values()):
        process = one.what
        assert not isinstance(process, Space)
        end = time.monotonic() + _VFORK_PATIENCE
        while shares_memory(process.pid, pid):
            if time.monotonic() > end:
                raise MissingCapability(
                    f"process {pid} shares the memory of process {process.pid}",
                    "it is probed with that one",
                )
            time.sleep(0.001)
        with process.lock:
            process.family.look()
            child = process.family.children.get(pid)
        if child is not None:
            return child
    return None


def _start_following() -> None:
    """A thread that looks after the entered processes: children, replaced programs, libraries loaded later."""
    global _follower
    if _follower is None or not _follower.is_alive():
        _follower = threading.Thread(target=_follow, name="wb-follow", daemon=True)
        _follower.start()


def _follow() -> None:
    global _follower
    while True:
        with _lock:
            processes = [one.what for one in _processes.values()]
            if not processes:
                _follower = None
                return
        for process in processes:
            assert not isinstance(process, Space)
            with contextlib.suppress(WorkbenchError, OSError):
                process.look()
        time.sleep(_FOLLOW_SECONDS)


def leave_process(process: Process) -> None:
    """Give up one hold; the last one restores the process."""
    with _lock:
        one = _processes.get(process.pid)
        if one is None or one.what is not process:
            return
        one.holders -= 1
        if not one.holders:
            del _processes[process.pid]
            process.held = False
            if (
                process.parent is None
            ):  # else its parent's hooks stay, and are restored with the parent
                with contextlib.suppress(ProcessLookupError):
                    process.close()
