"""A process that programs are attached to: enter it, patch it in one stop, restore it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.errors import (
    MissingCapability,
    TargetGone,
    UnknownSymbol,
    WorkbenchError,
)
from workbench.runtime.attach.check import check_target
from workbench.runtime.attach.counters import Counters, difference
from workbench.runtime.attach.entered import Entered
from workbench.runtime.attach.family import Family
from workbench.runtime.attach.link import HookKind, Link, Program, Request
from workbench.runtime.attach.memory import Memory, mappings
from workbench.runtime.attach.modules import Modules
from workbench.runtime.attach.places import Place
from workbench.runtime.attach.returns import copied, guard
from workbench.runtime.attach.signals import Signals
from workbench.runtime.attach.spots import placed
from workbench.runtime.attach.syscalls import SystemCalls
from workbench.runtime.attach.usdt import expand

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Spot
    from workbench.runtime.maps import Map, Space

__all__ = ("Process",)


class Process(Entered):
    """A process under our hooks, as a context: leaving it restores every byte.

    Methods may be called from any thread (`lock` is held meanwhile). Threads that start later are probed as well, and
    so is the child of a fork, which inherits code and memory: taking a link off takes it off there as well. What a
    process that replaces its program (exec) or loads a library (dlopen) has new is found by `refresh`.

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
    family : Family
        Children that inherited hooks.
    held : bool
        Somebody entered it for its own sake, not only as a child.
    parent : Process or None
        Whose hooks this one inherited, while that one is open.

    Raises
    ------
    TargetGone, NotPermitted, MissingCapability
        Gone; another user's or traced already; 32-bit, filtered, or with a shadow stack.
    """

    def __init__(self, pid: int, space: Space | None = None, *, filtered: bool = False) -> None:
        super().__init__(pid, space, filtered=filtered)
        self.waiting: list[Request] = []
        self.on_exec: Callable[[Process], None] | None = None
        self.family = Family(self)
        self.held = False
        self.counters = Counters(self)
        self._apart: list[Link] = []
        self._signals: Signals | None = None
        self._code: set[tuple[int, int]] | None = None

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
        site: str | int | Spot,
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
        with self.lock:
            return self._attach_many(requests, refused, wait)

    def _attach_many(
        self,
        requests: Sequence[Request],
        refused: list[tuple[Request, WorkbenchError]] | None,
        wait: bool,
    ) -> list[Link]:
        modules = Modules(self.pid)
        wanted: list[tuple[Request, Request, Place]] = []
        fresh: dict[int, Place] = {}
        found: list[Link | None] = []
        later: list[Request] = []
        for asked, known in zip(requests, placed(self.pid, requests), strict=True):
            try:
                if isinstance(known, WorkbenchError):
                    raise known
                if (inherited := self._inherited(known)) is not None:
                    inherited.asked, inherited.claimed = asked, True
                    found.append(inherited)
                    continue
                self._check(known, modules)
                new = [
                    (asked, one, self.places.wanted(one, modules, fresh))
                    for one in expand(known, modules)
                ]
                wanted += new
                found += [None] * len(new)
            except WorkbenchError as error:
                if wait and isinstance(error, UnknownSymbol):
                    later.append(asked)
                elif refused is None:
                    raise
                else:
                    refused.append((asked, error))
        made = iter(self._make(modules, wanted, fresh) if wanted else ())
        self.waiting += later
        links = [next(made) if one is None else one for one in found]
        for link in links:
            link.claimed = True
        return links

    def _inherited(self, request: Request) -> Link | None:
        """What the parent attached and this process has by its fork."""
        if self.parent is None or not isinstance(request.site, int):
            return None
        for link in self.links:
            other = link.request
            if (
                link.origin is not None
                and not link.claimed
                and link.address == request.site
                and other.program is request.program
                and (other.kind, other.cookie) == (request.kind, request.cookie)
                and [*map(id, other.maps)] == [*map(id, request.maps)]
            ):
                return link
        return None

    def _make(
        self,
        modules: Modules,
        wanted: list[tuple[Request, Request, Place]],
        fresh: dict[int, Place],
    ) -> list[Link]:
        guards = []
        if any(request.kind == "uretprobe" for _, request, _ in wanted):
            guards = guard(modules, self.places, fresh)
            names = (place.function for _, request, place in wanted if request.kind == "uretprobe")
            if copied(modules, names):
                self.room.never_free()
        held = self.room.prepare(
            modules, list(fresh.values()), [request for _, request, _ in wanted], self._entered
        )
        if held is not None:
            self.stopped.append(held)
        for place in fresh.values():
            self.room.add_trampoline(place)
        links = [
            self.room.add_link(self, request, place.address, place.name)
            for _, request, place in wanted
        ]
        bases = self.counters.read([link.number for link in links])
        for link, base, (asked, _, _) in zip(links, bases, wanted, strict=True):
            link.base, link.asked = base, asked
        self.places.add(fresh.values())
        for link, (_, _, place) in zip(links, wanted, strict=True):
            place.links.append(link)
        try:
            self._apply({place.address: place for place in (*guards, *(p for *_, p in wanted))})
        except BaseException:
            for link, (_, _, place) in zip(links, wanted, strict=True):
                place.links.remove(link)
            raise
        self.links += links
        return links

    # Programs that no place runs ---------------------------------------------------------------------------------

    def add_link(self, request: Request) -> Link:
        """A program that is run by other means than a place; `site` of the request does not matter."""
        with self.lock:
            modules = Modules(self.pid)
            self._check(request, modules)
            held = self.room.prepare(modules, [], [request], self._entered)
            if held is not None:
                self.stopped.append(held)
            link = self.room.add_link(self, request, 0, str(request.site))
            self.room.flush()
            link.base = self.counters.read([link.number])[0]
            self._apart.append(link)
            return link

    def drop_link(self, link: Link) -> None:
        """Its program does not run any more; harmless twice."""
        with self.lock:
            if link.detached:
                return
            now = self.counters.read([link.number])[0]
            link.last = difference(now, link.base)
            link.detached = True
            self._apart.remove(link)
            self.memory.write(link.record, bytes(8))
            self.room.free_numbers.append(link.number)

    def signals(self) -> Signals:
        """The handler of SIGTRAP in the process; whoever needs it holds it."""
        with self.lock:
            agent = self.enter()
            if self._signals is None or self._signals.agent is not agent:
                assert self._record is not None
                self._signals = Signals(self.memory, agent, self._record)
            return self._signals

    @property
    def system_calls(self) -> SystemCalls:
        """Programs at its system calls."""
        if self._system_calls is None:
            self._system_calls = SystemCalls(self)
        return self._system_calls

    def refresh(self) -> list[Link]:
        """Attach to what the process has new; the links that came (or came back).

        A program that was replaced (exec) has no hook of ours any more: links whose sites are names are attached to
        the new program, those that are addresses or unknown there wait or are gone. Then what waits is tried again:
        libraries loaded since (dlopen). Nothing in the target tells of either: call this at intervals, or when you
        know; what ran in between was not seen.
        """
        with self.lock:
            if self.room.agent is None:
                self.memory.reopen()  # it may have replaced its program before anything was attached
            elif self.was_replaced():
                self._begin_anew()
            elif self._system_calls is not None:
                self._system_calls.refresh()
            waiting, self.waiting = self.waiting, []
            if not waiting:
                return []
            refused: list[tuple[Request, WorkbenchError]] = []
            links = self.attach_many(waiting, refused, wait=True)
            for link in links:
                if link.asked is not None and link.asked.holder is not None:
                    link.asked.holder.append(link)
            return links

    def look(self) -> None:
        """Follow it: children that are new, a program that was replaced, libraries loaded since.

        Cheap where nothing has happened; `refresh` is called only where something has.
        """
        with self.lock:
            if self._closed:
                return
            if self.parent is None:
                self.family.look()
            self.counters.refresh()
            if self.was_replaced():
                self.refresh()
            elif self.waiting or self._system_calls is not None:
                code = {(one.start, one.inode) for one in mappings(self.pid) if one.executable}
                if code != self._code:
                    self._code = code
                    self.refresh()

    def waits_for(self, holder: list[Link]) -> bool:
        """A request with this holder waits."""
        with self.lock:
            return any(one.holder is holder for one in self.waiting)

    def cancel(self, holder: list[Link]) -> None:
        """Requests with this holder wait no longer."""
        with self.lock:
            self.waiting = [one for one in self.waiting if one.holder is not holder]

    def _begin_anew(self) -> None:
        """Another program runs: what we had is gone with the old one."""
        calls = self._system_calls.links if self._system_calls is not None else ()
        self.counters.freeze([*self.links, *self._apart, *calls])
        for link in self._apart:
            link.detached = True
        self._apart = []
        self.leave_family()
        self.counters.clear()
        self.memory.reopen()
        self.listening.close()
        self.room.clear()
        self.places.clear()
        self._semaphores.clear()
        again: dict[int, Request] = {}
        for link in self.links:
            link.detached = True
            asked = link.asked or link.request
            if asked.holder is not None and link in asked.holder:
                asked.holder.remove(link)
            if not isinstance(asked.site, int) and (link.origin is None or link.claimed):
                again[id(asked)] = asked
        self.links = []
        self.waiting += again.values()
        self._code = None
        try:
            check_target(self.pid, filtered=self._filtered)
        except WorkbenchError:
            self.waiting = []
            raise
        if self._system_calls is not None:
            self._system_calls.replaced()
        if self.on_exec is not None:
            self.on_exec(self)

    def was_replaced(self) -> bool:
        """It runs another program than the one that was entered."""
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

    # Detaching --------------------------------------------------------------------------------------------------

    def detach(self, links: Sequence[Link]) -> None:
        """Take programs off their places in one stop; links that are detached already do not matter."""
        with self.lock:
            gone = [link for link in links if not link.detached]
            if not gone:
                return
            self.family.look()
            copies = self.family.copies(gone)
            self._detach(gone)
            for child, theirs in copies.items():
                with contextlib.suppress(WorkbenchError):
                    child.detach(theirs)

    def _detach(self, gone: Sequence[Link]) -> None:
        places = {link.address: self.places[link.address] for link in gone}
        for link, now in zip(gone, self.counters.since(gone), strict=True):
            link.last = now
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
        if not self.links:
            places |= {one.address: one for one in self.places if one.installed}
        try:
            self._apply(places, gone, clean=clean)
        except TargetGone:
            return
        self.room.free_numbers += [link.number for link in gone]

    def close(self) -> None:
        """Detach everything; the process goes on as if it had never been entered. Harmless twice."""
        with self.lock:
            if self._closed:
                return
            self.waiting = []
            try:
                self.family.look()
                if self._system_calls is not None:
                    self._system_calls.detach(list(self._system_calls.links))
                self.detach(list(self.links))
                kept = self.family.part()
                if self._record:
                    self._record.restore_relatives(self.pid, kept)
                self._give_back()
                if self._record:
                    self._record.close()
            finally:
                self._end()

    def abandon(self) -> None:
        """Forget it without touching it: it is gone, or somebody else restores it."""
        with self.lock:
            if self._record:
                self._record.close()
            self._end()

    def _end(self) -> None:
        self._closed = True
        self.room.tiers.clear()
        self.listening.close()
        self.leave_family()
        if self._record:
            self._record.keep()
        self.memory.close()
        self._hold.close()

    def leave_family(self) -> None:
        """It is on its own now: its parent is closed, or it runs another program."""
        parent, self.parent = self.parent, None
        if parent is not None and parent.family.children.get(self.pid) is self:
            self.counters.hand_on()
            del parent.family.children[self.pid]

    def count(self, link: Link, what: str) -> int:
        """Hits, misses ("missed") or hits "over_budget" of one link since it was attached."""
        which = ("hits", "missed", "over_budget").index(what)
        if link.detached:
            return link.last[which]
        with self.lock:
            self.family.look()
            return self.counters.since([link])[0][which]
