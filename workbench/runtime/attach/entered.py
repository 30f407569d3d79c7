"""A process that has memory of ours: enter it, change its code while it is held."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from workbench.errors import BadSpec, MissingCapability, NotPermitted, RunFailed, TargetGone
from workbench.runtime.attach import layout, ptrace
from workbench.runtime.attach.agent import LoadedAgent
from workbench.runtime.attach.check import check_target
from workbench.runtime.attach.hold import Hold
from workbench.runtime.attach.inside import inside, suspended_inside
from workbench.runtime.attach.leaving import Outcome, leave
from workbench.runtime.attach.left import note, reclaim
from workbench.runtime.attach.link import Link, Request
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.modules import Modules
from workbench.runtime.attach.nested import Listening
from workbench.runtime.attach.places import Place, Places
from workbench.runtime.attach.records import Record, collect_dead
from workbench.runtime.attach.relocate import JUMP
from workbench.runtime.attach.returns import restore_returns
from workbench.runtime.attach.room import Room
from workbench.runtime.attach.semaphores import Semaphores
from workbench.runtime.attach.stop import Stop

if TYPE_CHECKING:
    from workbench.runtime.attach.process import Process
    from workbench.runtime.attach.syscalls import SystemCalls
    from workbench.runtime.maps import Map, Space

__all__ = ("Entered",)

_PATIENCE = 30.0
_HELD_PATIENCE = 1.0
_CAREFUL = 20


class Entered:
    """What `Process` is made of: memory, room, places, and the record of what was changed; see there."""

    def __init__(self, pid: int, space: Space | None, *, filtered: bool) -> None:
        check_target(pid, filtered=filtered)
        self.pid, self.space = pid, space
        self.lock = threading.RLock()
        self._hold = Hold(pid, _HELD_PATIENCE)
        try:
            collect_dead(pid)
            self.memory = Memory(pid)
            left = reclaim(pid, self.memory)
        except BaseException:
            self._hold.close()
            raise
        self._filtered = filtered
        self.links: list[Link] = []
        self.stopped = self.memory.stopped
        self.room = Room(self.memory, space, self.lock, self._grow)
        if left is not None:
            self.room.adopt(left)
        self._left = left
        self.places = Places(self.memory)
        self._semaphores = Semaphores(self.memory)
        self._record: Record | None = None
        self.listening = Listening(self.room, self._offered)
        self.room.opened = self.listening.update
        self._closed = False
        self._system_calls: SystemCalls | None = None
        self.parent: Process | None = None

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
        fresh = self._record is None
        if self._record is None:
            self._record = Record(self.pid)
        assert self.room.agent is not None
        self._record.agent(self.room.agent, self.room.mark)
        if self._left is not None:
            self._left.path.unlink(missing_ok=True)
            self._left = None
        if fresh and self.parent is not None:
            self._record.sites(
                (one.address, one.original, one.patch, one.record)
                for one in self.places
                if one.installed
            )

    def adopt_semaphores(self) -> None:
        """They were raised in the parent's memory, and so in the child's."""
        self._semaphores.adopt(link.request.semaphore for link in self.links)

    def _offered(self, outer: Map, number: int) -> None:
        """A map of maps or program array that is open here got something."""
        with self.lock, contextlib.suppress(TargetGone):
            held = self.room.prepare(Modules(self.pid), [], [], self._entered, [(outer, number)])
            if held is not None:
                self.stopped.append(held)

    def _grow(self, code: int) -> None:
        """Map memory for that many bytes of code."""
        held = self.room.prepare(Modules(self.pid), [], [], self._entered, more=code)
        if held is not None:
            self.stopped.append(held)

    def enter(self) -> LoadedAgent:
        """Put the agent into the process, if it is not there yet."""
        with self.lock:
            held = self.room.prepare(Modules(self.pid), [], [], self._entered)
            if held is not None:
                self.stopped.append(held)
            assert self.room.agent is not None
            return self.room.agent

    def _give_back(self) -> None:
        """Free our memory in the process; what must stay is noted."""
        room, agent = self.room, self.room.agent
        if agent is None:
            return
        sites = [(one.address, one.patch, one.record) for one in self.places if one.patch]
        if self._system_calls is not None:
            sites += self._system_calls.sites
        try:
            found = leave(
                self.pid, self.memory, agent.ledger, room.mark, (place for place, _, _ in sites)
            )
            self.stopped += found.stopped
            outcome = found.outcome
        except TargetGone:
            return
        except (NotPermitted, MissingCapability, RunFailed):
            outcome = Outcome.STUCK
        if outcome in (Outcome.KEPT, Outcome.STUCK):
            note(self.pid, agent.ledger, room.mark, room.arenas, sites)

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
        if self._record is None and any(
            one.needed and not one.installed for one in places.values()
        ):
            self._entered(None)
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
