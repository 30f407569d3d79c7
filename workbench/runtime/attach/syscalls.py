"""Programs at the system calls of a process: every `syscall` instruction in its code jumps to a trampoline.

Nothing here needs privilege: no page zero, no filter, no signal. A thread that sleeps in a call when its instruction
is replaced has its program counter behind it, inside the jump's bytes: while the process is held it is moved to the
same point of the trampoline, and so is what a signal handler interrupted. The kernel's restart of a call, which goes
back by the two bytes of the instruction, then finds the trampoline's. Trampolines are never freed, so nothing need be
moved when the bytes are restored.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from workbench.errors import BadSpec, MissingCapability, TargetGone
from workbench.frames.symbols.elffile import BadElf
from workbench.runtime.attach import layout, ptrace
from workbench.runtime.attach.counters import difference
from workbench.runtime.attach.inside import stack_words
from workbench.runtime.attach.link import Link, Request
from workbench.runtime.attach.modules import Module, Modules
from workbench.runtime.attach.places import Place
from workbench.runtime.attach.relocate import JUMP, Displaced, Unjumpable
from workbench.runtime.attach.stop import Stop
from workbench.runtime.attach.syscall_sites import CallSite, find_sites
from workbench.runtime.attach.syscall_trampoline import CallTrampoline, call_trampoline
from workbench.runtime.attach.trampoline import jump

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Program
    from workbench.runtime.attach.process import Process
    from workbench.runtime.maps import Map

__all__ = ("ANY", "CallRequest", "SystemCalls")

ANY = 2**64 - 1
# native/agents/runtime/calls.h
_FORMS = {"raw": 0, "record": 1}
_CHAIN = struct.Struct("<II")
_HOOK = struct.Struct("<QQQ")  # link, number, form
_WANTED, _CHAIN_AT = 24, 32
_WORDS_AT = 32  # the words of struct wb_calls in each arena's data (`Room`)
_NUMBERS = 1 << 16
# vfork, clone, clone3: the child's programs run under its own numbers; set_robust_list: the thread joins anew.
_ALWAYS = (56, 58, 273, 435)
_CODE_PER_SITE, _DATA_PER_SITE = 256, 64
_USER_CODE = 0x33


@dataclass(slots=True)
class _Site:
    """A system call of this process: `moved` says where a thread inside the replaced bytes goes on."""

    address: int
    name: str
    file: CallSite
    original: bytes
    patch: bytes
    record: int
    moved: dict[int, int]
    installed: bool = False


@dataclass(frozen=True, slots=True)
class CallRequest(Request):
    """A program for system calls.

    Attributes
    ----------
    when : str
        enter (`bpf_override_return` skips the call) or exit.
    number : int
        Of the one system call, or `ANY`.
    form : str
        What the program gets: raw (struct bpf_raw_tracepoint_args: registers; number or result) or record (of
        tracepoint/syscalls/sys_enter_NAME, sys_exit_NAME and tracepoint/raw_syscalls/).
    """

    when: Literal["enter", "exit"] = "enter"
    number: int = ANY
    form: Literal["raw", "record"] = "raw"


@dataclass(slots=True)
class SystemCalls:
    """The system calls of one process; `Process.system_calls` makes it.

    Attributes
    ----------
    links : list of Link
    refused : dict of str to str
        ``module:function+offset`` of system calls in code that are not hooked -> why.
    """

    process: Process
    links: list[Link] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    _sites: dict[int, _Site] = field(default_factory=dict)
    _known: set[tuple[str, int, str]] = field(default_factory=set)

    @property
    def hooked(self) -> int:
        """System call instructions that jump to us now."""
        return sum(one.installed for one in self._sites.values())

    @property
    def sites(self) -> list[tuple[int, bytes, int]]:
        """Every place that was hooked: address, jump, address of its record."""
        return [(one.address, one.patch, one.record) for one in self._sites.values()]

    # Attaching --------------------------------------------------------------------------------------------------

    def attach(
        self,
        program: Program,
        when: Literal["enter", "exit"],
        *,
        number: int = ANY,
        form: Literal["raw", "record"] = "raw",
        cookie: int = 0,
        maps: Sequence[Map] = (),
    ) -> Link:
        """Attach one program; see `CallRequest`.

        Raises
        ------
        BadSpec, MissingCapability, NotPermitted, TargetGone
        """
        return self.attach_many(
            [
                CallRequest(
                    program, 0, "uprobe", cookie, tuple(maps), when=when, number=number, form=form
                )
            ]
        )[0]

    def attach_many(self, requests: Sequence[CallRequest]) -> list[Link]:
        """Attach many programs while the process is held once."""
        with self.process.lock:
            return self._attach_many(requests)

    def _attach_many(self, requests: Sequence[CallRequest]) -> list[Link]:
        process, room = self.process, self.process.room
        for request in requests:
            if request.number != ANY and not 0 <= request.number < _NUMBERS:
                raise BadSpec(f"there is no system call {request.number}")
        modules = Modules(process.pid)
        for request in requests:
            process._check(request, modules)
        self._add_sites(modules, self._new_sites(modules), requests)
        links = []
        for request in requests:
            name = f"sys_{request.when}" + (
                "" if request.number == ANY else f" of {request.number}"
            )
            links.append(room.add_link(process, request, 0, name))
        numbers = [link.number for link in links]
        for link, base in zip(links, process.counters.read(numbers), strict=True):
            link.base = base
            link.method = "jump"
            link.owner = self
        self._apply([*self.links, *links])
        self.links += links
        return links

    def _new_sites(self, modules: Modules) -> list[tuple[Place, CallSite]]:
        """Sites of the modules that were not looked at yet."""
        found: list[tuple[Place, CallSite]] = []
        for one in modules.maps:
            if one.path == "[vsyscall]":  # the kernel answers it
                continue
            if one.executable and not one.inode and not self._is_ours(one.start):
                name = one.path or f"code at {one.start:#x}"
                self.refused[name] = "it is in no file whose functions are known"
        for module in modules.all:
            code = next(one for one in module.maps if one.executable)
            key = (module.path, code.start, code.device + str(code.inode))
            if key in self._known:
                continue
            self._known.add(key)
            try:
                if module.is_go:
                    self.refused[module.name] = "goroutines have stacks too small for programs"
                    continue
                sites, refused = find_sites(module.place)
                bias = module.bias if sites or refused else 0
            except (OSError, BadElf, MissingCapability) as error:
                self.refused[module.name] = f"its file cannot be read: {error}"
                continue
            for refusal in refused:
                self.refused[f"{module.name}:{refusal.function}@{refusal.call:#x}"] = refusal.reason
            for site in sites:
                name = f"{module.name}:{site.function}"
                place = Place(site.start + bias, name, _NOTHING, False, b"")
                if not self._usable(place, site, module):
                    continue
                found.append((place, site))
        return found

    def _is_ours(self, address: int) -> bool:
        room = self.process.room
        agent = room.agent
        if agent and agent.base <= address < agent.base + agent.size:
            return True
        return any(one.code <= address < one.end for one in room.arenas)

    def _usable(self, place: Place, site: CallSite, module: Module) -> bool:
        """It is in memory what it is in the file, and no probe of ours is in the way."""
        length = max(site.end - site.start, JUMP)
        name = f"{module.name}:{site.function}@{site.call:#x}"
        low, high = place.address, place.address + length
        for other in self.process.places:
            if other.installed and other.address < high and low < other.address + JUMP:
                self.refused[name] = f"the probe of {other.name} is in the way"
                return False
        try:
            code = self.process.memory.read(place.address, length)
        except MissingCapability:
            self.refused[name] = "this part of the file is not mapped"
            return False
        at = site.call - site.start
        if code[at : at + 2] != b"\x0f\x05":
            self.refused[name] = "its bytes were changed, by a probe or another tool"
            return False
        place.original = code
        return True

    def _add_sites(
        self,
        modules: Modules,
        fresh: list[tuple[Place, CallSite]],
        requests: Sequence[CallRequest],
    ) -> None:
        """Make room and trampolines; libraries that lie near each other may fill what was meant for one."""
        process = self.process
        while True:
            held = process.room.prepare(
                modules, [one for one, _ in fresh], list(requests), process._entered
            )
            if held is not None:
                process.stopped.append(held)
            left = [(place, site) for place, site in fresh if not self._add(place, site)]
            if not left:
                return
            if len(left) == len(fresh):
                raise MissingCapability("no memory for trampolines could be mapped near the code")
            fresh = left

    def _add(self, place: Place, site: CallSite) -> bool:
        """Make the trampoline and the record of a site; False = no memory near it is left."""
        from iced_x86 import Decoder

        room = self.process.room
        for arena in room.arenas:
            if arena.reaches(place.address, place.address + JUMP) and arena.room(
                _CODE_PER_SITE, 2 * _DATA_PER_SITE
            ):
                break
        else:
            return False
        words = arena.data + _WORDS_AT
        length = site.end - site.start
        displaced = list(Decoder(64, place.original[:length], ip=place.address))

        def make(at: int, record: int) -> CallTrampoline:
            return call_trampoline(at, record, words, displaced, keeps_flags=site.keeps_flags)

        at, record = room.trampolines.pop(place.address, (0, 0))
        there = arena.code <= at < arena.data <= record < arena.end
        try:
            if not there or not self._is(at, (made := make(at, record)).code):
                at, record = arena.code + arena.code_used, arena.keep_data(_DATA_PER_SITE)
                made = make(at, record)
                arena.keep_code(len(made.code))
                room.write(at, made.code)
        except Unjumpable as error:
            self.refused[f"{place.name}@{site.call:#x}"] = str(error)
            return True
        back = place.address + site.call - site.start + 2
        room.write(record, struct.pack("<QQ", place.address, back).ljust(_DATA_PER_SITE, b"\0"))
        inside = {old: new for old, new in made.moved.items() if 0 < old - place.address < JUMP}
        self._sites[place.address] = _Site(
            place.address,
            place.name,
            site,
            place.original[:JUMP],
            jump(place.address, at),
            record,
            inside,
        )
        return True

    def _is(self, address: int, code: bytes) -> bool:
        """A trampoline that an earlier workbench left is the one that would be made now."""
        return self.process.memory.read(address, len(code)) == code

    # While the process is held ------------------------------------------------------------------------------------

    def _apply(self, links: Sequence[Link], gone: Sequence[Link] = ()) -> None:
        """In one stop: what runs, and jumps or original bytes everywhere."""
        process = self.process
        agent = process.room.agent
        assert agent is not None
        chain = self._chain(links)
        process.room.flush()
        wanted = _wanted(links)
        change_sites = [one for one in self._sites.values() if one.installed != bool(links)]
        if links and process._record:
            process._record.sites(
                (one.address, one.original, one.patch, one.record) for one in change_sites
            )

        def change(stop: Stop) -> bool:
            early = any(ptrace.get_registers(one).fs_base == 0 for one in list(stop.threads))
            memory = process.memory
            memory.write(agent.symbols["wb_agent"] + layout.EARLY, struct.pack("<Q", early))
            for link in gone:
                memory.write(link.record, bytes(8))
            table = struct.unpack("<Q", memory.read(agent.symbols["wb_calls"] + _WANTED, 8))[0]
            memory.write(table, wanted)
            memory.write(agent.symbols["wb_calls"] + _CHAIN_AT, struct.pack("<Q", chain))
            for one in change_sites:
                self._change(one, install=bool(links))
            if links:
                _move_threads(stop, process, change_sites)
            return True

        process._held(change)

    def _change(self, site: _Site, *, install: bool) -> None:
        memory = self.process.memory
        try:
            now = memory.read(site.address, JUMP)
        except MissingCapability:  # its library was unloaded
            site.installed = False
            return
        if now == (site.original if install else site.patch):
            memory.write(site.address, site.patch if install else site.original)
            site.installed = install
            if install:
                self.process.places.others[site.address] = site.name, site.original
            else:
                self.process.places.others.pop(site.address, None)
        elif install:
            name = f"{site.name}@{site.file.call:#x}"
            self.refused[name] = "its bytes were changed, by a probe or another tool"
        else:
            site.installed = False

    def _chain(self, links: Sequence[Link]) -> int:
        """Write the list of what runs; its address, 0 for nothing."""
        if not links:
            return 0
        hooks = []
        enters = [one for one in links if _request(one).when == "enter"]
        exits = [one for one in links if _request(one).when == "exit"]
        for link in (*enters, *exits):
            request = _request(link)
            hooks.append(_HOOK.pack(link.record, request.number, _FORMS[request.form]))
        data = _CHAIN.pack(len(enters), len(exits)) + b"".join(hooks)
        at = self.process.room._arena_with(0, len(data)).take_data(len(data))
        self.process.room.write(at, data)
        return at

    # Leaving, and following -----------------------------------------------------------------------------------

    def detach(self, links: Sequence[Link]) -> None:
        """Take programs off; the last one restores every byte. Links that are detached already do not matter."""
        with self.process.lock:
            self._detach([link for link in links if not link.detached])

    def _detach(self, gone: list[Link]) -> None:
        if not gone:
            return
        numbers = [one.number for one in gone]
        for link, now in zip(gone, self.process.counters.read(numbers), strict=True):
            link.last = difference(now, link.base)
            link.detached = True
        left = set(map(id, gone))
        self.links = [link for link in self.links if id(link) not in left]
        try:
            self._apply(self.links, gone)
        except TargetGone:
            return
        self.process.room.free_numbers += numbers

    def refresh(self) -> int:
        """Hook the code of files mapped since; how many system calls that were. Called by `Process.refresh`."""
        if not self.links:
            return 0
        modules = Modules(self.process.pid)
        fresh = self._new_sites(modules)
        if not fresh:
            return 0
        self._add_sites(modules, fresh, [])
        self._apply(self.links)
        return len(fresh)

    def replaced(self) -> None:
        """The process runs another program: what was attached is attached to that one. Called by `Process.refresh`."""
        before, self.links = self.links, []
        self.refused = {}
        self._sites.clear()
        self._known.clear()
        for link in before:
            link.detached = True
            if link.request.holder is not None and link in link.request.holder:
                link.request.holder.remove(link)
        if before:
            for link in self._attach_many([_request(one) for one in before]):
                if link.request.holder is not None:
                    link.request.holder.append(link)


_NOTHING = Displaced(0, 0, ())


def _request(link: Link) -> CallRequest:
    assert isinstance(link.request, CallRequest)
    return link.request


def _wanted(links: Sequence[Link]) -> bytes:
    """The table of numbers that go through programs."""
    if any(_request(one).number == ANY for one in links):
        return b"\1" * _NUMBERS
    table = bytearray(_NUMBERS)
    if links:
        for number in (*_ALWAYS, *(_request(one).number for one in links)):
            table[number] = 1
    return bytes(table)


def _move_threads(stop: Stop, process: Process, sites: Sequence[_Site]) -> None:
    """Let threads that are inside replaced bytes go on in the trampoline, now and when a signal handler returns."""
    moved = {old: new for one in sites if one.installed for old, new in one.moved.items()}
    if not moved:
        return
    olds = np.array(sorted(moved), np.uint64)
    for thread in list(stop.threads):
        registers = ptrace.get_registers(thread)
        if registers.ip in moved:
            registers.ip = moved[registers.ip]
            ptrace.set_registers(thread, registers)
        start, words = stack_words(process.memory, registers.sp)
        at = np.minimum(np.searchsorted(olds, words), len(olds) - 1)
        for i in np.flatnonzero(olds[at] == words).tolist():
            if _is_signal_frame(words, i):
                process.memory.write(start + 8 * i, struct.pack("<Q", moved[int(words[i])]))


def _is_signal_frame(words: np.ndarray[tuple[int], np.dtype[np.uint64]], i: int) -> bool:
    """Word i is the program counter in a struct sigcontext: flags and segments follow."""
    if i + 2 >= len(words):
        return False
    flags, segments = int(words[i + 1]), int(words[i + 2])
    return flags >> 22 == 0 and bool(flags & 2) and segments & 0xFFFF == _USER_CODE
