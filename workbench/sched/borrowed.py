"""Threads that were brought under SCHED_EXT, and how they get back the policies they had.

What was borrowed is noted on disk as well: a killed controller's threads are given back by the next scheduler's start
and by `workbench sched status`. Until then they lose nothing, for without a scheduler the kernel treats SCHED_EXT as
SCHED_OTHER.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import NotPermitted, TargetGone
from workbench.objects.compile import cache_folder
from workbench.sched.state import SCHED_EXT, members, threads

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


def _inside(cgroups: list[str]) -> dict[int, int]:
    """Processes of cgroups, with their start times."""
    found: dict[int, int] = {}
    for one in cgroups:
        with contextlib.suppress(TargetGone):
            found |= {pid: start_time(pid) for pid in members(Path(one))}
    return found


class Borrowed:
    """What one controller has borrowed; its methods may be called from several threads.

    Attributes
    ----------
    pids : dict of int to int
        Start times of the processes, by pid.
    named : set of int
        Those that the user named or started: they and what they fork are in scope wherever they go.
    before : Policies
    cgroups : list of str
        Folders: what is in them in the end is given back, too.
    """

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self.cgroups: list[str] = []
        self.named: set[int] = set()
        self.before: Policies = {}
        self._lock = threading.RLock()
        me = os.getpid()
        self._note = _folder() / f"{me}-{start_time(me)}.json"

    def has(self, pid: int) -> bool:
        """This process was borrowed, and not an earlier one of the same number."""
        return self.pids.get(pid, -1) == start_time(pid)

    def take(self, pid: int, *, named: bool = True) -> None:
        """Bring every thread of a process under SCHED_EXT, those that come meanwhile as well.

        Parameters
        ----------
        pid : int
        named : bool
            The user asked for this process; not only for its cgroup.

        Raises
        ------
        NotPermitted
            It belongs to another user; nothing has been changed then.
        TargetGone
            It has ended.
        """
        with self._lock:
            self._take(pid)
            if named:
                self.named.add(pid)

    def _take(self, pid: int) -> None:
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

    def follow(self, cgroup: Path) -> None:
        """Note a cgroup whose processes are taken."""
        with self._lock:
            self.cgroups.append(str(cgroup))
            self._keep({}, {})

    def leave(self, pid: int) -> None:
        """Give one process back that has left the scope; what it forked stays. One that was named is kept."""
        with self._lock:
            named = {one for one in self.named if self.has(one)}
            if pid in _family(named):
                return
            own = self.before.get(pid, (0, 0, 0))[1:]
            with contextlib.suppress(TargetGone):
                for thread in threads(pid):
                    known = self.before.pop(thread, None)
                    policy, priority = known[1:] if known else own
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        if os.sched_getscheduler(thread) & ~_RESET_ON_FORK == SCHED_EXT:
                            _set(thread, policy, priority)
            self.pids.pop(pid, None)
            self._keep({}, {})

    def started(self, pid: int, policy: int = 0) -> None:
        """Note a child that brought itself under SCHED_EXT before it ran its program."""
        start = start_time(pid)
        with self._lock:
            self.named.add(pid)
            self._keep({pid: start}, {pid: (start, policy, 0)})

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Give everything back for a while, and take it again with what was forked meanwhile.

        What ends meanwhile, or may not be taken any more, is left out.
        """
        with self._lock:
            pids = self.pids | _inside(self.cgroups)
            give_back(pids, self.before)
            try:
                yield
            finally:
                for pid in _family({pid for pid, born in pids.items() if start_time(pid) == born}):
                    with contextlib.suppress(TargetGone, NotPermitted):
                        self._take(pid)

    def _keep(self, pids: dict[int, int], before: Policies) -> None:
        self.pids |= pids
        self.before |= before
        with contextlib.suppress(
            OSError
        ):  # a full disk: only a killed controller's threads would miss it
            self._note.parent.mkdir(parents=True, exist_ok=True)
            part = self._note.with_suffix(".part")
            content = {"pids": self.pids, "before": self.before, "cgroups": self.cgroups}
            part.write_text(json.dumps(content))
            part.replace(self._note)

    def give_back(self) -> None:
        """Give everything back; safe to call twice."""
        with self._lock:
            pids, before = self.pids | _inside(self.cgroups), self.before
            self.pids, self.before, self.named, self.cgroups = {}, {}, set(), []
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
            changed += give_back(pids | _inside(content["cgroups"]), before)
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
    return changed
