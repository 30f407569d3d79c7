"""Threads that were brought under SCHED_EXT, and how they get back the policies they had.

What was borrowed is noted on disk as well: a killed controller's threads are given back by the next scheduler's start
and by `workbench sched status`. Until then they lose nothing, for without a scheduler the kernel treats SCHED_EXT as
SCHED_OTHER.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import NotPermitted
from workbench.objects.compile import cache_folder
from workbench.sched.state import SCHED_EXT, threads

__all__ = ("Borrowed", "Policies", "give_back", "give_back_left", "start_time")

_RESET_ON_FORK = 0x40000000  # SCHED_RESET_ON_FORK of sched_getscheduler(2)
_DEADLINE = 6  # its parameters cannot be had back by sched_setscheduler(2)
_ROUNDS = 5  # for processes that fork while they are given back

Policies = dict[int, tuple[int, int, int]]
"""By thread id: start time in clock ticks (ids are used again), policy, real-time priority."""


def _stat(thread: int) -> list[str]:
    """/proc/THREAD/stat after the name: state, parent, ...; empty when it has ended."""
    try:
        return Path(f"/proc/{thread}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def start_time(thread: int) -> int:
    """When a thread began, in clock ticks since boot; -1 when it has ended."""
    fields = _stat(thread)
    return int(fields[19]) if len(fields) > 19 else -1


def _family(pids: set[int]) -> Iterator[int]:
    """These processes and all that descend from them, as far as parents still live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting, seen = list(pids), set(pids)
    while waiting:
        one = waiting.pop()
        yield one
        new = set(children.get(one, ())) - seen
        seen |= new
        waiting += new


def _policy(thread: int) -> tuple[int, int, int]:
    """Start time, policy and priority; a policy of -1 when the thread has ended."""
    try:
        priority = os.sched_getparam(thread).sched_priority
        return start_time(thread), os.sched_getscheduler(thread), priority
    except ProcessLookupError:
        return -1, -1, 0


def _set(thread: int, policy: int, priority: int) -> None:
    os.sched_setscheduler(thread, policy, os.sched_param(priority))


def give_back(pids: dict[int, int], before: Policies) -> int:
    """Give threads their policies back, and what the processes `pids` (pid: start time) forked that of their parent.

    Threads that meanwhile chose another policy keep it. Returns how many were changed.
    """
    changed = 0
    for _ in range(_ROUNDS):
        found: dict[int, tuple[int, int]] = {}
        for thread, (start, policy, priority) in before.items():
            if start_time(thread) == start:
                found[thread] = policy, priority
        for pid in [pid for pid, start in pids.items() if start_time(pid) == start]:
            own = before[pid][1:] if pid in before else (0, 0)
            for process in _family({pid}):
                with contextlib.suppress(Exception):
                    for thread in threads(process):
                        found.setdefault(thread, own)
        late = 0
        for thread, (policy, priority) in found.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.sched_getscheduler(thread) & ~_RESET_ON_FORK == SCHED_EXT:
                    _set(thread, policy, priority)
                    late += 1
        changed += late
        if not late:
            break
    return changed


class Borrowed:
    """What one controller has borrowed."""

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self.before: Policies = {}
        me = os.getpid()
        self._note = _folder() / f"{me}-{start_time(me)}.json"

    def take(self, pid: int) -> None:
        """Bring every thread of a process under SCHED_EXT, those that come meanwhile as well.

        Raises
        ------
        NotPermitted
            It belongs to another user; nothing has been changed then.
        TargetGone
            It has ended.
        """
        done: Policies = {}
        start = start_time(pid)
        while new := [thread for thread in threads(pid) if thread not in done]:
            found = {thread: _policy(thread) for thread in new}
            done |= found
            ours = {t: one for t, one in found.items() if one[1] not in (SCHED_EXT, _DEADLINE, -1)}
            self._keep({pid: start}, ours)
            for thread, (_, policy, _priority) in ours.items():
                try:
                    _set(thread, SCHED_EXT | policy & _RESET_ON_FORK, 0)
                except ProcessLookupError:
                    continue
                except PermissionError as error:
                    give_back({}, ours)
                    raise NotPermitted(
                        f"cannot change the scheduling policy of process {pid}",
                        "be its owner, or root",
                    ) from error

    def started(self, pid: int, policy: int = 0) -> None:
        """Note a child that brought itself under SCHED_EXT before it ran its program."""
        start = start_time(pid)
        self._keep({pid: start}, {pid: (start, policy, 0)})

    def _keep(self, pids: dict[int, int], before: Policies) -> None:
        self.pids |= pids
        self.before |= before
        with contextlib.suppress(
            OSError
        ):  # a full disk: only a killed controller's threads would miss it
            self._note.parent.mkdir(parents=True, exist_ok=True)
            part = self._note.with_suffix(".part")
            part.write_text(json.dumps({"pids": self.pids, "before": self.before}))
            part.replace(self._note)

    def give_back(self) -> None:
        """Give everything back; safe to call twice."""
        pids, before = self.pids, self.before
        self.pids, self.before = {}, {}
        give_back(pids, before)
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)


def _folder() -> Path:
    return cache_folder() / "sched"


def give_back_left() -> int:
    """Give back what controllers of this user borrowed that were killed; returns how many threads were changed."""
    changed = 0
    for note in sorted(_folder().glob("*-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            pid, _, start = note.stem.partition("-")
            if start_time(int(pid)) == int(start):
                continue
            content = json.loads(note.read_text())
            before = {int(thread): tuple(one) for thread, one in content["before"].items()}
            pids = {int(one): int(begun) for one, begun in content["pids"].items()}
            changed += give_back(pids, before)
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
    return changed
