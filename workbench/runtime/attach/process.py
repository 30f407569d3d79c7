"""A process that programs are attached to: enter it, patch it in one stop, restore it."""

from __future__ import annotations

import bisect
import itertools
import random
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.errors import BadSpec, MissingCapability, RunFailed, TargetGone, WorkbenchError
from workbench.runtime.attach import layout, ptrace
from workbench.runtime.attach.agent import LoadedAgent, load_agent
from workbench.runtime.attach.arena import Arena, map_arena
from workbench.runtime.attach.link import HookKind, Link, Program, Request
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.modules import Function, Modules
from workbench.runtime.attach.records import Record
from workbench.runtime.attach.relocate import JUMP, Displaced, Unjumpable, branch_targets, plan
from workbench.runtime.attach.remote import Calls
from workbench.runtime.attach.returns import restore_returns, tasks, unwinders
from workbench.runtime.attach.segments import MAP_SIZE, join_space, open_map
from workbench.runtime.attach.stop import Stop
from workbench.runtime.attach.trampoline import jump, trampoline

if TYPE_CHECKING:
    from workbench.runtime.maps import Map, Space

__all__ = ("Process",)

_LINKS = 4096
_CODE_PER_SITE, _DATA_PER_SITE = 224, 256
_LEAST_CODE, _LEAST_DATA = 1 << 16, 1 << 16
_PATIENCE = 30.0
_BUDGET = 1 << 20


@dataclass(slots=True)
class _Site:
    """A place that is, was, or is about to be patched; its trampoline is made once and kept."""

    address: int
    name: str
    moved: Displaced
    entry: bool
    original: bytes
    patch: bytes = b""
    record: int = 0
    installed: bool = False
    unwinder: bool = False
    links: list[Link] = field(default_factory=list)

    @property
    def needed(self) -> bool:
        """A jump belongs here."""
        return bool(self.links) or self.unwinder


class Process:
    """A process under our hooks, as a context: leaving it restores every byte.

    Parameters
    ----------
    pid : int
    space : Space, optional
        The namespace of the maps that programs use.

    Attributes
    ----------
    stopped : list of float
        Seconds that the process was held still, for each time.

    Raises
    ------
    TargetGone, NotPermitted, MissingCapability
    """

    def __init__(self, pid: int, space: Space | None = None) -> None:
        self.pid, self.space = pid, space
        self.memory = Memory(pid)
        self.stopped: list[float] = []
        self.agent: LoadedAgent | None = None
        self._arenas: list[Arena] = []
        self._sites: dict[int, _Site] = {}
        self._programs: dict[tuple[int, ...], tuple[int, Request]] = {}
        self._maps: dict[int, tuple[int, Map]] = {}
        self._numbers = itertools.count(1)
        self._pending: list[tuple[int, bytes]] = []
        self.links: list[Link] = []
        self._record: Record | None = None

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Attaching ------------------------------------------------------------------------------------------------

    def attach(
        self,
        program: Program,
        site: str | int,
        kind: HookKind = "uprobe",
        *,
        cookie: int = 0,
        maps: Sequence[Map] = (),
    ) -> Link:
        """Attach one program; see `Request`."""
        return self.attach_many([Request(program, site, kind, cookie, tuple(maps))])[0]

    def attach_many(
        self,
        requests: Sequence[Request],
        refused: list[tuple[Request, WorkbenchError]] | None = None,
    ) -> list[Link]:
        """Attach many programs while the process is held once.

        Parameters
        ----------
        requests : sequence of Request
        refused : list, optional
            Takes the requests that are impossible, each with its reason; without it the first one raises and
            nothing is attached.
        """
        modules = Modules(self.pid)
        wanted: list[tuple[Request, _Site]] = []
        fresh: dict[int, _Site] = {}
        for request in requests:
            try:
                wanted.append((request, self._site(request, modules, fresh)))
            except WorkbenchError as error:
                if refused is None:
                    raise
                refused.append((request, error))
        guards = self._guard_unwinders(modules, wanted, fresh)
        self._make_room(modules, list(fresh.values()), [request for request, _ in wanted])
        for site in fresh.values():
            self._write_trampoline(site)
        links = [self._link(request, site) for request, site in wanted]
        changed = {site.address: site for site in (*guards, *(site for _, site in wanted))}
        chains = {site.address: self._chain(site) for site in changed.values()}
        self._flush()
        self._patch(list(changed.values()), chains)
        self._sites.update(fresh)
        self.links += links
        return links

    def _guard_unwinders(
        self, modules: Modules, wanted: list[tuple[Request, _Site]], fresh: dict[int, _Site]
    ) -> list[_Site]:
        """Sites at the unwinders' entries, where the first return probe needs them."""
        if not any(request.kind == "uretprobe" for request, _ in wanted):
            return []
        found = []
        for function in unwinders(modules):
            known = self._sites.get(function.address) or fresh.get(function.address)
            site = known or self._plan(function.address, function)
            if not site.unwinder:
                site.unwinder = True
                found.append(site)
            if not known:
                fresh[function.address] = site
        return found

    def _site(self, request: Request, modules: Modules, fresh: dict[int, _Site]) -> _Site:
        if getattr(request.program, "vectors", False):
            raise BadSpec(
                "the program uses vector registers, which a probe does not save",
                "compile it with vectors=False",
            )
        if request.maps and self.space is None:
            raise BadSpec("a program with maps needs their namespace", "Process(pid, space)")
        address, function = modules.resolve(request.site)
        if request.kind in ("uretprobe", "override", "replace") and (
            function is None or function.address != address
        ):
            raise BadSpec(
                f"{request.kind} {request.site}: not the first instruction of a function",
                "name the function without offset, or use kind='uprobe'",
            )
        known = self._sites.get(address) or fresh.get(address)
        if known:
            return known
        site = self._plan(address, function)
        for other in (*self._sites.values(), *fresh.values()):
            if other.address - JUMP < address < other.address + JUMP:
                raise MissingCapability(
                    f"{site.name} lies within {JUMP} bytes of the probed {other.name}",
                    "probe one of the two",
                )
        fresh[address] = site
        return site

    def _plan(self, address: int, function: Function | None) -> _Site:
        start = function.address if function else address
        size = max(function.size, 1) if function else 64
        name = f"{address:#x}"
        if function:
            offset = address - function.address
            name = f"{function.module.name}:{function.name}" + (f"+{offset:#x}" if offset else "")
        code = self._original(start, size + 16)
        try:
            moved = plan(
                code[address - start :],
                address,
                size - (address - start),
                targets=branch_targets(code[:size], start),
            )
        except Unjumpable as error:
            raise MissingCapability(
                f"{name} cannot be probed by a jump: {error}", "probe another instruction of it"
            ) from error
        entry = function is not None and address == function.address
        return _Site(address, name, moved, entry, code[address - start :][:JUMP])

    def _original(self, address: int, size: int) -> bytes:
        """Code as it is without our patches; shorter where the mapping ends."""
        try:
            code = bytearray(self.memory.read(address, size))
        except MissingCapability:
            code = bytearray(self.memory.read(address, size - 16))
        for site in self._sites.values():
            if site.installed and address - JUMP < site.address < address + len(code):
                for i, byte in enumerate(site.original):
                    if 0 <= site.address + i - address < len(code):
                        code[site.address + i - address] = byte
        return bytes(code)

    # Memory of ours in the target -----------------------------------------------------------------------------

    def _arena(self, site: _Site) -> Arena:
        for arena in self._arenas:
            if arena.reaches(site.address, site.address + JUMP) and arena.room(
                _CODE_PER_SITE, _DATA_PER_SITE
            ):
                return arena
        raise MissingCapability(f"no memory near {site.name}")

    def _make_room(self, modules: Modules, sites: list[_Site], requests: list[Request]) -> None:
        groups: dict[str, list[int]] = {}
        for site in sites:
            module = modules.at(site.address)
            groups.setdefault(module.path if module else "", []).append(site.address)
        new = {self._key(r): r for r in requests if self._key(r) not in self._programs}
        code = sum(len(r.program.code) + 64 for r in new.values())
        maps = {id(m): m for r in new.values() for m in r.maps if id(m) not in self._maps}
        data = 256 * len(requests) + sum(8 * len(r.maps) + 256 for r in new.values())
        data += 128 * len(maps)
        needs = []
        for addresses in groups.values():
            low, high = min(addresses), max(addresses) + JUMP
            own_code, own_data = _CODE_PER_SITE * len(addresses), _DATA_PER_SITE * len(addresses)
            if not any(
                a.reaches(low, high) and a.room(own_code + code, own_data + data)
                for a in self._arenas
            ):
                needs.append((low, high, own_code + code, own_data + data))
        if self.agent and not needs and not maps:
            return
        with Stop(self.pid) as stop:
            stub = self.agent.stub if self.agent else 0
            with Calls(stop, self.memory, stub) as calls:
                if self.agent is None:
                    self.agent = load_agent(calls, self.memory)
                    self._record = Record(self.pid)
                    self._record.agent(self.agent)
                    if self.space is not None:
                        join_space(calls, self.memory, self.agent, self.space)
                for low, high, code, data in needs:
                    if any(a.reaches(low, high) and a.room(code, data) for a in self._arenas):
                        continue
                    arena = map_arena(
                        calls,
                        Modules(self.pid).maps,
                        low,
                        high,
                        max(2 * code, _LEAST_CODE),
                        max(2 * data, _LEAST_DATA),
                    )
                    arena.take_data(64)
                    enter = self.memory.read(self.agent.symbols["wb_agent"], 8)
                    self.memory.write(arena.data, enter)
                    self._arenas.append(arena)
                for one in maps.values():
                    at = next(a for a in self._arenas if a.room(0, data)).take_data(MAP_SIZE)
                    open_map(calls, self.memory, self.agent, one, at)
                    self._maps[id(one)] = at, one
        self.stopped.append(stop.seconds)

    def _write(self, address: int, data: bytes) -> None:
        self._pending.append((address, data))

    def _flush(self) -> None:
        """Write what is pending, neighbours in one go."""
        run, start = bytearray(), 0
        for address, data in sorted(self._pending):
            if run and 0 <= address - (start + len(run)) < 64:
                run += bytes(address - (start + len(run))) + data
                continue
            if run:
                self.memory.write(start, bytes(run))
            run, start = bytearray(data), address
        if run:
            self.memory.write(start, bytes(run))
        self._pending.clear()

    def _write_trampoline(self, site: _Site) -> None:
        arena = self._arena(site)
        site.record = arena.take_data(layout.SITE.size)
        at = arena.code + arena.code_used
        try:
            code = trampoline(at, site.record, arena.data, site.moved, entry=site.entry)
        except Unjumpable as error:
            raise MissingCapability(f"{site.name} cannot be probed by a jump: {error}") from error
        arena.take_code(len(code))
        self._write(at, code)
        site.patch = jump(site.address, at)
        flags = (0 if site.entry else layout.MIDDLE) | (layout.UNWINDER if site.unwinder else 0)
        red = 0 if site.entry else 128
        self._write(site.record, layout.SITE.pack(site.address, red, 0, flags, 0, 0))

    @staticmethod
    def _key(request: Request) -> tuple[int, ...]:
        return id(request.program), *map(id, request.maps)

    def _program(self, request: Request) -> int:
        key = self._key(request)
        if key in self._programs:
            return self._programs[key][0]
        program = request.program
        arena = next(
            a
            for a in self._arenas
            if a.room(len(program.code) + 64, layout.PROGRAM.size + 8 * len(request.maps) + 128)
        )
        code = arena.take_code(len(program.code))
        self._write(code, bytes(program.code))
        maps = arena.take_data(8 * max(1, len(request.maps)))
        self._write(
            maps,
            struct.pack(f"<{len(request.maps)}Q", *(self._maps[id(m)][0] for m in request.maps)),
        )
        record = arena.take_data(layout.PROGRAM.size)
        self._write(record, layout.PROGRAM.pack(code + program.entry, maps, 0, 0, _BUDGET))
        self._programs[key] = (record, request)
        return record

    def _link(self, request: Request, site: _Site) -> Link:
        number = next(self._numbers)
        if number >= _LINKS:
            raise BadSpec(f"more than {_LINKS - 1} attachments in one process")
        arena = next(a for a in self._arenas if a.room(0, 256))
        record = arena.take_data(layout.LINK.size)
        kind = {
            "uprobe": layout.ENTRY,
            "usdt": layout.ENTRY,
            "uretprobe": layout.RETURN,
            "override": layout.OVERRIDE,
            "replace": layout.REPLACE,
        }[request.kind]
        program = self._program(request)
        self._write(
            record, layout.LINK.pack(program, request.cookie, site.address, kind, number, 0, 0)
        )
        link = Link(self, request, number, site.name, site.address, record)
        site.links.append(link)
        return link

    def _chain(self, site: _Site) -> int:
        """Write the list of what runs at a site; its address, 0 for nothing."""
        if not site.links:
            return 0
        entries = [one.record for one in site.links if one.request.kind != "uretprobe"]
        returns = [one.record for one in site.links if one.request.kind == "uretprobe"]
        data = layout.chain(entries, returns)
        arena = next(a for a in self._arenas if a.room(0, len(data) + 64))
        at = arena.take_data(len(data))
        self._write(at, data)
        return at

    # Changing code while the process is held ----------------------------------------------------------------------

    def _patch(
        self,
        sites: list[_Site],
        chains: dict[int, int],
        gone: Sequence[Link] = (),
        *,
        clean: bool = False,
    ) -> None:
        """Set the chains and write the jumps (or the original bytes, for an empty chain) in one stop.

        Programs of links that are `gone` do not run any more, not even for functions that are yet to return; `clean`
        puts the return addresses back.
        """
        if self._record:
            self._record.sites(
                (site.address, site.original, site.patch, site.record)
                for site in sites
                if not site.installed
            )
        starts = sorted(site.address for site in sites)
        end = time.monotonic() + _PATIENCE
        while True:
            with Stop(self.pid) as stop:
                inside = self._inside(stop, starts)
                if clean and not inside and self.agent:
                    inside = not restore_returns(stop, self.memory, self.agent)
                if not inside:
                    self._note_early(stop)
                    for link in gone:
                        self.memory.write(link.record, bytes(8))
                    for site in sites:
                        self._change(site, chains[site.address])
            self.stopped.append(stop.seconds)
            if not inside:
                return
            if time.monotonic() > end:
                raise RunFailed(
                    f"process {self.pid} has a thread inside the bytes to replace, each time it is held"
                )
            time.sleep(random.uniform(0, 0.002))

    def _note_early(self, stop: Stop) -> None:
        """Tell the agent whether a thread has no thread control block yet: then it must not be read."""
        if self.agent is not None:
            early = any(ptrace.get_registers(one).fs_base == 0 for one in list(stop.threads))
            at = self.agent.symbols["wb_agent"] + layout.EARLY
            self.memory.write(at, struct.pack("<Q", early))

    @staticmethod
    def _inside(stop: Stop, starts: list[int]) -> bool:
        for counter in stop.counters().values():
            i = bisect.bisect_left(starts, counter) - 1
            if i >= 0 and starts[i] < counter < starts[i] + JUMP:
                return True
        return False

    def _change(self, site: _Site, chain: int) -> None:
        now = self.memory.read(site.address, len(site.patch))
        flags = (0 if site.entry else layout.MIDDLE) | (layout.UNWINDER if site.unwinder else 0)
        only = 0
        if not flags and len(site.links) == 1 and site.links[0].request.kind == "uprobe":
            only = site.links[0].record
        self.memory.write(site.record + 16, struct.pack("<QIIQ", chain, flags, 0, only))
        if site.needed and not site.installed:
            if now != site.original:
                raise RunFailed(
                    f"the code of {site.name} changed while it was being attached", "attach again"
                )
            self.memory.write(site.address, site.patch)
            site.installed = True
        elif site.installed and not site.needed and now == site.patch:
            self.memory.write(site.address, site.original)
            site.installed = False

    def detach(self, links: Sequence[Link]) -> None:
        """Take programs off their sites in one stop; links that are detached already do not matter."""
        gone = [link for link in links if not link.detached]
        if not gone:
            return
        sites = {link.address: self._sites[link.address] for link in gone}
        for link in gone:
            link.detached = True
            self._sites[link.address].links.remove(link)
            self.links.remove(link)
        clean = any(link.request.kind == "uretprobe" for link in gone) and not any(
            link.request.kind == "uretprobe" for link in self.links
        )
        if clean:
            for site in self._sites.values():
                if site.unwinder:
                    site.unwinder = False
                    sites[site.address] = site
        try:
            chains = {site.address: self._chain(site) for site in sites.values()}
            self._flush()
            self._patch(list(sites.values()), chains, gone, clean=clean)
        except TargetGone:
            return

    def close(self) -> None:
        """Detach everything; the process goes on as if it had never been entered. Harmless twice."""
        try:
            self.detach(list(self.links))
            if self._record:
                self._record.close()
        finally:
            if self._record:
                self._record.keep()
            self.memory.close()

    # Counters -----------------------------------------------------------------------------------------------------

    def count(self, link: Link, what: str) -> int:
        """Sum over the threads of a counter of one link."""
        if self.agent is None:
            return 0
        offset = layout.HITS if what == "hits" else layout.MISSED
        total = 0
        for task in tasks(self.memory, self.agent):
            total += struct.unpack("<Q", self.memory.read(task + offset + 8 * link.number, 8))[0]
        return total
