"""Keep track of the processes in scope: their life, their mappings, the unwinder's view of them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.sideband import Sideband
from workbench.collectors.target import threads
from workbench.errors import MissingCapability, NotPermitted, TargetGone
from workbench.frames.symbols.mappings import Mappings

if TYPE_CHECKING:
    from workbench.collectors.base import Sink, Target
    from workbench.collectors.sideband import Event

__all__ = ("Processes",)

_COLUMNS = ("start", "end", "offset", "path", "build_id")
_Mapping = tuple[int, int, int, str, str]


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
        self.seen: set[int] = set()
        self.mapped: list[tuple[int, str]] = []
        self.sideband: Sideband | None = None
        with contextlib.suppress(NotPermitted, MissingCapability):
            self.sideband = Sideband(data=data)

    def start(self) -> None:
        """Record what is there now."""
        if self._target.machine:
            pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        else:
            pids = sorted(self._target.pids)
        for pid in pids:
            with contextlib.suppress(TargetGone, NotPermitted):
                self._snapshot(pid)
            self._present(pid)

    def _snapshot(self, pid: int) -> None:
        columns = Mappings.snapshot(pid, executable_only=not self._data)
        if len(columns["start"]):
            self._sink.append("mappings", columns)
        self._maps[pid] = list(zip(*(columns[name] for name in _COLUMNS), strict=True))

    def _present(self, pid: int) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.seen.add(pid)
        tids = threads(pid)
        comms = []
        for tid in tids:
            try:
                comms.append(Path(f"/proc/{pid}/task/{tid}/comm").read_text().rstrip("\n"))
            except OSError:
                comms.append("")
        if tids:
            self._comms[pid] = comms[0]
            count = len(tids)
            self._append(
                [now] * count, [pid] * count, tids, [-1] * count, ["present"] * count, comms
            )

    def _append(
        self,
        times: list[int],
        pids: list[int],
        tids: list[int],
        parents: list[int],
        events: list[str],
        comms: list[str],
    ) -> None:
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

    def drain(self) -> list[int]:
        """Take in what happened; the pids that newly came into scope."""
        if self.sideband is None:
            return []
        added: list[int] = []
        life: list[Event] = []
        mapped: list[Event] = []
        changed: set[int] = set()
        for event in self.sideband.drain():
            scope = self._target.machine or event.pid in self._target.pids
            if event.kind == "fork" and event.pid != event.parent:
                if not self._target.machine and not (
                    self._target.follow and event.parent in self._target.pids
                ):
                    continue
                self._target.pids.add(event.pid)
                added.append(event.pid)
                self._maps[event.pid] = list(self._maps.get(event.parent, ()))
                self._comms[event.pid] = self._comms.get(event.parent, "")
                self._inherit(event)
                changed.add(event.pid)
                life.append(event)
            elif not scope:
                continue
            elif event.kind == "map":
                self._map(event)
                mapped.append(event)
                changed.add(event.pid)
            else:
                if event.kind == "exec":
                    self._maps[event.pid] = []
                    self._comms[event.pid] = event.comm
                elif event.kind == "comm" and event.pid == event.tid:
                    self._comms[event.pid] = event.comm
                elif event.kind == "exit" and event.pid == event.tid and not self._target.machine:
                    self._target.pids.discard(event.pid)
                if event.kind != "comm":
                    life.append(event)
        self._write(life, mapped)
        self.mapped = [(event.pid, event.path) for event in mapped if event.path]
        self.seen.update(added)
        if self._target.unwinding:
            for pid in changed:
                self._tell_unwinder(pid)
        return added

    def _inherit(self, event: Event) -> None:
        """A child starts with its parent's mappings: write them under its own pid."""
        maps = self._maps[event.pid]
        if not maps:
            return
        columns: dict[str, Any] = dict(
            zip(_COLUMNS, map(list, zip(*maps, strict=True)), strict=True)
        )
        for name in ("start", "end", "offset"):
            columns[name] = np.array(columns[name], np.uint64)
        columns["time"] = np.full(len(maps), event.time, np.int64)
        columns["pid"] = np.full(len(maps), event.pid, np.int32)
        self._sink.append("mappings", columns)

    def _map(self, event: Event) -> None:
        maps = self._maps.setdefault(event.pid, [])
        maps[:] = [m for m in maps if m[1] <= event.start or m[0] >= event.end]
        maps.append((event.start, event.end, event.offset, event.path, event.build_id))

    def _tell_unwinder(self, pid: int) -> None:
        maps = [m for m in self._maps.get(pid, ()) if m[3]]
        columns = {name: [m[i] for m in maps] for i, name in enumerate(_COLUMNS[:4])}
        self._target.unwinder().set_mappings(pid, columns)

    def _write(self, life: list[Event], mapped: list[Event]) -> None:
        if life:
            self._append(
                [e.time for e in life], [e.pid for e in life], [e.tid for e in life],
                [e.parent if e.kind == "fork" else -1 for e in life], [e.kind for e in life],
                [e.comm or self._comms.get(e.pid, "") for e in life],
            )  # fmt: skip
        if mapped:
            self._sink.append(
                "mappings",
                {
                    "time": np.array([e.time for e in mapped], np.int64),
                    "pid": np.array([e.pid for e in mapped], np.int32),
                    "start": np.array([e.start for e in mapped], np.uint64),
                    "end": np.array([e.end for e in mapped], np.uint64),
                    "offset": np.array([e.offset for e in mapped], np.uint64),
                    "path": [e.path for e in mapped],
                    "build_id": [e.build_id for e in mapped],
                },
            )

    def finish(self) -> None:
        """Last look at what is still alive, then close the side-band."""
        if self._data or self.sideband is None:
            for pid in sorted(self._target.pids):
                with contextlib.suppress(TargetGone, NotPermitted):
                    self._snapshot(pid)
        if self.sideband is not None:
            if self.sideband.lost:
                self._sink.append(
                    "losses",
                    {
                        "collector": ["recorder"],
                        "frame": ["mappings"],
                        "cause": ["side-band ring full"],
                        "lost": np.array([self.sideband.lost], np.int64),
                    },
                )
            self.sideband.close()
            self.sideband = None
