"""Which bytes a hook replaces: plan a place, keep the planned ones apart, see code as it is without our patches."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from workbench.errors import BadSpec, MissingCapability, UnknownSymbol
from workbench.runtime.attach import layout
from workbench.runtime.attach.link import Link, Request
from workbench.runtime.attach.memory import Memory, mappings
from workbench.runtime.attach.modules import Function, Modules
from workbench.runtime.attach.relocate import JUMP, Displaced, Unjumpable, branch_targets, plan

__all__ = ("Place", "Places")

_BEYOND = 16
_JUMP_CODE = b"\xe9"
_UNKNOWN_SIZE = 64
_AT_ENTRY_ONLY = ("uretprobe", "override", "replace")


@dataclass(slots=True)
class Place:
    """Bytes that are, were, or are about to be replaced; the trampoline is made once and kept."""

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
    def function(self) -> str:
        """Name of its function."""
        return self.name.rpartition(":")[2].partition("+")[0]

    @property
    def needed(self) -> bool:
        """A jump belongs here."""
        return bool(self.links) or self.unwinder

    @property
    def flags(self) -> int:
        """Flags of its struct wb_site."""
        return (0 if self.entry else layout.MIDDLE) | (layout.UNWINDER if self.unwinder else 0)


class Places:
    """The places of one process, by address."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._known: dict[int, Place] = {}
        self._addresses: list[int] = []
        self.others: dict[
            int, tuple[str, bytes]
        ] = {}  # jumps that `syscalls` wrote: name, original

    def __getitem__(self, address: int) -> Place:
        return self._known[address]

    def __iter__(self) -> Iterator[Place]:
        return iter(list(self._known.values()))

    def clear(self) -> None:
        """Forget everything: the process runs another program now."""
        self._known.clear()
        self._addresses.clear()
        self.others.clear()

    def add(self, places: Iterable[Place]) -> None:
        """Keep places whose trampolines exist."""
        for place in places:
            self._known[place.address] = place
            bisect.insort(self._addresses, place.address)

    def wanted(self, request: Request, modules: Modules, fresh: dict[int, Place]) -> Place:
        """The place of a request: a known one, or one planned now and put into `fresh`.

        Raises
        ------
        UnknownSymbol, BadSpec, MissingCapability
        """
        address, function = modules.resolve(request.site)
        if request.kind in _AT_ENTRY_ONLY and (function is None or function.address != address):
            raise BadSpec(
                f"{request.kind} {request.site}: not the first instruction of a function",
                "name the function without offset, or use kind='uprobe'",
            )
        return self.at(address, function, fresh)

    def at(self, address: int, function: Function | None, fresh: dict[int, Place]) -> Place:
        """As `wanted`, by address."""
        if known := self._known.get(address) or fresh.get(address):
            return known
        if function is not None and function.module.is_go:
            raise MissingCapability(
                f"{function.name} is a Go function: goroutines have stacks too small to run programs on",
                "use backend='kernel'",
            )
        place = self._plan(address, function)
        others = (self._known, fresh)
        for near in range(address - JUMP + 1, address + JUMP):
            if near in self.others:
                raise MissingCapability(
                    f"{place.name} lies within {JUMP} bytes of a hooked system call",
                    "probe another instruction, or the system call itself",
                )
            for known_places in others:
                if near in known_places:
                    other = known_places[near]
                    raise MissingCapability(
                        f"{place.name} lies within {JUMP} bytes of the probed {other.name}",
                        "probe one of the two",
                    )
        fresh[address] = place
        return place

    def _plan(self, address: int, function: Function | None) -> Place:
        start = function.address if function else address
        size = max(function.size, 1) if function else _UNKNOWN_SIZE
        if address >= start + size:
            raise UnknownSymbol(f"{address:#x} lies behind the end of {function and function.name}")
        name = f"{address:#x}"
        if function:
            offset = address - function.address
            name = f"{function.module.name}:{function.name}" + (f"+{offset:#x}" if offset else "")
        code = self._original(start, size)
        at = address - start
        if code[at : at + 1] == _JUMP_CODE:
            self._refuse_hooked(name, address + JUMP, code[at + 1 : at + JUMP])
        try:
            targets = branch_targets(code[:size], start)
            moved = plan(code[at:], address, size - at, targets=targets)
        except Unjumpable as error:
            raise MissingCapability(
                f"{name} cannot be probed by a jump: {error}",
                "probe another instruction of it, or use backend='kernel'",
            ) from error
        entry = function is not None and address == function.address
        return Place(address, name, moved, entry, code[at : at + JUMP])

    def _refuse_hooked(self, name: str, after: int, distance: bytes) -> None:
        """A jump out of every file is another tool's hook: to move it would be the end of it, or of ours."""
        to = after + int.from_bytes(distance, "little", signed=True)
        if not any(one.inode for one in mappings(self._memory.pid) if one.start <= to < one.end):
            raise MissingCapability(
                f"{name} is hooked by another tool, or by the workbench of another user",
                "end that one first, or use backend='kernel'",
            )

    def _original(self, address: int, size: int) -> bytes:
        """Code as it is without our patches, and a little beyond; shorter where the mapping ends."""
        try:
            code = bytearray(self._memory.read(address, size + _BEYOND))
        except MissingCapability:
            code = bytearray(self._memory.read(address, size))
        for at, (_, original) in self.others.items():
            if address - JUMP < at < address + len(code):
                for i, byte in enumerate(original, at - address):
                    if 0 <= i < len(code):
                        code[i] = byte
        low = bisect.bisect_left(self._addresses, address - JUMP)
        high = bisect.bisect_right(self._addresses, address + len(code))
        for place in (self._known[at] for at in self._addresses[low:high]):
            if place.installed:
                for i, byte in enumerate(place.original, place.address - address):
                    if 0 <= i < len(code):
                        code[i] = byte
        return bytes(code)
