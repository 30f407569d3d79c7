"""The ELF files of a target: those a process has mapped, and those it will load."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.ldcache import cached_libraries, library_closure
from workbench.errors import NotPermitted, TargetGone, UnknownSymbol
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.elffile import BadElf, build_id_of
from workbench.frames.symbols.mappings import parse_maps
from workbench.frames.symbols.store import default_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ("Module", "Modules", "module_rank")

_DELETED = " (deleted)"
# libc-2.31.so, libsqlite3-0a1b2c3d.so.0 (a library bundled in a wheel)
_SUFFIX = re.compile(r"-(\d[\d.]*|[0-9a-f]{8})$")


def module_rank(path: str, name: str) -> int:
    """How well a file answers to a name; 0 is best, -1 is not at all.

    0 the path itself; 1 its file name; 2 the file name without ``.so`` and what follows; 3 also without a version or
    a wheel's hash before it; 4 the same with ``lib`` in front of the name.
    """
    base = path.rsplit("/", 1)[-1]
    stem = re.split(r"\.so(?:\.|$)", base)[0]
    bare = _SUFFIX.sub("", stem)
    for rank, form in enumerate((path, base, stem, bare)):
        if name == form:
            return rank
    return 4 if name == bare.removeprefix("lib") and bare.startswith("lib") else -1


class Module:
    """One ELF file of a target.

    Attributes
    ----------
    path : str
        As the target names it.
    place : str
        Where this process can open it (another mount namespace, a deleted file).
    mapping : tuple of (start, end, file offset), or None
        First executable mapping in the process; None while the file is not mapped.
    main : bool
        The program itself.
    """

    __slots__ = ("__dict__", "main", "mapping", "path", "place")

    def __init__(
        self,
        path: str,
        place: str,
        mapping: tuple[int, int, int] | None = None,
        *,
        main: bool = False,
    ) -> None:
        self.path, self.place, self.mapping, self.main = path, place, mapping, main

    def __repr__(self) -> str:
        return f"<Module {self.path}{'' if self.mapping else ' (not mapped)'}>"

    @cached_property
    def build_id(self) -> str:
        """GNU build id in hex, or empty."""
        return build_id_of(self.place)

    @cached_property
    def symbols(self) -> ElfSymbols:
        """Symbols and layout of the file.

        Raises
        ------
        UnknownSymbol
            It cannot be read or is not ELF; the message says why.
        """
        found = default_store().get(self.path, self.build_id, [self.place])
        if found is not None:
            return found
        try:
            return ElfSymbols.open(self.place, path=self.path)
        except BadElf as error:
            raise UnknownSymbol(error.message, error.hint) from error

    @cached_property
    def bias(self) -> int | None:
        """Run-time address minus address in the file; None while not mapped."""
        if self.mapping is None:
            return None
        start, _, offset = self.mapping
        vaddr, found = self.symbols.offset_to_vaddr(np.array([offset], np.uint64))
        return start - int(vaddr[0]) if found[0] else None

    @property
    def stripped(self) -> bool:
        """Without a full symbol table (only exported names can be found)."""
        from workbench.frames.symbols.elffile import ElfFile

        if self.symbols.debug_path:
            return False
        try:
            with ElfFile(self.place) as elf:
                return elf.section(".symtab") is None and elf.section(".gnu_debugdata") is None
        except (OSError, BadElf):
            return True


class Modules:
    """The files of one process, or of no process in particular (the whole machine).

    Parameters
    ----------
    pid : int or None
        Process; None for the machine.
    paths : sequence of str
        Files that count as part of the target beside what is mapped (for the machine: those named so far).

    Raises
    ------
    TargetGone
        The process does not exist.
    NotPermitted
        It belongs to another user.
    """

    def __init__(self, pid: int | None, paths: Sequence[str] = ()) -> None:
        self.pid = pid
        self.root = ""
        self._named = [Module(path, path, main=i == 0) for i, path in enumerate(paths)]
        self.mapped: list[Module] = []
        if pid is not None:
            self._read()

    def _read(self) -> None:
        assert self.pid is not None
        base = f"/proc/{self.pid}"
        try:
            text = Path(f"{base}/maps").read_bytes()
            program = str(Path(f"{base}/exe").readlink())
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TargetGone(
                f"process {self.pid} does not exist", "check the pid; it may have exited"
            ) from error
        except PermissionError as error:
            raise NotPermitted(
                f"process {self.pid} belongs to another user or is protected",
                "this is root already: it is of another container, or the machine does not let it be read; observe "
                "another process"
                if os.geteuid() == 0
                else "run as root or as the process's owner",
            ) from error
        with contextlib.suppress(OSError):
            if not Path(f"{base}/root").samefile("/"):
                self.root = f"{base}/root"
        seen: dict[str, Module] = {}
        for start, end, offset, path in parse_maps(text):
            if path.startswith("/") and path not in seen:
                place = self._place(start, end, path)
                mapping = (start, end, offset)
                seen[path] = Module(
                    path.removesuffix(_DELETED), place, mapping, main=path == program
                )
        self.mapped = sorted(seen.values(), key=lambda module: not module.main)

    def _place(self, start: int, end: int, path: str) -> str:
        """A way to the mapped inode that lives as long as possible: the path, else through /proc."""
        plain = path.removesuffix(_DELETED)
        link = f"/proc/{self.pid}/map_files/{start:x}-{end:x}"
        within = f"/proc/{self.pid}/root{plain}"
        try:
            wanted = Path(link).stat()
        except OSError:
            return within if Path(within).exists() and not self._same(within, plain) else plain
        for candidate in (plain, within):
            with contextlib.suppress(OSError):
                if os.path.samestat(Path(candidate).stat(), wanted):
                    return candidate
        return link

    @staticmethod
    def _same(a: str, b: str) -> bool:
        with contextlib.suppress(OSError):
            return Path(a).samefile(b)
        return False

    @property
    def main(self) -> Module | None:
        """The program of the process; for the machine, the first named file."""
        for module in (*self.mapped, *self._named):
            if module.main:
                return module
        return None

    def __iter__(self) -> Iterator[Module]:
        """Every known file, the program first."""
        yield from self.mapped
        yield from self._named

    def find_module(self, name: str) -> Module:
        """The file that best answers to `name`; empty is the program itself.

        Raises
        ------
        UnknownSymbol
            None does; the hint lists the nearest.
        """
        return self.find_modules(name)[0]

    def find_modules(self, name: str) -> list[Module]:
        """All files that answer equally well to `name`: two copies of a library can be mapped.

        A library that is not mapped yet is looked up as the dynamic linker would: it will be probed when it comes.
        """
        if not name:
            if self.main is None:
                raise UnknownSymbol(
                    "the whole machine has no main program",
                    "name the file: LIBRARY:FUNCTION or /path:FUNCTION",
                )
            return [self.main]
        ranked = [(module_rank(module.path, name), module) for module in self]
        best = min((rank for rank, _ in ranked if rank >= 0), default=-1)
        if best >= 0:
            return [module for rank, module in ranked if rank == best]
        if (module := self._not_mapped(name)) is not None:
            self._named.append(module)
            return [module]
        stems = {re.split(r"\.so(?:\.|$)", m.path.rsplit("/", 1)[-1])[0] for m in self}
        stems |= {key.split(".so", 1)[0] for key in cached_libraries(self.root)}
        near = difflib.get_close_matches(name.rsplit("/", 1)[-1], stems, 5, 0.5)
        shown = f"nearest: {', '.join(near)}; " if near else ""
        shown += "a library that is loaded later is found by its path"
        whose = f"process {self.pid}" if self.pid else "this machine"
        raise UnknownSymbol(f"{whose} has no program or library {name!r}", shown)

    def _not_mapped(self, name: str) -> Module | None:
        if "/" in name:
            return self._by_path(name)
        closure: list[str] = []
        if self.main is not None:
            closure = list(library_closure(self.main.path, self.root, self._library_path()))
        for paths in (closure, list(cached_libraries(self.root).values())):
            ranked = [(module_rank(path, name), path) for path in paths]
            usable = [(rank, path) for rank, path in ranked if rank >= 0]
            if usable:
                path = min(usable, key=lambda pair: pair[0])[1]
                return self._by_path(path)
        for folder in os.get_exec_path():
            if Path(f"{self.root}{folder}/{name}").is_file():
                return self._by_path(f"{folder}/{name}")
        return None

    def _by_path(self, path: str) -> Module | None:
        candidates = [self.root + path] if path.startswith("/") else []
        if not path.startswith("/"):
            candidates.append(str(Path(path).absolute()))
            if self.pid is not None:
                candidates.append(f"/proc/{self.pid}/cwd/{path}")
        for place in candidates:
            if not Path(place).is_file():
                continue
            for module in self:
                if self._same(module.place, place):
                    return module
            # Links are resolved, so that frames name the file as mappings of processes do.
            real = os.path.realpath(place)
            shown = path if self.root and place.startswith(self.root) else real
            return Module(shown, place)
        return None

    def _library_path(self) -> list[str]:
        with contextlib.suppress(OSError):
            for pair in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0"):
                if pair.startswith(b"LD_LIBRARY_PATH="):
                    return [os.fsdecode(part) for part in pair[16:].split(b":") if part]
        return []
