"""What a workbench had to leave in a process: a note on disk, for the next entry and `workbench bpf gc`."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import NotPermitted, TargetGone, WorkbenchError
from workbench.runtime.attach.arena import Arena
from workbench.runtime.attach.hold import Hold
from workbench.runtime.attach.leaving import Leaving, Outcome, agent_of, leave
from workbench.runtime.attach.ledger import MARK, read_ledger
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.relocate import JUMP
from workbench.runtime.attach.stop import state, thread_ids

if TYPE_CHECKING:
    from workbench.runtime.attach.agent import LoadedAgent

__all__ = ("Left", "Reclaimed", "lives", "note", "reclaim", "reclaim_all", "start_time")

_PATIENCE = 0.02


@dataclass(frozen=True, slots=True)
class Left:
    """Memory that can be used again: see `Room.adopt`."""

    path: Path
    agent: LoadedAgent
    mark: bytes
    arenas: tuple[Arena, ...] = ()
    trampolines: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What `reclaim_all` did in one process, in bytes of its address space."""

    pid: int
    freed: int
    stays: int


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since boot: with the pid, its name for ever; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def lives(pid: int, start: int) -> bool:
    """Whether the process that began then has not ended, be it that nobody has waited for it yet."""
    return start_time(pid) == start and any(state(pid, one) not in "ZX" for one in thread_ids(pid))


def _folder() -> Path:
    from workbench.runtime.maps.space import root

    return root()


def note(
    pid: int,
    at: int,
    mark: bytes,
    arenas: Iterable[Arena] = (),
    sites: Iterable[tuple[int, bytes, int]] = (),
) -> None:
    """Note what stays in a process.

    Parameters
    ----------
    pid : int
    at : int
        Address of its ledger.
    mark : bytes
    arenas : iterable of Arena
        Whose use is known.
    sites : iterable of (int, bytes, int)
        Place, jump to its trampoline, address of its struct wb_site.
    """
    value = {
        "pid": pid,
        "start": start_time(pid),
        "ledger": at,
        "mark": mark.hex(),
        "arenas": [(one.code, one.data, one.end, one.code_used, one.data_used) for one in arenas],
        "sites": [(place, patch.hex(), record) for place, patch, record in sites],
    }
    path = _folder() / f"{pid}-{mark.hex()}.left"
    begun = path.with_suffix(f".{os.getpid()}.begun")
    begun.write_text(json.dumps(value), encoding="utf-8")
    begun.rename(path)


def _read(path: Path) -> dict[str, Any] | None:
    """A note of a process that lives; others are taken away."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        value = json.loads(path.read_text(encoding="utf-8"))
        mark = bytes.fromhex(value["mark"])
        if value["start"] and start_time(int(value["pid"])) == value["start"] and len(mark) == MARK:
            return {**value, "mark": mark}
    path.unlink(missing_ok=True)
    return None


def _try(path: Path, value: Mapping[str, Any], memory: Memory) -> Leaving:
    places = [int(place) for place, _, _ in value["sites"]]
    found = leave(int(value["pid"]), memory, int(value["ledger"]), value["mark"], places, _PATIENCE)
    if found.outcome in (Outcome.FREED, Outcome.GONE, Outcome.LOST):
        path.unlink(missing_ok=True)
    return found


def reclaim(pid: int, memory: Memory) -> Left | None:
    """Free what was left in a process that is about to be entered; what can be used again, where that must stay.

    The caller has its `Hold`.
    """
    usable: Left | None = None
    for path in sorted(_folder().glob(f"{pid}-*.left")):
        value = _read(path)
        if value is None:
            continue
        with contextlib.suppress(WorkbenchError, ValueError, TypeError, struct.error):
            if _try(path, value, memory).outcome == Outcome.KEPT and usable is None:
                usable = _left(path, value, memory)
    return usable


def _left(path: Path, value: Mapping[str, Any], memory: Memory) -> Left | None:
    at, mark = int(value["ledger"]), value["mark"]
    ledger = read_ledger(memory, at, mark)
    agent = agent_of(ledger, at) if ledger else None
    if ledger is None or agent is None:
        return None
    listed = [(one.start, one.end) for one in ledger.entries if one.kept]
    arenas = [Arena(*map(int, numbers)) for numbers in value["arenas"]]
    arenas = [
        one
        for one in arenas
        if one.code <= one.data <= one.end
        and any(low <= one.code and one.end <= high for low, high in listed)
    ]
    trampolines = {}
    for place, patch, record in value["sites"]:
        distance = struct.unpack("<i", bytes.fromhex(patch)[1:JUMP])[0]
        trampolines[int(place)] = int(place) + JUMP + distance, int(record)
    return Left(path, agent, mark, tuple(arenas), trampolines)


def reclaim_all() -> list[Reclaimed]:
    """Free what was left in every process that no workbench is in now."""
    found: dict[int, Reclaimed] = {}
    for path in sorted(_folder().glob("*.left")):
        value = _read(path)
        if value is None:
            continue
        with contextlib.suppress(WorkbenchError, ValueError, TypeError, struct.error):
            pid = int(value["pid"])
            try:
                hold = Hold(pid)
            except NotPermitted:
                continue
            try:
                if not path.exists():
                    continue
                memory = Memory(pid)
                try:
                    now = _try(path, value, memory)
                finally:
                    memory.close()
            except TargetGone:
                path.unlink(missing_ok=True)
                continue
            finally:
                hold.close()
            before = found.get(pid, Reclaimed(pid, 0, 0))
            if now.outcome != Outcome.GONE:
                found[pid] = Reclaimed(pid, before.freed + now.freed, before.stays + now.stays)
    return list(found.values())
