"""Our memory in the target: the agent, arenas near the probed code, and everything that is written into them.

Writes are collected and done together, neighbours in one go. What is written is fresh memory that no thread uses yet,
so nothing here needs the process to be held; only mapping more of it does (on some kernels writing code too: `forced`).
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.errors import BadSpec, MissingCapability
from workbench.runtime.attach import layout
from workbench.runtime.attach.agent import LoadedAgent, load_agent
from workbench.runtime.attach.arena import Arena, map_arena
from workbench.runtime.attach.ledger import Entry, beyond, read_ledger, write_ledger
from workbench.runtime.attach.link import Link, Request
from workbench.runtime.attach.memory import Mapping, Memory, mappings
from workbench.runtime.attach.modules import Modules
from workbench.runtime.attach.nested import closure, offer, programs_of
from workbench.runtime.attach.places import Place
from workbench.runtime.attach.relocate import JUMP, Unjumpable
from workbench.runtime.attach.remote import Calls
from workbench.runtime.attach.segments import MAP_SIZE, join_space, open_map
from workbench.runtime.attach.stop import Stop
from workbench.runtime.attach.tiers import Tiers, bytes_later, bytes_now, chosen
from workbench.runtime.attach.trampoline import RED_ZONE, jump, trampoline

if TYPE_CHECKING:
    from workbench.runtime.attach.left import Left
    from workbench.runtime.attach.process import Process
    from workbench.runtime.maps import Map, Space

__all__ = ("Room",)

_CODE_PER_SITE, _DATA_PER_SITE, _DATA_PER_LINK = 256, 128, 256
_LEAST = 1 << 16
_BUDGET = 1 << 26
_KINDS = {
    "uprobe": layout.ENTRY,
    "usdt": layout.ENTRY,
    "uretprobe": layout.RETURN,
    "override": layout.OVERRIDE,
    "replace": layout.REPLACE,
}


class Room:
    """What one process has of ours.

    Attributes
    ----------
    opened : callable or None
        Called when maps have been opened.
    agent : LoadedAgent or None
        None before the first attachment.
    tiers : Tiers
        The code of programs.
    mark : bytes
        Random; at byte 16 of each arena's data, by which children of forks are known (`family`), and in the ledger.
    left : Left or None
        What an earlier workbench had to leave, until it is used again.
    trampolines : dict of int to (int, int)
        Of that: place -> address, and address of its struct wb_site.
    copied : bool
        Return addresses of ours may be copied (`returns.copies`): trampolines stay until the process ends.
    """

    def __init__(
        self,
        memory: Memory,
        space: Space | None,
        lock: threading.RLock,
        grow: Callable[[int], None],
    ) -> None:
        self.memory, self.space = memory, space
        self.agent: LoadedAgent | None = None
        self.arenas: list[Arena] = []
        self.programs: dict[tuple[int, ...], tuple[int, Request]] = {}
        self.maps: dict[int, tuple[int, Map]] = {}
        self.next_number = 1
        self.free_numbers: list[int] = []
        self._pending: list[tuple[int, bytes]] = []
        self.mark = secrets.token_bytes(16)
        self.opened: Callable[[], None] | None = None
        self.left: Left | None = None
        self.trampolines: dict[int, tuple[int, int]] = {}
        self.copied = False
        self.joined = False
        self.tiers = Tiers(self, lock, grow)

    def clear(self) -> None:
        """The process runs another program: nothing of ours is there."""
        self.agent = None
        self.arenas.clear()
        self.programs.clear()
        self.tiers.clear()
        self.maps.clear()
        self.trampolines.clear()
        self.left, self.copied, self.joined = None, False, False
        self._pending.clear()
        self.mark = secrets.token_bytes(16)

    # Making room ----------------------------------------------------------------------------------------------

    def prepare(
        self,
        modules: Modules,
        places: list[Place],
        requests: list[Request],
        entered: Callable[[LoadedAgent], None],
        offers: Sequence[tuple[Map, int]] = (),
        more: int = 0,
    ) -> float | None:
        """Map what the requests need; how long the process was held for it (None: not at all).

        Parameters
        ----------
        modules : Modules
        places : list of Place
            The new ones.
        requests : list of Request
        entered : callable
            Told of the agent when it was loaded just now.
        offers : sequence of (Map, int)
            Numbers that maps of maps and program arrays, open already, have got since.
        more : int
            Bytes of code beyond what the requests need.
        """
        new = {self._key(r): r for r in requests if self._key(r) not in self.programs}
        outers = [one for one, _ in offers]
        reached = closure([*(m for r in new.values() for m in r.maps), *outers])
        maps = {id(m): m for m in reached if id(m) not in self.maps}
        called = programs_of([*maps.values(), *outers])
        new |= {self._key(r): r for r in called if self._key(r) not in self.programs}
        code = more + sum(bytes_now(r.program) + bytes_later(r.program) + 64 for r in new.values())
        data = _DATA_PER_LINK * (len(requests) + len(places) + 1) + MAP_SIZE * len(maps)
        data += sum(8 * len(r.maps) + 256 for r in new.values())
        needs = self._needs(modules, places, code, data)
        if self.agent and (self.joined or self.space is None) and not (needs or maps or offers):
            return None
        known = self.agent or (self.left and self.left.agent)
        stub = known.stub if known else 0
        with Stop(self.memory.pid) as stop, Calls(stop, self.memory, stub) as calls:
            before = mappings(self.memory.pid)
            if self.agent is None:
                self.agent = self._load(calls)
                entered(self.agent)
            try:
                if self.space is not None and not self.joined:
                    join_space(calls, self.memory, self.agent, self.space)
                    self.joined = True
                for low, high, code_size, data_size in needs:
                    if not self._reachable(low, high, code_size, data_size):
                        self._add_arena(calls, low, high, code_size, data_size)
                for one in maps.values():
                    at = self._arena_with(0, MAP_SIZE).take_data(MAP_SIZE)
                    open_map(calls, self.memory, self.agent, one, at)
                    self.maps[id(one)] = at, one
                for one in maps.values():
                    offer(self, calls, one)
                for one, number in offers:
                    offer(self, calls, one, number)
            finally:
                self.enlist(before)
        if maps and self.opened is not None:
            self.opened()
        return stop.seconds

    def _load(self, calls: Calls) -> LoadedAgent:
        """The agent, or the one that an earlier workbench had to leave."""
        left, self.left = self.left, None
        if left is None:
            return load_agent(calls, self.memory, self.mark)
        if failure := calls.function(left.agent.symbols["wb_agent_start"], 1):
            raise MissingCapability(f"the agent cannot start: {os.strerror(-failure)}")
        return left.agent

    def adopt(self, left: Left) -> None:
        """Use again what an earlier workbench had to leave."""
        self.left, self.mark = left, left.mark
        self.arenas = list(left.arenas)
        self.trampolines = dict(left.trampolines)

    def strike(self, start: int, end: int) -> None:
        """Strike out of the ledger what is about to be unmapped in the held process."""
        assert self.agent is not None
        ledger = read_ledger(self.memory, self.agent.ledger, self.mark)
        if ledger is not None:
            write_ledger(self.memory, self.agent.ledger, ledger.without(start, end))

    def enlist(self, before: Sequence[Mapping]) -> None:
        """Write down in the held process what is mapped since."""
        agent = self.agent
        assert agent is not None
        ledger = read_ledger(self.memory, agent.ledger, self.mark)
        if ledger is None:
            raise MissingCapability(f"process {self.memory.pid} has overwritten memory of ours")
        arenas = [Entry(one.code, one.end, kept=True) for one in self.arenas]
        known = [Mapping(one.start, one.end, "", 0, "", 0, "") for one in arenas]
        known.append(Mapping(agent.base, agent.base + agent.size, "", 0, "", 0, ""))
        new = beyond(mappings(self.memory.pid), (*before, *known))
        listed = {one.start for one in ledger.entries if one.kept}
        new += [one for one in arenas if one.start not in listed]
        if new or self.copied != ledger.copied:
            ledger = replace(ledger, copied=ledger.copied or self.copied)
            write_ledger(self.memory, agent.ledger, ledger.adding(new))

    def never_free(self) -> None:
        """Return addresses of ours may be copied, to where we do not see them."""
        if self.copied:
            return
        self.copied = True
        if self.agent is not None:
            ledger = read_ledger(self.memory, self.agent.ledger, self.mark)
            if ledger is not None:
                write_ledger(self.memory, self.agent.ledger, replace(ledger, copied=True))

    def _reachable(self, low: int, high: int, code: int, data: int) -> bool:
        return any(one.reaches(low, high) and one.room(code, data) for one in self.arenas)

    def _needs(
        self, modules: Modules, places: list[Place], code: int, data: int
    ) -> list[tuple[int, int, int, int]]:
        """Arenas to map: range that must be in reach, bytes of code and of data."""
        groups: dict[str, list[int]] = {}
        for place in places:
            module = modules.at(place.address)
            groups.setdefault(module.path if module else "", []).append(place.address)
        needs = []
        for addresses in groups.values():
            low, high = min(addresses), max(addresses) + JUMP
            own = _CODE_PER_SITE * len(addresses) + code, _DATA_PER_SITE * len(addresses) + data
            if not self._reachable(low, high, *own):
                needs.append((low, high, *own))
        if not groups and not any(one.room(code, data) for one in self.arenas):
            at = modules.maps[0].start
            needs.append((at, at + JUMP, code, data))
        return needs

    def _add_arena(self, calls: Calls, low: int, high: int, code: int, data: int) -> None:
        assert self.agent is not None
        maps = Modules(self.memory.pid).maps
        arena = map_arena(calls, maps, low, high, max(2 * code, _LEAST), max(2 * data, _LEAST))
        arena.keep_data(64)
        head = self.memory.read(self.agent.symbols["wb_agent"], 16)
        of_calls = self.memory.read(self.agent.symbols["wb_calls"], 32)
        self.memory.write(arena.data, head + self.mark + of_calls)
        self.arenas.append(arena)

    def _arena_with(self, code: int, data: int) -> Arena:
        for one in self.arenas:
            if one.room(code + 64, data + 64):
                return one
        raise MissingCapability("the memory of ours in the target is used up", "attach again")

    def has_code(self, size: int) -> bool:
        """Whether `take_code` needs no more memory of the target."""
        return any(one.room(size + 64, 0) for one in self.arenas)

    def take_code(self, size: int) -> int:
        """Address of `size` fresh bytes of code, a multiple of 32, in any arena."""
        return self._arena_with(size, 0).take_code(size)

    # Writing --------------------------------------------------------------------------------------------------

    def write(self, address: int, data: bytes) -> None:
        """Write at the next `flush`."""
        self._pending.append((address, data))

    def flush(self) -> None:
        """Write what is pending, neighbours in one go (what lies between them is alignment)."""
        runs: list[tuple[int, bytearray]] = []
        for address, data in sorted(self._pending):
            start, run = runs[-1] if runs else (0, bytearray())
            gap = address - (start + len(run))
            if runs and 0 <= gap < 64:
                run += bytes(gap) + data
            else:
                runs.append((address, bytearray(data)))
        self.memory.write_all((start, bytes(run)) for start, run in runs)
        self._pending.clear()

    def add_trampoline(self, place: Place) -> None:
        """Make the place's trampoline and struct wb_site, or take the one that is there."""
        if self._take_again(place):
            return
        arena = next(
            one
            for one in self.arenas
            if one.reaches(place.address, place.address + JUMP)
            and one.room(_CODE_PER_SITE, _DATA_PER_SITE)
        )
        place.record = arena.keep_data(layout.SITE.size)
        at = arena.code + arena.code_used
        try:
            code, back = trampoline(at, place.record, arena.data, place.moved, entry=place.entry)
        except Unjumpable as error:
            raise MissingCapability(f"{place.name} cannot be probed by a jump: {error}") from error
        arena.keep_code(len(code))
        self.write(at, code)
        self._set_trampoline(place, at, back)

    def _set_trampoline(self, place: Place, at: int, back: int) -> None:
        place.patch = jump(place.address, at)
        red = 0 if place.entry else RED_ZONE
        self.write(place.record, layout.SITE.pack(place.address, red, 0, place.flags, 0, 0, back))

    def _take_again(self, place: Place) -> bool:
        """Use the trampoline that an earlier workbench left for the place, if it is what would be made now."""
        at, record = self.trampolines.pop(place.address, (0, 0))
        for arena in self.arenas if at else ():
            if arena.code <= at < arena.data <= record < arena.end:
                code, back = trampoline(at, record, arena.data, place.moved, entry=place.entry)
                if self.memory.read(at, len(code)) == code:
                    place.record = record
                    self._set_trampoline(place, at, back)
                    return True
        return False

    @staticmethod
    def _key(request: Request) -> tuple[int, ...]:
        return id(request.program), *map(id, request.maps)

    def program(self, request: Request, number: int = 0) -> int:
        """Address of the struct wb_program of a request; `number`: its id where a program array names it."""
        key = self._key(request)
        if key in self.programs:
            return self.programs[key][0]
        blob = chosen(request.program)
        size = bytes_now(blob)
        arena = self._arena_with(size, 64 + 8 * len(request.maps) + 128)
        maps = arena.take_data(8 * max(1, len(request.maps)))
        addresses = [self.maps[id(one)][0] for one in request.maps]
        self.write(maps, struct.pack(f"<{len(addresses)}Q", *addresses))
        record = arena.take_data(64)
        entry = self.tiers.place(key, request.program, blob, record, arena.take_code(size))
        self.write(record, layout.PROGRAM.pack(entry, maps, 0, number, _BUDGET))
        self.programs[key] = record, request
        return record

    def add_link(self, process: Process, request: Request, address: int, name: str) -> Link:
        """Make the struct wb_link of an attachment (and of its program, where it is new)."""
        if not self.free_numbers:
            self.free_numbers.append(self.next_number)
            self.next_number += 1
        number = self.free_numbers.pop()
        if number >= layout.LINKS:
            raise BadSpec(
                f"more than {layout.LINKS - 1:,} attachments in one process",
                "enter it a second time",
            )
        record = self._arena_with(0, layout.LINK.size).take_data(layout.LINK.size)
        kind = _KINDS[request.kind]
        self.write(
            record,
            layout.LINK.pack(self.program(request), request.cookie, address, kind, number, 0, 0),
        )
        return Link(process, request, number, name, address, record)

    def add_chain(self, links: Sequence[Link]) -> int:
        """Write the list of what runs at a place; its address, 0 for nothing."""
        if not links:
            return 0
        entries = [one.record for one in links if one.request.kind != "uretprobe"]
        returns = [one.record for one in links if one.request.kind == "uretprobe"]
        data = layout.chain(entries, returns)
        at = self._arena_with(0, len(data)).take_data(len(data))
        self.write(at, data)
        return at
