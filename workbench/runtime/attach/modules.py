"""The files whose code a process has mapped: load bias, symbols, functions by name and by address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePath

import numpy as np

from workbench.errors import BadSpec, MissingCapability, UnknownSymbol
from workbench.frames.symbols.elf import ElfSymbols, Symbol
from workbench.frames.symbols.elffile import SYMBOL_DTYPE, BadElf, ElfFile
from workbench.frames.symbols.inlined import inlined
from workbench.frames.symbols.mappings import readable_place
from workbench.runtime.attach.files import addresses_of
from workbench.runtime.attach.link import Spot
from workbench.runtime.attach.memory import Mapping, mappings

__all__ = ("Function", "Module", "Modules", "address_of")

_DELETED = " (deleted)"
_SYMTAB, _DYNSYM, _IFUNC = 2, 11, 10


@dataclass(frozen=True, slots=True)
class Function:
    """A function in a process: where it is, how long, in which module."""

    name: str
    address: int
    size: int
    module: Module


@lru_cache(maxsize=64)
def _symbols(place: str, path: str, _identity: tuple[int, int]) -> ElfSymbols:
    return ElfSymbols.open(place, path=path)


class Module:
    """One file with code in a process.

    Attributes
    ----------
    path : str
        As mapped, without " (deleted)".
    start, end : int
        The range of all its mappings.
    """

    def __init__(self, pid: int, maps: list[Mapping]) -> None:
        self.pid = pid
        self.maps = maps
        self.path = maps[0].path.removesuffix(_DELETED)
        self.name = PurePath(self.path).name
        self.start = min(one.start for one in maps)
        self.end = max(one.end for one in maps)

    def __repr__(self) -> str:
        return f"<Module {self.path} {self.start:#x}-{self.end:#x}>"

    @cached_property
    def place(self) -> str:
        """Where the file can be read now."""
        code = next(one for one in self.maps if one.executable)
        return readable_place(self.pid, code.start, code.end, code.path)

    @cached_property
    def symbols(self) -> ElfSymbols:
        """Its symbol table.

        Raises
        ------
        UnknownSymbol
            The file cannot be read.
        """
        try:
            status = Path(self.place).stat()
            return _symbols(self.place, self.path, (status.st_ino, status.st_mtime_ns))
        except OSError as error:
            raise UnknownSymbol(
                f"symbols of {self.path} cannot be read: {error.strerror}"
            ) from error
        except BadElf as error:
            raise UnknownSymbol(
                f"symbols of {self.path} cannot be read: {error.message}"
            ) from error

    @cached_property
    def bias(self) -> int:
        """Add it to an address in the file; 0 for a program that is not position independent."""
        code = next(one for one in self.maps if one.executable)
        vaddr, found = self.symbols.offset_to_vaddr(np.array([code.offset], np.uint64))
        if not found[0]:
            raise UnknownSymbol(f"{self.path} was changed after the process mapped it")
        return code.start - int(vaddr[0])

    @cached_property
    def is_go(self) -> bool:
        """Compiled by Go."""
        with ElfFile(self.place) as elf:
            return elf.section(".gopclntab") is not None

    @cached_property
    def _indirect(self) -> frozenset[int]:
        """Addresses in the file of functions that choose their implementation when they are linked (STT_GNU_IFUNC)."""
        found: set[int] = set()
        with ElfFile(self.place) as elf:
            for section in elf.sections:
                if section.type in (_SYMTAB, _DYNSYM):
                    data = elf.content(section)
                    rows = np.frombuffer(data, SYMBOL_DTYPE, len(data) // SYMBOL_DTYPE.itemsize)
                    found.update(rows["value"][rows["info"] & 15 == _IFUNC].tolist())
        return frozenset(found)

    def is_indirect(self, function: Function) -> bool:
        """Its symbol is a resolver, not the function that callers reach."""
        return function.address - self.bias in self._indirect

    def is_file(self, status: os.stat_result) -> bool:
        """It is that file."""
        device = self.maps[0].device.split(":")
        return (
            self.maps[0].inode == status.st_ino
            and (int(device[0], 16), int(device[1], 16))
            == (os.major(status.st_dev), os.minor(status.st_dev))
        ) or self._same_place(status)

    def _same_place(self, status: os.stat_result) -> bool:
        try:  # file systems with subvolumes show another device in maps
            return os.path.samestat(Path(self.place).stat(), status)
        except OSError:
            return False

    def is_called(self, name: str) -> bool:
        """`name` is its path, its file name, or its file name without version: libc = libc.so.6 = libc-2.36.so."""
        if name in (self.path, self.name):
            return True
        return re.match(re.escape(name) + r"([-.][0-9.]+)?(\.so\b|\.musl|$)", self.name) is not None

    def find(self, name: str) -> list[Function]:
        """Its functions of that name."""
        found: dict[int, Symbol] = {}
        for one in self.symbols.find_name(name, "function"):
            found.setdefault(one.address, one)
        return [
            Function(one.name, one.address + self.bias, one.size, self) for one in found.values()
        ]

    def functions(self, pattern: str = "*") -> list[Function]:
        """Its functions whose names match a shell pattern, each address once, resolvers (STT_GNU_IFUNC) left out."""
        found: dict[int, Symbol] = {}
        for one in self.symbols.match(pattern, "function"):
            if one.size and one.address not in self._indirect:
                found.setdefault(one.address, one)
        return [
            Function(one.name, one.address + self.bias, one.size, self) for one in found.values()
        ]

    def at(self, address: int) -> Function | None:
        """The function that holds an address of the process."""
        vaddr = np.array([address - self.bias], np.uint64)
        row = int(self.symbols.find_address(vaddr, "function")[0])
        if row >= 0:
            one = self.symbols[row]
            return Function(one.name, one.address + self.bias, one.size, self)
        columns = self.symbols.columns
        row = int(self.symbols.find_code(vaddr)[0])
        if row < 0:
            return None
        start, end = int(columns["code_start"][row]), int(columns["code_end"][row])
        return Function(f"{self.name}:{start:#x}", start + self.bias, end - start, self)


class Modules:
    """The modules of a process now; `maps` is the memory map they were read from."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.maps = mappings(pid)
        groups: dict[tuple[str, int, str], list[Mapping]] = {}
        for one in self.maps:
            if one.inode and one.path:
                groups.setdefault((one.device, one.inode, one.path), []).append(one)
        self.all = [
            Module(pid, maps) for maps in groups.values() if any(one.executable for one in maps)
        ]

    def named(self, name: str) -> Module:
        """The module called `name`.

        Raises
        ------
        UnknownSymbol
        """
        for one in self.all:
            if one.is_called(name):
                return one
        known = ", ".join(sorted({one.name for one in self.all}))
        raise UnknownSymbol(
            f"process {self.pid} has no library or program {name!r} mapped", f"it has {known}"
        )

    def at(self, address: int) -> Module | None:
        """The module whose code holds an address."""
        for one in self.all:
            if any(m.start <= address < m.end and m.executable for m in one.maps):
                return one
        return None

    def find(self, name: str) -> list[Function]:
        """Functions of a name in the first module that has any (the program first)."""
        for one in self.all:
            try:
                if found := one.find(name):
                    return found
            except UnknownSymbol:
                continue
        return []

    def resolve(self, spec: str | int | Spot) -> tuple[int, Function | None]:
        """Address of a site and the function it lies in.

        Parameters
        ----------
        spec : str, int or Spot
            An address; or ``symbol``, ``library:symbol``, either with ``+offset``, or ``library:0xoffset`` (in the
            file, as the kernel's uprobes take it).

        Raises
        ------
        UnknownSymbol, BadSpec
        """
        if isinstance(spec, Spot):
            (spec,) = addresses_of(self.pid, spec.path, [spec.offset], "x")
        if isinstance(spec, int):
            module = self.at(spec)
            return spec, module.at(spec) if module else None
        library, _, name = spec.rpartition(":") if "::" not in spec else ("", "", spec)
        if "::" in spec and (head := re.match(r"([^:]+):(?!:)(.+)", spec)):
            library, name = head[1], head[2]
        name, _, more = (
            name.rpartition("+") if re.search(r"\+(0x)?[0-9a-f]+$", name) else (name, "", "0")
        )
        try:
            if re.fullmatch(r"0x[0-9a-fA-F]+|\d+", name) and library:
                return self._by_offset(library, int(name, 0) + int(more, 0))
            if re.fullmatch(r"0x[0-9a-fA-F]+", name):
                return self.resolve(int(name, 0) + int(more, 0))
            offset = int(more, 0)
        except ValueError:
            raise BadSpec(f"{spec!r} names no site", "write library:symbol+offset") from None
        found = self.named(library).find(name) if library else self.find(name)
        if not found:
            raise self._unknown(library, name)
        if len(found) > 1:
            raise BadSpec(
                f"{name!r} is the name of {len(found)} functions",
                "give the address: "
                + ", ".join(f"{one.address:#x} ({one.module.name})" for one in found),
            )
        if not offset and found[0].module.is_indirect(found[0]):
            raise MissingCapability(
                f"{name} chooses one of several implementations for this processor when it is linked",
                "probe the implementation: "
                + ", ".join(self._implementations(found[0].module, name)),
            )
        return found[0].address + offset, found[0]

    @staticmethod
    def _implementations(module: Module, name: str) -> list[str]:
        names = {one.name for one in module.symbols.match(f"*{name}_*", "function")}
        return sorted(names)[:8] or ["by its address, e.g. of the symbol that a debugger shows"]

    def _by_offset(self, library: str, offset: int) -> tuple[int, Function | None]:
        module = self.named(library)
        vaddr, found = module.symbols.offset_to_vaddr(np.array([offset], np.uint64))
        if not found[0]:
            raise UnknownSymbol(f"{module.path} has no code at offset {offset:#x}")
        address = int(vaddr[0]) + module.bias
        return address, module.at(address)

    def _unknown(self, library: str, name: str) -> UnknownSymbol:
        modules = [self.named(library)] if library else self.all[:1]
        close = [near for one in modules for near in one.symbols.nearest(name, kind="function")]
        where = modules[0].name if modules else f"process {self.pid}"
        for one in modules:
            if inlined(one.place, name):
                return UnknownSymbol(
                    f"{name!r} was inlined away: {where} has no function of its own for it, only copies in its callers",
                    "probe a caller, or compile it with __attribute__((noinline))",
                )
        hint = (
            f"the nearest are {', '.join(close[:5])}" if close else "name the library: libc:malloc"
        )
        return UnknownSymbol(f"{where} has no function {name!r}", hint)


def address_of(pid: int, path: str, offset: int) -> int:
    """Where a process has the byte at a file offset of a mapped file.

    Raises
    ------
    UnknownSymbol
        The file is not mapped, or not there.
    """
    modules = Modules(pid)
    try:
        wanted = Path(path).stat()
    except OSError:
        module = modules.named(path)
    else:
        same = [
            one
            for one in modules.all
            if any(m.inode == wanted.st_ino for m in one.maps) and one.is_file(wanted)
        ]
        module = same[0] if same else modules.named(path)
    vaddr, found = module.symbols.offset_to_vaddr(np.array([offset], np.uint64))
    if not found[0]:
        raise UnknownSymbol(f"{module.path} has nothing mapped at offset {offset:#x}")
    return int(vaddr[0]) + module.bias
