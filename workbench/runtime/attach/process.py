"""A process that programs are attached to: enter it, patch it in one stop, restore it."""

from __future__ import annotations

import itertools
import random
import struct
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import (
    BadSpec,
    MissingCapability,
    RunFailed,
    TargetGone,
    UnknownSymbol,
    WorkbenchError,
)
from workbench.runtime.attach import layout, ptrace
from workbench.runtime.attach.check import check_target
from workbench.runtime.attach.inside import inside, suspended_inside
from workbench.runtime.attach.link import HookKind, Link, Program, Request
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.modules import Modules
from workbench.runtime.attach.places import Place, Places
from workbench.runtime.attach.records import Record
from workbench.runtime.attach.relocate import JUMP
from workbench.runtime.attach.returns import guard, restore_returns, tasks
from workbench.runtime.attach.room import Room
from workbench.runtime.attach.semaphores import Semaphores
from workbench.runtime.attach.stop import Stop
from workbench.runtime.attach.usdt import expand

if TYPE_CHECKING:
    from workbench.runtime.maps import Map, Space

__all__ = ("Process",)

_PATIENCE = 30.0
_CAREFUL = 20


class Process:
    """A process under our hooks, as a context: leaving it restores every byte.

    Methods may be called from any thread, one at a time. Threads that start later are probed as well, and so is the
    child of a fork, which inherits code and memory (`close` restores it as well). What a process that replaces its
    program (exec) or loads a library (dlopen) has new is found by `refresh`.

    Parameters
    ----------
    pid : int
    space : Space, optional
        The namespace of the maps that programs use.
    filtered : bool
        Enter a process under a seccomp filter, which may kill it for the agent's system calls.

    Attributes
    ----------
    links : list of Link
        What is attached.
    stopped : list of float
        Seconds that the process was held still, for each time.
    waiting : list of Request
        What `refresh` will try.
    on_exec : callable or None
        Called with this object by `refresh` when it finds that the process has replaced its program.

    Raises
    ------
    TargetGone, NotPermitted, MissingCapability
        Gone; another user's or traced already; 32-bit, filtered, or with a shadow stack.
    """

    def __init__(self, pid: int, space: Space | None = None, *, filtered: bool = False) -> None:
        check_target(pid, filtered=filtered)
        self.pid, self.space = pid, space
        self.memory = Memory(pid)
        self.links: list[Link] = []
        self.stopped: list[float] = []
        self.room = Room(self.memory, space)
        self.places = Places(self.memory)
        self._semaphores = Semaphores(self.memory)
        self._record: Record | None = None
        self.waiting: list[Request] = []
        self.on_exec: Callable[[Process], None] | None = None

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
        """Attach one program; see `Request`. A USDT mark with several places gives the first, with its `siblings`."""
        links = self.attach_many([Request(program, site, kind, cookie, tuple(maps))])
        links[0].siblings = tuple(links[1:])
        return links[0]

    def attach_many(
        self,
        requests: Sequence[Request],
        refused: list[tuple[Request, WorkbenchError]] | None = None,
        *,
        wait: bool = False,
    ) -> list[Link]:
        """Attach many programs while the process is held once.

        Parameters
        ----------
        requests : sequence of Request
        refused : list, optional
            Takes the requests that are impossible, each with its reason; without it the first one raises and
            nothing is attached.
        wait : bool
            Keep requests for libraries and functions that the process does not have yet for `refresh`.

        Returns
        -------
        list of Link
            In the order of the requests; one for each place of a USDT mark.
        """
        modules = Modules(self.pid)
        wanted: list[tuple[Request, Place]] = []
        fresh: dict[int, Place] = {}
        for request in requests:
            try:
                self._check(request, modules)
                wanted += [
                    (one, self.places.wanted(one, modules, fresh))
                    for one in expand(request, modules)
                ]
            except WorkbenchError as error:
                if wait and isinstance(error, UnknownSymbol):
                    self.waiting.append(request)
                elif refused is None:
                    raise
                else:
                    refused.append((request, error))
        if not wanted:
            return []
        guards = []
        if any(request.kind == "uretprobe" for request, _ in wanted):
            guards = guard(modules, self.places, fresh)
        held = self.room.prepare(
            modules, list(fresh.values()), [request for request, _ in wanted], self._entered
        )
        if held is not None:
            self.stopped.append(held)
        for place in fresh.values():
            self.room.add_trampoline(place)
        links = [self.room.add_link(self, request, place) for request, place in wanted]
        for link, base in zip(links, self._counters([link.number for link in links]), strict=True):
            link.base = base
        self.places.add(fresh.values())
        for link, (_, place) in zip(links, wanted, strict=True):
            place.links.append(link)
        try:
            self._apply({place.address: place for place in (*guards, *(p for _, p in wanted))})
        except BaseException:
            for link, (_, place) in zip(links, wanted, strict=True):
                place.links.remove(link)
            raise
        self.links += links
        return links

    def _check(self, request: Request, modules: Modules) -> None:
        if getattr(request.program, "vectors", False):
            raise BadSpec(
                "the program uses vector registers, which a probe does not save",
                "compile it with vectors=False",
            )
        if request.maps and self.space is None:
            raise BadSpec("a program with maps needs their namespace", "Process(pid, space)")
        if request.kind == "uretprobe" and any("greenlet" in one.name for one in modules.all):
            raise BadSpec(
                "the process has greenlets, which copy their stacks: returns cannot be followed",
                "probe entries, or use backend='kernel'",
            )

    def _entered(self, agent: object) -> None:
        if self._record is None:
            self._record = Record(self.pid)
        assert self.room.agent is not None
        self._record.agent(self.room.agent)

    def refresh(self) -> list[Link]:
        """Attach to what the process has new; the links that came (or came back).

        A program that was replaced (exec) has no hook of ours any more: links whose sites are names are attached to
        the new program, those that are addresses or unknown there wait or are gone. Then what waits is tried again:
        libraries loaded since (dlopen). Nothing in the target tells of either: call this at intervals, or when you
        know; what ran in between was not seen.
        """
        before = self.links
        if self._was_replaced():
            self.memory.reopen()
            self.room.clear()
            self.places.clear()
            self._semaphores.clear()
            for link in before:
                link.detached = True
            self.links = []
            self.waiting += [one.request for one in before if isinstance(one.request.site, str)]
            if self.on_exec is not None:
                self.on_exec(self)
        waiting, self.waiting = self.waiting, []
        return self.attach_many(waiting, wait=True) if waiting else []

    def _was_replaced(self) -> bool:
        agent = self.room.agent
        if agent is None:
            return False
        try:
            fresh = Memory(self.pid)
            try:
                return fresh.read(agent.symbols["wb_agent"], 8) != self.memory.read(
                    agent.symbols["wb_agent"], 8
                )
            finally:
                fresh.close()
        except MissingCapability:
            return True

    # Changing code while the process is held ----------------------------------------------------------------------

    def _apply(
        self, places: dict[int, Place], gone: Sequence[Link] = (), *, clean: bool = False
    ) -> None:
        """In one stop: what runs at places, and jumps or original bytes there.

        Programs of links that are `gone` do not run any more, not even for functions that are yet to return; `clean`
        puts return addresses back.
        """
        chains = {place.address: self.room.add_chain(place.links) for place in places.values()}
        self.room.flush()
        if self._record:
            self._record.sites(
                (place.address, place.original, place.patch, place.record)
                for place in places.values()
                if not place.installed
            )
        starts = sorted(places)

        attempts = itertools.count()

        def change(stop: Stop) -> bool:
            if inside(stop, starts):
                return False
            # What looks like an interrupted counter may be an old word that a function never wrote over.
            if next(attempts) < _CAREFUL and suspended_inside(stop, self.memory, starts):
                return False
            agent = self.room.agent
            early = any(ptrace.get_registers(one).fs_base == 0 for one in list(stop.threads))
            if agent is not None:
                if clean:
                    restore_returns(self.memory, agent)
                at = agent.symbols["wb_agent"] + layout.EARLY
                self.memory.write(at, struct.pack("<Q", early))
            for link in gone:
                self.memory.write(link.record, bytes(8))
            for place in places.values():
                self._change(place, chains[place.address], fast=not early)
            self._semaphores.apply(self._record, (link.request.semaphore for link in self._all()))
            return True

        self._held(change)

    def _all(self) -> list[Link]:
        return [link for place in self.places for link in place.links]

    def _held(self, change: Callable[[Stop], bool]) -> None:
        """Hold the process and change it; again when `change` says that a thread is in the way."""
        end = time.monotonic() + _PATIENCE
        while True:
            with Stop(self.pid) as stop:
                done = change(stop)
            self.stopped.append(stop.seconds)
            if done:
                return
            if time.monotonic() > end:
                raise RunFailed(
                    f"process {self.pid} has a thread inside the bytes to replace, each time it is held",
                    "probe another instruction",
                )
            time.sleep(random.uniform(0, 0.002))

    def _change(self, place: Place, chain: int, *, fast: bool) -> None:
        """Every prefix of these writes leaves working code: the list of programs is whole before the jump is there.

        `fast`: every thread has a thread control block, so the agent may read it.
        """
        now = self.memory.read(place.address, JUMP)
        only = 0
        if fast and not place.flags and [one.request.kind for one in place.links] == ["uprobe"]:
            only = place.links[0].record
        self.memory.write(place.record + 16, struct.pack("<QIIQ", chain, place.flags, 0, only))
        if place.needed and not place.installed:
            if now != place.original:
                raise RunFailed(
                    f"the code of {place.name} changed while it was being attached", "attach again"
                )
            self.memory.write(place.address, place.patch)
            place.installed = True
        elif place.installed and not place.needed and now == place.patch:
            self.memory.write(place.address, place.original)
            place.installed = False

    # Detaching --------------------------------------------------------------------------------------------------

    def detach(self, links: Sequence[Link]) -> None:
        """Take programs off their places in one stop; links that are detached already do not matter."""
        gone = [link for link in links if not link.detached]
        if not gone:
            return
        places = {link.address: self.places[link.address] for link in gone}
        for link, now in zip(gone, self._counters([one.number for one in gone]), strict=True):
            link.last = now[0] - link.base[0], now[1] - link.base[1]
            link.detached = True
            places[link.address].links.remove(link)
        left = set(map(id, gone))
        self.links = [link for link in self.links if id(link) not in left]
        clean = any(link.request.kind == "uretprobe" for link in gone) and not any(
            link.request.kind == "uretprobe" for link in self.links
        )
        if clean:
            for place in self.places:
                if place.unwinder:
                    place.unwinder = False
                    places[place.address] = place
        try:
            self._apply(places, gone, clean=clean)
        except TargetGone:
            return
        self.room.free_numbers += [link.number for link in gone]

    def close(self) -> None:
        """Detach everything; the process goes on as if it had never been entered. Harmless twice."""
        self.waiting = []
        record, self._record = self._record, None
        try:
            self.detach(list(self.links))
            if record:
                record.restore_relatives(self.pid)
                record.close()
        finally:
            if record:
                record.keep()
            self.memory.close()

    # Counters -------------------------------------------------------------------------------------------------

    def _counters(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Hits and misses by number (which several links may have had), all threads together."""
        total = np.zeros((2, layout.LINKS), np.uint64)
        agent, size = self.room.agent, 8 * (max(numbers, default=0) + 1)
        try:
            for task in tasks(self.memory, agent) if agent else ():
                for row, offset in enumerate((layout.HITS, layout.MISSED)):
                    words = np.frombuffer(self.memory.read(task + offset, size), np.uint64)
                    total[row, : len(words)] += words
        except WorkbenchError:  # gone: nothing more is known
            total[:] = 0
        return [(int(total[0, number]), int(total[1, number])) for number in numbers]

    def count(self, link: Link, what: str) -> int:
        """Hits or misses of one link since it was attached."""
        which = int(what == "missed")
        if link.detached:
            return link.last[which]
        now = self._counters([link.number])[0][which]
        return max(0, now - link.base[which])
