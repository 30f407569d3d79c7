"""Children that were forked from an entered process: they have its hooks, which are taken over and not made twice.

A child is known by a random mark in memory of ours. What it has is read from its own memory: the parent may have
attached and detached since. A vfork child shares its parent's memory and is left alone; one that runs another program
has no mark any more. Only processes that may be such children are read at all: those that began since the parent was
entered, and run its program. Reading the memory of any other can take as long as that one is stuck.
"""

from __future__ import annotations

import copy
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, NotPermitted, RunFailed, TargetGone
from workbench.runtime.attach import layout
from workbench.runtime.attach.address_space import program, shares_memory
from workbench.runtime.attach.bounded import within
from workbench.runtime.attach.link import Link
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.records import start_time
from workbench.runtime.attach.segments import MAP_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.runtime.attach.places import Place
    from workbench.runtime.attach.process import Process

__all__ = ("Family", "inherit")

_GONE = (TargetGone, NotPermitted, MissingCapability, RunFailed)
_PATIENCE = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Family:
    """The children of one entered process that were found so far.

    Attributes
    ----------
    children : dict of int to Process
        Those that have its hooks, by pid; grandchildren as well.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._since = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS) - 1
        self._seen: set[int] = {process.pid, os.getpid()}
        self.children: dict[int, Process] = {}

    def look(self) -> list[Process]:
        """Take over children that are new; which they are."""
        room = self._process.room
        if room.agent is None or not room.arenas or self._process.parent is not None:
            return []  # a child's children are found by their grandparent
        pids = {int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()}
        new, self._seen = pids - self._seen, pids | {self._process.pid, os.getpid()}
        found = []
        own = program(self._process.pid) if new else None
        for pid in sorted(new):
            try:
                if start_time(pid) < self._since or program(pid) != own:
                    continue
                if not self._has_mark(pid):
                    continue
                if any(shares_memory(pid, one) for one in (self._process.pid, *self.children)):
                    self._seen.discard(pid)  # until it runs a program of its own
                    continue
                self.children[pid] = child = inherit(self._process, pid)
                found.append(child)
            except _GONE:
                continue
        for pid, child in list(self.children.items()):
            if pid not in pids or (not child.held and _has_left(child)):
                child.leave_family()
                if not child.held:
                    child.abandon()
        return found

    def part(self) -> dict[int, set[int]]:
        """The parent is about to be closed: children that somebody holds go on alone; which, with their places.

        The others are restored by the parent's record.
        """
        kept = {}
        for pid, child in list(self.children.items()):
            child.leave_family()
            if child.held:
                kept[pid] = {one.address for one in child.places}
            else:
                child.abandon()
        return kept

    def has(self, pid: int) -> bool:
        """That process runs with these hooks: it inherited them, or shares the memory they are in."""
        return pid in self.children or self._has_mark(pid)

    def _has_mark(self, pid: int) -> bool:
        room = self._process.room
        at, mark = room.arenas[0].data + 16, room.mark

        def look() -> bool:
            memory = Memory(pid)
            try:
                return memory.read(at, len(mark)) == mark
            finally:
                memory.close()

        try:
            return within(_PATIENCE, pid, look)
        except _GONE:
            return False

    def copies(self, links: Sequence[Link]) -> dict[Process, list[Link]]:
        """The links that children inherited of these, and that nobody asked for there."""
        wanted = set(map(id, links))
        found: dict[Process, list[Link]] = {}
        for child in list(self.children.values()):
            ours = [
                one
                for one in child.links
                if one.origin is not None and id(one.origin) in wanted and not one.claimed
            ]
            if ours:
                found[child] = ours
        return found


def inherit(parent: Process, pid: int) -> Process:
    """A child as a process of its own, which knows what it has of the parent's.

    Raises
    ------
    TargetGone, NotPermitted, MissingCapability
    """
    child = type(parent)(pid, parent.space)
    try:
        child.parent = parent
        room, theirs = child.room, parent.room
        memory = child.memory
        room.agent, room.mark = theirs.agent, theirs.mark
        room.copied, room.joined = theirs.copied, theirs.joined
        room.arenas = [
            copy.copy(one) for one in theirs.arenas if _is(memory, one.data + 16, theirs.mark)
        ]
        room.next_number, room.free_numbers = theirs.next_number, list(theirs.free_numbers)
        for key, (at, one) in theirs.maps.items():
            if _there(memory, at, MAP_SIZE):
                room.maps[key] = at, one
        for program, (at, request) in theirs.programs.items():
            if _there(memory, at, 8) and all(id(one) in room.maps for one in request.maps):
                room.programs[program] = at, request
        room.tiers.adopt(theirs.tiers)
        for place in parent.places:
            if place.patch and _is(memory, place.address, place.patch):
                _take_place(child, place)
        child.links = [link for place in child.places for link in place.links]
        child.adopt_semaphores()
        child.listening.update()
    except BaseException:
        child.abandon()
        raise
    return child


def _has_left(child: Process) -> bool:
    """It runs another program, or has ended: a zombie, which nobody has waited for, is still listed."""
    try:
        return child.was_replaced()
    except _GONE:
        return True


def _take_place(child: Process, place: Place) -> None:
    own = copy.copy(place)
    own.installed = True
    running = _chain(child.memory, place.record)
    own.links = []
    for link in place.links:
        if link.record in running:
            mine = Link(
                child, link.request, link.number, link.name, link.address, link.record,
                asked=link.asked, origin=link,
            )  # fmt: skip
            own.links.append(mine)
    child.places.add([own])


def _chain(memory: Memory, record: int) -> tuple[int, ...]:
    """Addresses of the links that run at a site."""
    at = struct.unpack("<Q", memory.read(record + 16, 8))[0]
    if not at:
        return ()
    entries, returns = layout.CHAIN.unpack(memory.read(at, layout.CHAIN.size))
    return struct.unpack(
        f"<{entries + returns}Q", memory.read(at + layout.CHAIN.size, 8 * (entries + returns))
    )


def _there(memory: Memory, address: int, size: int) -> bool:
    try:
        return any(memory.read(address, size))
    except MissingCapability:
        return False


def _is(memory: Memory, address: int, content: bytes) -> bool:
    try:
        return memory.read(address, len(content)) == content
    except MissingCapability:
        return False
