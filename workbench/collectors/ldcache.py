"""Where the dynamic linker would find a library: DT_NEEDED, RPATH/RUNPATH, ld.so.cache, the default folders.

Search order: ld.so(8). Everything is read from files below a root folder (`/proc/PID/root` for a process in another
mount namespace), which may be hostile: lengths are checked, and damage means "not found", never a crash.
"""

from __future__ import annotations

import os
import platform
import struct
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.frames.symbols.elffile import BadElf, ElfFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("Dynamic", "cached_libraries", "dynamic", "library_closure", "parse_cache")

_MAGIC = b"glibc-ld.so.cache1.1"
_ENTRY = struct.Struct("<iIIIQ")
_FLAGS = {"x86_64": 0x0303, "aarch64": 0x0A03}
_DEFAULT = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_DYNAMIC, _PT_DYNAMIC = 6, 2
_NEEDED, _STRTAB, _SONAME, _RPATH, _RUNPATH = 1, 5, 14, 15, 29
_MOST_LIBRARIES = 4096


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the dynamic section of a file says about libraries: `needed` names and `search` folders as written."""

    needed: tuple[str, ...]
    soname: str
    search: tuple[str, ...]


def parse_cache(data: bytes, flags: int | None = None) -> dict[str, str]:
    """Library name -> path, from the bytes of ld.so.cache (the glibc 2.2+ format); empty where it is another format.

    Parameters
    ----------
    data : bytes
        The file.
    flags : int, optional
        Keep entries of this ABI only (FLAG_* of glibc's ldconfig.h); default this machine's.
    """
    wanted = _FLAGS.get(platform.machine()) if flags is None else flags
    base = data.find(_MAGIC)
    if base < 0 or len(data) < base + 48:
        return {}
    (count,) = struct.unpack_from("<I", data, base + 20)
    found: dict[str, str] = {}
    for i in range(min(count, (len(data) - base - 48) // _ENTRY.size)):
        abi, key, value, _, _ = _ENTRY.unpack_from(data, base + 48 + i * _ENTRY.size)
        if wanted is not None and abi != wanted:
            continue
        name, path = _text(data, base + key), _text(data, base + value)
        if name and path.startswith("/"):
            found.setdefault(name, path)
    return found


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    return os.fsdecode(data[at:end]) if 0 <= at < len(data) and at < end <= at + 4096 else ""


@lru_cache(maxsize=16)
def _read_cache(path: str, stamp: tuple[int, int, int]) -> dict[str, str]:
    try:
        return parse_cache(Path(path).read_bytes())
    except OSError:
        return {}


def cached_libraries(root: str = "") -> dict[str, str]:
    """Library name -> path from `root`/etc/ld.so.cache."""
    path = f"{root}/etc/ld.so.cache"
    try:
        status = Path(path).stat()
    except OSError:
        return {}
    return _read_cache(path, (status.st_ino, status.st_size, status.st_mtime_ns))


def dynamic(place: str) -> Dynamic:
    """The libraries a file asks for; empty for static files and for what cannot be read."""
    try:
        with ElfFile(place) as elf:
            segments = elf.segments[elf.segments["type"] == _PT_DYNAMIC]
            if not len(segments):
                return Dynamic((), "", ())
            raw = elf.read(
                int(segments[0]["offset"]),
                int(segments[0]["filesz"]) // 16 * 16,
                "the dynamic section",
            )
            rows = np.frombuffer(raw, "<u8").reshape(-1, 2)
            ends = np.flatnonzero(rows[:, 0] == 0)
            rows = rows[: ends[0]] if len(ends) else rows
            tables = rows[rows[:, 0] == _STRTAB, 1]
            if not len(tables):
                return Dynamic((), "", ())
            text = _table(elf, int(tables[0]))

            def strings(tag: int) -> tuple[str, ...]:
                return tuple(
                    filter(None, (_text(text, int(at)) for at in rows[rows[:, 0] == tag, 1]))
                )

            paths = strings(_RUNPATH) or strings(_RPATH)
            return Dynamic(
                strings(_NEEDED),
                next(iter(strings(_SONAME)), ""),
                tuple(folder for path in paths for folder in path.split(":") if folder),
            )
    except (OSError, BadElf):
        return Dynamic((), "", ())


def _table(elf: ElfFile, address: int) -> bytes:
    for load in elf.loads:
        vaddr, size = int(load["vaddr"]), int(load["filesz"])
        if vaddr <= address < vaddr + size:
            length = min(size - (address - vaddr), 1 << 26)
            return elf.read(int(load["offset"]) + address - vaddr, length, "the dynamic strings")
    return b""


def library_closure(program: str, root: str = "", environment: Iterable[str] = ()) -> Iterator[str]:
    """Paths (inside `root`) of every library that a program will load at start, nearest first.

    Parameters
    ----------
    program : str
        The program's path inside `root`.
    root : str
        Folder that is the target's `/`.
    environment : iterable of str
        Folders of LD_LIBRARY_PATH.
    """
    cache = cached_libraries(root)
    extra = tuple(environment)
    waiting = deque([program])
    seen: set[str] = set()
    while waiting and len(seen) < _MOST_LIBRARIES:
        current = waiting.popleft()
        wanted = dynamic(root + current)
        origin = str(Path(current).parent)
        search = [s.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for s in wanted.search]
        for name in wanted.needed:
            path = _locate(name, (*extra, *search), cache, root)
            if path and path not in seen:
                seen.add(path)
                waiting.append(path)
                yield path


def _locate(name: str, search: Iterable[str], cache: dict[str, str], root: str) -> str:
    if "/" in name:
        return name
    for folder in search:
        if Path(f"{root}{folder}/{name}").is_file():
            return f"{folder}/{name}"
    if name in cache:
        return cache[name]
    for folder in _DEFAULT:
        if Path(f"{root}{folder}/{name}").is_file():
            return f"{folder}/{name}"
    return ""
