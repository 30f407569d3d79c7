"""What was patched where, on disk, so that a crash of the workbench leaves no hook behind.

One file per entered process, beside the namespaces, a JSON value a line: first who patched whom, then each site before
its first byte is replaced. `collect` restores the processes whose workbench is gone. Only bytes that are still ours are
written, so neither a process that has since replaced its program nor another tool's patch comes to harm.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import MissingCapability, NotPermitted, RunFailed, TargetGone
from workbench.runtime.attach.address_space import is_shared, program
from workbench.runtime.attach.agent import LoadedAgent
from workbench.runtime.attach.bounded import within
from workbench.runtime.attach.hold import Hold, sweep
from workbench.runtime.attach.leaving import Leaving, Outcome, leave
from workbench.runtime.attach.ledger import read_ledger
from workbench.runtime.attach.left import lives, note, reclaim_all, start_time
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import STUBS
from workbench.runtime.attach.returns import restore_returns
from workbench.runtime.attach.signals import end_signals
from workbench.runtime.attach.stop import Stop
from workbench.runtime.attach.ticks import end_ticks

__all__ = (
    "Collected",
    "Record",
    "collect",
    "collect_dead",
    "orphans",
    "restore_relatives",
    "start_time",
)

_counter = itertools.count(1)
_PATIENCE = 5.0


def _program(pid: int) -> list[int]:
    """`program` as a record has it; empty when it cannot be seen."""
    return list(program(pid) or ())


def _folder() -> Path:
    from workbench.runtime.maps.space import root

    return root()


class Record:
    """The file of one entered process."""

    def __init__(self, pid: int) -> None:
        self._pid, me = pid, os.getpid()
        self.path = _folder() / f"{pid}-{me}-{next(_counter)}.hooks"
        begun = self.path.with_suffix(
            ".begun"
        )  # nobody may see a record that does not say whose it is
        self._file = begun.open("w", encoding="utf-8")
        self._line(
            {
                "pid": pid,
                "start": start_time(pid),
                "owner": me,
                "owner_start": start_time(me),
            }
        )
        begun.rename(self.path)

    def _line(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def agent(self, agent: LoadedAgent, mark: bytes) -> None:
        """Where the agent is, and in which program; `mark`: of its ledger."""
        self._line(
            {
                "base": agent.base,
                "size": agent.size,
                "wb_agent": agent.symbols["wb_agent"],
                "ledger": agent.ledger,
                "mark": mark.hex(),
                "exe": _program(self._pid),
            }
        )

    def sites(self, sites: Iterable[tuple[int, bytes, bytes, int]]) -> None:
        """Address, original bytes, bytes that will replace them, address of the struct wb_site."""
        lines = [
            json.dumps({"at": at, "original": original.hex(), "patch": patch.hex(), "site": site})
            for at, original, patch, site in sites
        ]
        self._file.write("".join(line + "\n" for line in lines))
        self._file.flush()

    def signals(self, ends: int, stub: int) -> None:
        """The handler of SIGTRAP will be installed: the agent's function that takes it out, and the stubs."""
        self._line({"signals": ends, "stub": stub})

    def ticks(self, ends: int, stub: int, signal: int) -> None:
        """Timers will be made that send this signal: the agent's function that ends them, and the stubs."""
        self._line({"ticks": ends, "stub": stub, "signal": signal})

    def semaphore(self, address: int, count: int) -> None:
        """A USDT semaphore that will be, or was, changed by `count`."""
        self._line({"semaphore": address, "count": count})

    def restore_relatives(self, pid: int, kept: Mapping[int, set[int]]) -> None:
        """Restore the processes that were forked from this one and inherited its hooks.

        `kept`: processes that go on being probed, with the places that are left alone there.
        """
        self._file.flush()
        restore_relatives(pid, _read(self.path), kept)

    def close(self) -> None:
        """Everything was restored: the record is no longer needed. Harmless twice."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Something could not be restored now; `collect` will try."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Collected:
    """A process that had hooks or memory of a workbench that is gone.

    Attributes
    ----------
    sites : int
        Places that were restored.
    problem : str
        Empty when all hooks were taken out.
    freed, stays : int
        Bytes of its address space that were given back, and that some thread may still need.
    """

    pid: int
    sites: int
    problem: str = ""
    freed: int = 0
    stays: int = 0


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a record; a last one that was cut off describes nothing that was done."""
    lines = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    lines.append(value)
    return lines


def collect() -> list[Collected]:
    """Take the hooks of dead workbenches out of every process that still has them, and free their memory there.

    Returns
    -------
    list of Collected
        One per process that had any.
    """
    found = []
    for path in sorted(_folder().glob("*.hooks")):
        lines = _read(path)
        try:
            head = lines[0]
            pid, start = int(head["pid"]), int(head["start"])
            owner, owner_start = int(head["owner"]), int(head["owner_start"])
        except (IndexError, KeyError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            continue
        if lives(owner, owner_start):
            continue
        if not start or start_time(pid) != start:
            restore_relatives(pid, lines)
            path.unlink(missing_ok=True)
        elif (one := _collect_one(path, pid, lines)) is not None:
            found.append(one)
    found += [
        Collected(one.pid, 0, "", one.freed, one.stays)
        for one in reclaim_all()
        if one.freed or one.stays
    ]
    sweep()
    return found


def _collect_one(
    path: Path, pid: int, lines: list[dict[str, Any]], held: int = 0
) -> Collected | None:
    """Take the hooks of one record out; None = the process is gone, or somebody else was first.

    `held`: a process whose `Hold` the caller has.
    """
    hold = None
    try:
        # Hooks that another workbench makes now may look like these: it is kept out meanwhile.
        hold = None if held == pid else Hold(pid)
        if not path.exists():
            return None
        count = _restore(pid, lines)
        freed, stays = _free(pid, lines, pid)
        restore_relatives(pid, lines)
        path.unlink(missing_ok=True)
        return Collected(pid, count, "", freed, stays)
    except TargetGone:
        restore_relatives(pid, lines)
        path.unlink(missing_ok=True)
        return None
    except (NotPermitted, MissingCapability, RunFailed) as error:
        return Collected(pid, 0, error.message)
    finally:
        if hold is not None:
            hold.close()


def _marks(lines: list[dict[str, Any]]) -> list[tuple[int, bytes]]:
    """Ledgers of a record: address and mark."""
    return [(int(one["ledger"]), bytes.fromhex(one["mark"])) for one in lines if "mark" in one]


def _has_ledger(pid: int, lines: list[dict[str, Any]]) -> bool:
    marks = _marks(lines)
    if not marks:
        return False
    memory = Memory(pid)
    try:
        return any(read_ledger(memory, at, mark) for at, mark in marks)
    finally:
        memory.close()


def _free(pid: int, lines: list[dict[str, Any]], held: int = 0) -> tuple[int, int]:
    """Free the memory of ours in a process whose hooks are out: bytes that were freed and that stay."""
    freed = stays = 0
    sites = [
        (int(one["at"]), bytes.fromhex(one["patch"]), int(one["site"]))
        for one in lines
        if "at" in one
    ]
    for at, mark in _marks(lines):
        memory = Memory(pid)
        hold = None
        try:
            if read_ledger(memory, at, mark) is None:
                continue
            hold = None if held == pid else Hold(pid)
            found = leave(pid, memory, at, mark, (place for place, _, _ in sites))
        except (NotPermitted, MissingCapability, RunFailed):
            found = Leaving(Outcome.STUCK)
        finally:
            memory.close()
            if hold is not None:
                hold.close()
        freed, stays = freed + found.freed, stays + found.stays
        if found.outcome in (Outcome.KEPT, Outcome.STUCK):
            note(pid, at, mark, (), sites)
    return freed, stays


def orphans() -> dict[int, int]:
    """Living processes that still have hooks of a dead workbench: pid -> number of places; `collect` restores them."""
    found: dict[int, int] = {}
    for path in _folder().glob("*.hooks"):
        lines = _read(path)
        with contextlib.suppress(IndexError, KeyError, ValueError, TypeError):
            head = lines[0]
            pid, gone = int(head["pid"]), not lives(int(head["owner"]), int(head["owner_start"]))
            places = sum("at" in line for line in lines)
            if gone and places and start_time(pid) == int(head["start"]):
                found[pid] = found.get(pid, 0) + places
    return found


def collect_dead(held: int) -> None:
    """Take out what killed workbenches left in a process whose `Hold` the caller has: it is in the way of ours.

    Other processes are left to `collect`: one that is stuck is not waited for here.
    """
    for path in sorted(_folder().glob("*.hooks")):
        lines = _read(path)
        with contextlib.suppress(IndexError, KeyError, ValueError, TypeError):
            head = lines[0]
            pid = int(head["pid"])
            if lives(int(head["owner"]), int(head["owner_start"])):
                continue
            if pid == held and start_time(pid) == int(head["start"]):
                _collect_one(path, pid, lines, held)
            else:
                restore_relatives(pid, lines, only=held)


def restore_relatives(
    pid: int,
    lines: list[dict[str, Any]],
    kept: Mapping[int, set[int]] | None = None,
    only: int = 0,
) -> list[int]:
    """Restore every other process that has these hooks and this memory, by fork; which they were.

    A process is known by our jump and, in its memory, our structure that names the jump's place. Only processes that
    run the same program and began later are looked at: no other can have been forked from it and not have replaced our
    hooks, and whoever reads the memory of one that is stuck waits for it. `only`: one process alone is looked at, whose
    `Hold` the caller has.
    """
    sites = [line for line in lines if "at" in line]
    programs = [line["exe"] for line in lines if line.get("exe")]
    since = max((one for line in lines if isinstance(one := line.get("start"), int)), default=0)
    if not sites and not _marks(lines):
        return []
    found = []
    everybody = (int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit())
    for other in [only] if only else everybody:
        if other in (pid, os.getpid()):
            continue
        if (programs and _program(other) not in programs) or start_time(other) < since:
            continue
        # What is done to a child of vfork is done to its parent, whose threads would not be held.
        if is_shared(other):
            continue
        try:
            theirs = sites
            if kept and other in kept:
                theirs = [one for one in sites if int(one["at"]) not in kept[other]]
            if within(_PATIENCE, other, partial(_has_any, other, theirs)):
                _restore(other, lines if theirs is sites else theirs)
                found.append(other)
            if theirs is sites and within(_PATIENCE, other, partial(_has_ledger, other, lines)):
                _free(other, lines, only)
                found.append(other)
        except (TargetGone, NotPermitted, MissingCapability, RunFailed):
            continue
    return found


def _has_any(pid: int, sites: list[dict[str, Any]]) -> bool:
    memory = Memory(pid)
    try:
        for line in (*sites[:1], *sites[-1:], *sites):
            at, patch = int(line["at"]), bytes.fromhex(line["patch"])
            record = memory.read(int(line["site"]), 8)
            if record != struct.pack("<Q", at):
                return False
            if memory.read(at, len(patch)) == patch:
                return True
    finally:
        memory.close()
    return False


def _restore(pid: int, lines: list[dict[str, Any]]) -> int:
    sites = {}
    semaphores: dict[int, int] = {}
    agent = None
    ends = stub = 0
    ticks = signal = 0
    for line in lines:
        with contextlib.suppress(KeyError, ValueError, TypeError):
            if "at" in line:
                original, patch = bytes.fromhex(line["original"]), bytes.fromhex(line["patch"])
                sites[int(line["at"])] = original, patch, int(line["site"])
            elif "base" in line:
                symbols = {"wb_agent": int(line["wb_agent"])}
                agent = LoadedAgent(int(line["base"]), int(line["size"]), symbols, 0)
            elif "signals" in line:
                ends, stub = int(line["signals"]), int(line["stub"])
            elif "ticks" in line:
                ticks, stub, signal = int(line["ticks"]), int(line["stub"]), int(line["signal"])
            elif "semaphore" in line:
                at = int(line["semaphore"])
                semaphores[at] = semaphores.get(at, 0) + int(line["count"])
    memory = Memory(pid)
    count = 0
    try:
        with Stop(pid):
            for at, (original, patch, site) in sites.items():
                with contextlib.suppress(MissingCapability):
                    if memory.read(at, len(patch)) == patch:
                        memory.write(at, original)
                        count += 1
                        memory.write(site + 16, bytes(24))
            for at, added in semaphores.items():
                with contextlib.suppress(MissingCapability):
                    value = struct.unpack("<H", memory.read(at, 2))[0]
                    memory.write(at, struct.pack("<H", max(0, value - added) % 65536))
            if agent is not None:
                with contextlib.suppress(MissingCapability):  # another program runs there now
                    restore_returns(memory, agent)
        if ends and agent is not None:
            with contextlib.suppress(MissingCapability):
                if memory.read(stub, len(STUBS)) == STUBS:
                    end_signals(pid, memory, ends, stub)
        if ticks and agent is not None:
            with contextlib.suppress(MissingCapability):
                if memory.read(stub, len(STUBS)) == STUBS:
                    end_ticks(pid, memory, ticks, stub, signal)
    finally:
        memory.close()
    return count
