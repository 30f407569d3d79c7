"""Which files hold GPU API functions, and at which of their bytes."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.ldcache import cached_libraries
from workbench.collectors.modules import Module
from workbench.collectors.uprobe.instructions import CLASSES, instruction_class
from workbench.errors import UnknownSymbol
from workbench.frames.symbols.elffile import BadElf, ElfFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workbench.collectors.gpu.signature import Api
    from workbench.frames.symbols.elf import Symbol

__all__ = ("LIBRARIES", "Site", "api_sites", "candidates", "class_of_cookie", "file_key")

LIBRARIES = {"runtime": "libcudart*.so*", "driver": "libcuda.so*", "opencl": "libOpenCL*.so*"}
"""Usual file names of each layer's library. The functions are found under any name: these are looked for ahead of
time, before a process has mapped them."""

_MARKERS = {
    "runtime": (b"cudaLaunch", b"cudaMalloc"),
    "driver": (b"cuMem",),
    "opencl": (b"clEnqueue",),
}
_STRING_TABLE = 3
_PREFIX = {"runtime": ("cuda*", "__cuda*"), "driver": ("cu*",), "opencl": ("cl*",)}
# Where Python packages keep the libraries that they bring along.
_WHEELS = ("pyopencl/.libs", "pyopencl.libs", "nvidia/*/lib", "torch/lib")


@dataclass(frozen=True, slots=True)
class Site:
    """The first instruction of an API function: its byte in the file, the cookie of its probe, its name."""

    offset: int
    cookie: int
    name: str


def file_key(place: str) -> tuple[int, int] | None:
    """(device, inode) of a file: the same library has many paths."""
    try:
        status = Path(place).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def class_of_cookie(cookie: int) -> str:
    """Class of the probed instruction."""
    return CLASSES[cookie >> 16]


def _mentions(place: str, layers: Sequence[str]) -> bool:
    """The file's tables of names speak of the API at all: spares reading the symbols of every library."""
    markers = [marker for layer in layers for marker in _MARKERS[layer]]
    with contextlib.suppress(OSError, BadElf), ElfFile(place) as elf:
        for section in elf.sections:
            if section.type == _STRING_TABLE:
                names = elf.content(section)
                if any(marker in names for marker in markers):
                    return True
    return False


def api_sites(module: Module, apis: Sequence[Api], layers: Sequence[str]) -> tuple[list[Site], list[str]]:
    """Where the functions of `layers` are in a file, exported or local; and why some cannot be probed.

    Variants that are one function under several names appear once, under the name that the table has first.
    """
    if not module.main and not _mentions(module.place, layers):
        return [], []
    try:
        symbols = module.symbols
        found: dict[str, Symbol] = {
            symbol.name.partition("@")[0]: symbol
            for layer in layers
            for pattern in _PREFIX[layer]
            for symbol in symbols.match(pattern, "function")
        }
    except UnknownSymbol:
        return [], []
    numbered = [
        (number, api) for number, api in enumerate(apis) if api.layer in layers and api.name in found
    ]
    if not numbered:
        return [], []
    addresses = np.array([found[api.name].address for _, api in numbered], np.uint64)
    offsets, inside = symbols.vaddr_to_offset(addresses)
    sites: dict[int, Site] = {}
    refused: list[str] = []
    with contextlib.suppress(OSError), Path(module.place).open("rb") as file:
        for (number, api), offset, good in zip(numbered, offsets.tolist(), inside.tolist(), strict=True):
            if not good or offset in sites:
                continue
            file.seek(offset)
            kind, why = instruction_class(file.read(16))
            if why:
                refused.append(f"{api.name} of {module.path}: {why}")
                continue
            sites[offset] = Site(offset, number | CLASSES.index(kind) << 16, api.name)
    return list(sites.values()), refused


def _search_folders(pid: int | None, root: str) -> Iterator[str]:
    """Folders from which the process may load libraries later: LD_LIBRARY_PATH, the packages of its Python."""
    if pid is None:
        return
    with contextlib.suppress(OSError):
        for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = pair.partition(b"=")
            if name == b"LD_LIBRARY_PATH":
                yield from (root + os.fsdecode(part) for part in value.split(b":") if part)
            elif name == b"PYTHONPATH":
                for part in value.split(b":"):
                    yield from (f"{root}{os.fsdecode(part)}/{wheel}" for wheel in _WHEELS if part)
    with contextlib.suppress(OSError):
        base = Path(f"/proc/{pid}/cwd").readlink()
        # argv[0] names the virtual environment where /proc/PID/exe names the Python it was made from.
        program = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0])
        for prefix in dict.fromkeys(
            (Path(os.path.normpath(base / program)).parent.parent, Path(f"/proc/{pid}/exe").readlink().parent.parent)
        ):
            for library in Path(f"{root}{prefix}/lib").glob("python3*"):
                for packages in ("site-packages", "dist-packages"):
                    yield from (f"{library}/{packages}/{wheel}" for wheel in _WHEELS)


def candidates(pid: int | None, root: str, layers: Sequence[str]) -> list[Module]:
    """Files that look like GPU API libraries and that the process may load later.

    Probing them ahead touches nothing until the process maps one, and then no call is missed.
    """
    patterns = [LIBRARIES[layer] for layer in layers]
    places: dict[str, None] = {}
    for name, path in cached_libraries(root).items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            places[root + path] = None
    for folder in dict.fromkeys(_search_folders(pid, root)):
        parent, star, rest = folder.partition("/*/")
        for where in Path(parent).glob("*/" + rest) if star else (Path(folder),):
            for pattern in patterns:
                with contextlib.suppress(OSError):
                    places |= dict.fromkeys(str(path) for path in sorted(where.glob(pattern)))
    found: dict[tuple[int, int], Module] = {}
    for place in places:
        key = file_key(place)
        if key is not None:
            found.setdefault(key, Module(place.removeprefix(root), place))
    return list(found.values())
