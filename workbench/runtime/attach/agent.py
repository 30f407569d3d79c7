"""Put the agent into a held process: an ELF loader of our own, so that static and musl programs are entered as well.

The agent's segments are mapped by system calls of the target, their content is written through /proc/PID/mem, and the
only relocations it has (R_X86_64_RELATIVE) are applied here. Nothing of the target's dynamic linker takes part.
"""

from __future__ import annotations

import hashlib
import os
import platform
import struct
from dataclasses import dataclass
from functools import cache

from workbench.errors import MissingCapability
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.elffile import ElfFile
from workbench.native.build import agent
from workbench.runtime.attach.ledger import AT, Ledger, write_ledger
from workbench.runtime.attach.memory import PAGE, Memory
from workbench.runtime.attach.remote import STUBS, Calls, refused

__all__ = ("AgentImage", "LoadedAgent", "image", "load_agent")

_RELATIVE = 8
_PF_X, _PF_W = 1, 2
READ, WRITE, EXECUTE = 1, 2, 4
PRIVATE, ANONYMOUS, NO_RESERVE, FIXED_NOREPLACE = 2, 0x20, 0x4000, 0x100000
MMAP, MPROTECT, MADVISE = 9, 10, 28
_WIPE_ON_FORK = 18
_MOST = 300 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: where it goes, relative to the load address, and its bytes before relocation."""

    address: int
    size: int
    content: bytes
    protection: int


@dataclass(frozen=True, slots=True)
class AgentImage:
    """The agent as built: what `load_agent` writes, and where its symbols are relative to the load address.

    `version` tells builds apart: 16 bytes of the hash of its file.
    """

    size: int
    segments: tuple[Segment, ...]
    relocations: tuple[tuple[int, int], ...]
    symbols: dict[str, int]
    version: bytes


@dataclass(frozen=True, slots=True)
class LoadedAgent:
    """The agent in one process: load address, size, addresses of its symbols and of a copy of `remote.STUBS`."""

    base: int
    size: int
    symbols: dict[str, int]
    stub: int

    @property
    def ledger(self) -> int:
        """Address of the list of what is ours in the process."""
        return self.stub + AT


@cache
def image() -> AgentImage:
    """The agent, read and checked once.

    Raises
    ------
    MissingCapability
        It was not built, or this is no x86-64 machine.
    """
    path = agent("runtime")
    if platform.machine() != "x86_64":
        raise MissingCapability(
            f"the userspace runtime attaches on x86-64 only; this is {platform.machine()}",
            "use backend='kernel'",
        )
    if not path.exists():
        raise MissingCapability(
            "the agent of the userspace runtime was not built",
            "build it with `python -m workbench.native.build` (needs a C compiler)",
        )
    with ElfFile(path) as elf:
        segments = tuple(
            Segment(
                int(load["vaddr"]),
                int(load["memsz"]),
                elf.read(int(load["offset"]), int(load["filesz"]), "segment"),
                READ
                | (WRITE if load["flags"] & _PF_W else 0)
                | (EXECUTE if load["flags"] & _PF_X else 0),
            )
            for load in elf.loads
        )
        relocations = []
        for section in elf.sections:
            if section.name.startswith(".rela"):
                for place, kind, value in struct.iter_unpack("<QQq", elf.content(section)):
                    if kind != _RELATIVE:
                        raise elf.fail(f"relocation of type {kind} in the agent")
                    relocations.append((place, value))
    symbols = ElfSymbols.open(path, debug=False)
    found = {symbols[i].name: symbols[i].address for i in range(len(symbols))}
    end = max(one.address + one.size for one in segments)
    version = hashlib.sha256(path.read_bytes()).digest()[:16]
    return AgentImage(_pages(end), segments, tuple(relocations), found, version)


def _pages(size: int) -> int:
    return (size + PAGE - 1) & -PAGE


def load_agent(calls: Calls, memory: Memory, mark: bytes) -> LoadedAgent:
    """Map and write the agent by system calls of the held process.

    The last page of the mapping holds a copy of the system call stubs for later visits, and the ledger with this mark.
    """
    built = image()
    size = built.size + PAGE
    try:
        base = calls.call(MMAP, 0, size, READ, PRIVATE | ANONYMOUS | NO_RESERVE, 2**64 - 1, 0)
        for one in built.segments:
            start = one.address & -PAGE
            calls.call(
                MPROTECT, base + start, _pages(one.address + one.size) - start, one.protection
            )
        calls.call(MPROTECT, base + built.size, PAGE, READ | EXECUTE)
        calls.call(MADVISE, base + built.symbols["wb_alive"], PAGE, _WIPE_ON_FORK)
    except OSError as error:
        raise refused("map the agent", error) from error
    values = dict(built.relocations)
    for one in built.segments:
        content = bytearray(one.content)
        for place, value in values.items():
            if one.address <= place < one.address + len(content):
                struct.pack_into("<Q", content, place - one.address, base + value)
        memory.write(base + one.address, bytes(content))
    memory.write(base + built.size, STUBS)
    addresses = {name: base + value for name, value in built.symbols.items()}
    memory.write(addresses["wb_alive"], struct.pack("<Q", 1))
    loaded = LoadedAgent(base, size, addresses, base + built.size)
    write_ledger(memory, loaded.ledger, Ledger(mark, built.version, base, size))
    calls.stub = loaded.stub
    if failure := calls.function(addresses["wb_agent_start"], 1):
        raise MissingCapability(f"the agent cannot start: {os.strerror(-failure)}")
    return loaded
