"""Keep track of the processes in scope: their life, their mappings, the unwinder's view of them."""

from __future__ import annotations

import bisect
import contextlib
import operator
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.sideband import Sideband
from workbench.collectors.target import descendants, threads
from workbench.errors import MissingCapability, NotPermitted, TargetGone
from workbench.frames.symbols.mappings import Mappings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.sideband import Event

__all__ = ("Processes", "lay_over")

_COLUMNS = ("start", "end", "offset", "path", "build_id")
_Mapping = tuple[int, int, int, str, str]
_MOST_MAPPINGS = 8192
"""Mappings remembered of one process before those that are gone (the kernel does not report them) are weeded out."""


def lay_over(maps: list[_Mapping], new: _Mapping) -> None:
    """Put a mapping into a sorted list without overlaps; what it covers of older ones is gone, the rest stays."""
    start, end = new[:2]
    low = bisect.bisect_right(maps, start, key=operator.itemgetter(1))
    high = bisect.bisect_left(maps, end, lo=low, key=operator.itemgetter(0))
    kept = [new]
    for old_start, old_end, offset, path, build_id in maps[low:high]:
        if old_start < start:
            kept.insert(0, (old_start, start, offset, path, build_id))
        if old_end > end:
            kept.append((end, old_end, offset + end - old_start, path, build_id))
    maps[low:high] = kept


class Processes:
    """Follows the target's processes from the side-band, and writes frames `processes` and `mappings`.

    Without the privilege for machine-wide side-band events, the processes present at the start are all it knows, and
    their mappings are read again at the end.

    Parameters
    ----------
    target : Target
        Its `pids` are kept current.
    sink : Sink
    data : bool
        Record data mappings as well as executable ones.

    Attributes
    ----------
    mapped : list of (pid, path)
        Files that processes in scope mapped, as the last `drain` saw them.
    """

    def __init__(self, target: Target, sink: Sink, *, data: bool = False) -> None:
        self._target, self._sink, self._data = target, sink, data
        self._maps: dict[int, list[_Mapping]] = {}
        self._comms: dict[int, str] = {}
        self._threads: dict[int, set[int]] = {}
        self._others: set[int] = set()
        self._gone: list[int] = []
        self._lost = 0
        self.seen: set[int] = set()
        self.mapped: list[tuple[int, str]] = []
        self.sideband: Sideband | None = None
        with contextlib.suppress(NotPermitted, MissingCapability):
            self.sideband = Sideband(data=data)

    def start(self) -> None:
        """Record what is there now, also children that were forked since the target was named."""
        self._look()

    def _look(self) -> list[int]:
        """Take in the processes that are there now; those not known before."""
        target = self._target
        if target.machine:
            pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        else:
            if target.follow:
                # A process that records itself in user space does so through a child: this one.
                own = {os.getpid()} if target.backend == "userspace" else set()
                target.pids |= descendants(target.pids) - own
            pids = set(target.pids)
        new = sorted(pids - self._threads.keys())
        for pid in new:
            with contextlib.suppress(TargetGone, NotPermitted):
                self._snapshot(pid)
            self._present(pid)
        return new

    def _snapshot(self, pid: int) -> None:
        columns = Mappings.snapshot(pid, executable_only=not self._data)
        if len(columns["start"]):
            self._sink.append("mappings", columns)
        # Every mapping as plain numbers: they are compared with those of events.
        rows: Any = zip(
            *(
                column.tolist() if isinstance(column, np.ndarray) else column
                for column in (columns[name] for name in _COLUMNS)
            ),
            strict=True,
        )
        self._maps[pid] = sorted(rows)

    def _present(self, pid: int) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.seen.add(pid)
        tids = threads(pid)
        self._threads[pid] = set(tids)
        rows = []
        for tid in tids:
            comm = ""
            with contextlib.suppress(OSError):
                comm = Path(f"/proc/{pid}/task/{tid}/comm").read_text(errors="replace").rstrip("\n")
            if tid in (pid, tids[0]):
                self._comms[pid] = comm
            rows.append((now, pid, tid, -1, "present", comm))
        self._append(rows)

    def _append(self, rows: Sequence[tuple[int, int, int, int, str, str]]) -> None:
        if not rows:
            return
        times, pids, tids, parents, events, comms = (list(one) for one in zip(*rows, strict=True))
        self._sink.append(
            "processes",
            {
                "time": np.array(times, np.int64),
                "pid": np.array(pids, np.int32),
                "tid": np.array(tids, np.int32),
                "parent": np.array(parents, np.int32),
                "event": events,
                "comm": comms,
            },
        )

    def drain(self, *, last: bool = False) -> list[int]:
        """Take in what happened; the pids that newly came into scope. `last`: nothing comes after this."""
        self._meet_others()
        self._forget_gone()
        self.mapped = []
        if self.sideband is None:
            # Children run the hooks that they inherited; those that run another program have to be entered.
            follow = self._target.backend == "userspace" and self._target.follow and not last
            return self._look() if follow else []
        target = self._target
        added: list[int] = []
        changed: set[int] = set()
        life: list[tuple[int, int, int, int, str, str]] = []
        mappings: list[tuple[int, int, _Mapping]] = []

        def wanted(pid: int, parent: int) -> bool:
            return (
                target.machine
                or pid in target.pids
                or (target.follow and parent >= 0 and parent in target.pids)
            )

        for event in self.sideband.drain(wanted, last=last):
            pid = event.pid
            if event.kind == "map":
                self._map(event)
                mappings.append((event.time, pid, _mapping_of(event)))
                if event.path:
                    self.mapped.append((pid, event.path))
                changed.add(pid)
                continue
            if event.kind == "fork" and pid != event.parent:
                target.pids.add(pid)
                added.append(pid)
                maps = self._maps[pid] = list(self._maps.get(event.parent, ()))
                # A child starts with its parent's mappings: they are written under its own pid.
                mappings += [(event.time, pid, one) for one in maps]
                self._comms[pid] = self._comms.get(event.parent, "")
                self._threads[pid] = {event.tid}
                changed.add(pid)
            elif event.kind == "fork":
                self._threads.setdefault(pid, set()).add(event.tid)
            elif event.kind == "exec":
                self._maps[pid] = []
                self._comms[pid] = event.comm
                self._threads[pid] = {event.tid}
            elif event.kind == "comm":
                if pid == event.tid:
                    self._comms[pid] = event.comm
                continue
            parent = event.parent if event.kind == "fork" else -1
            comm = event.comm or self._comms.get(pid, "")
            life.append((event.time, pid, event.tid, parent, event.kind, comm))
            if event.kind == "exit":
                self._exit(event)
        self._append(life)
        self._append_mappings(mappings)
        self.seen.update(added)
        if target.unwinding:
            for pid in changed:
                self._tell_unwinder(pid)
        return added + self._catch_up()

    def _catch_up(self) -> list[int]:
        """After events were lost: look at what is there, as at the start."""
        if self.sideband is None or self.sideband.lost == self._lost:
            return []
        self._lost = self.sideband.lost
        known = self._target.pids if not self._target.machine else self._threads.keys()
        for pid in list(known):
            with contextlib.suppress(TargetGone, NotPermitted):
                self._snapshot(pid)
        return self._look()

    def _meet_others(self) -> None:
        """Mappings of processes out of scope that appeared on a stack."""
        new = self._target.others - self._others
        self._others |= new
        for pid in new - self._maps.keys():
            with contextlib.suppress(TargetGone, NotPermitted):
                self._snapshot(pid)

    def _exit(self, event: Event) -> None:
        """A thread has ended; with its last one, whichever that is, the process has."""
        left = self._threads.get(event.pid, set())
        left.discard(event.tid)
        if left:
            return
        self._gone.append(event.pid)
        if not self._target.machine:
            self._target.pids.discard(event.pid)

    def _forget_gone(self) -> None:
        """Drop what was known of processes that had exited before the last drain: their samples are unwound by now."""
        for pid in self._gone:
            if not self._threads.get(pid):  # else a new process has the id
                for known in (self._threads, self._maps, self._comms):
                    known.pop(pid, None)
                if self._target.unwinding:
                    self._target.unwinder().forget(pid)
        self._gone = []

    def _map(self, event: Event) -> None:
        maps = self._maps.setdefault(event.pid, [])
        lay_over(maps, _mapping_of(event))
        if len(maps) > _MOST_MAPPINGS:
            with contextlib.suppress(TargetGone, NotPermitted):
                columns = Mappings.snapshot(event.pid, executable_only=not self._data)
                there = set(columns["start"].tolist())
                maps[:] = [one for one in maps if one[0] in there]
            del maps[_MOST_MAPPINGS:]

    def _tell_unwinder(self, pid: int) -> None:
        from workbench.frames.unwind import ANONYMOUS

        maps = self._maps.get(pid, [])
        columns: dict[str, list[Any]] = {
            name: [one[i] for one in maps] for i, name in enumerate(_COLUMNS[:4])
        }
        columns["path"] = [path or ANONYMOUS for path in columns["path"]]
        self._target.unwinder().set_mappings(pid, columns)

    def _append_mappings(self, rows: list[tuple[int, int, _Mapping]]) -> None:
        if not rows:
            return
        maps = [row[2] for row in rows]
        self._sink.append(
            "mappings",
            {
                "time": np.array([row[0] for row in rows], np.int64),
                "pid": np.array([row[1] for row in rows], np.int32),
                "start": np.array([one[0] for one in maps], np.uint64),
                "end": np.array([one[1] for one in maps], np.uint64),
                "offset": np.array([one[2] for one in maps], np.uint64),
                "path": [one[3] for one in maps],
                "build_id": [one[4] for one in maps],
            },
        )

    def finish(self) -> None:
        """Last look at what is still alive, then close the side-band."""
        if self._data or self.sideband is None:
            for pid in sorted(self._target.pids):
                with contextlib.suppress(TargetGone, NotPermitted):
                    self._snapshot(pid)
        sideband, self.sideband = self.sideband, None
        if sideband is None:
            return
        try:
            if sideband.lost:
                self._sink.append(
                    "losses",
                    {
                        "collector": ["recorder"],
                        "frame": ["mappings"],
                        "cause": ["side-band ring full"],
                        "lost": np.array([sideband.lost], np.int64),
                    },
                )
        finally:
            sideband.close()


def _mapping_of(event: Event) -> _Mapping:
    return (event.start, event.end, event.offset, event.path, event.build_id)
