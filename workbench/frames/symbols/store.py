"""Symbol tables of files, kept in memory and in a cache on disk that outlives the session and the file.

The cache holds, per build id (per device, inode, size and time of change where a file has no build id), the sorted
symbol table and the readable names asked for so far. Files are written to a temporary name and renamed; one that is
damaged is rebuilt; the oldest are removed beyond a size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import WorkbenchError
from workbench.frames.symbols.arrayfile import BadArrayFile, read_arrays, write_arrays
from workbench.frames.symbols.elf import ElfSymbols, debug_file
from workbench.frames.symbols.elffile import ElfFile, build_id_of
from workbench.frames.symbols.functions import NAMELESS
from workbench.frames.symbols.names import NamePool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ("SymbolStore", "cache_folder", "default_store")

VERSION = "symbols-3"
DEFAULT_LIMIT = 2 << 30
_COLUMNS = {
    "value": "<u8", "size": "<u8", "kind": "|u1", "binding": "|u1", "name": "<u4",
    "starts": "<u8", "ends": "<u8", "best": "<i4", "parent": "<i4",
    "code_start": "<u8", "code_end": "<u8", "code_name": "<u4",
    "load_offset": "<u8", "load_filesz": "<u8", "load_vaddr": "<u8", "load_memsz": "<u8", "load_flags": "<u4",
}  # fmt: skip
_HEX = re.compile(r"[0-9a-f]{8,128}")


def cache_folder() -> Path:
    """Where the cache lives: $WORKBENCH_CACHE, else $XDG_CACHE_HOME/workbench, else ~/.cache/workbench."""
    if own := os.environ.get("WORKBENCH_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "workbench"
    return Path("~").expanduser() / ".cache" / "workbench"


class SymbolStore:
    """Finds or builds the `ElfSymbols` of a file.

    Parameters
    ----------
    folder : Path, optional
        Cache folder; default `cache_folder()`.
    limit : int
        Bytes that the cache may hold; the least recently used files go first.
    """

    def __init__(self, folder: Path | None = None, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = (folder or cache_folder()) / VERSION
        self.limit = limit
        self._loaded: dict[str, ElfSymbols] = {}
        self._failed: dict[tuple[str, str], str] = {}
        self._stripped: set[tuple[str, str]] = set()
        self._lock = threading.RLock()

    def get(
        self, path: str, build_id: str = "", alternates: Iterable[str] = ()
    ) -> ElfSymbols | None:
        """Symbols of a mapped file, or None where they cannot be had (`problem` then says why).

        Parameters
        ----------
        path : str
            Path as the process saw it.
        build_id : str
            Recorded build id in hex. A file at `path` with another one (upgraded since) is not used.
        alternates : iterable of str
            Other places to read the same file from (``/proc/PID/map_files/...``), tried first.
        """
        with self._lock:
            known = self._known(build_id) if build_id else None
            if known is not None and not self._fuller(known, (*alternates, path)):
                return known
            reason = "the file does not exist"
            for place in (*alternates, path):
                if not place.startswith("/"):
                    continue
                try:
                    status = Path(place).stat()
                except OSError:
                    continue
                actual = build_id_of(place)
                if build_id and actual != build_id:
                    reason = (
                        f"the file now has build id {actual or 'none'}, recorded was {build_id}"
                    )
                    continue
                name = actual or _file_key(status)
                found = self._known(name)
                if found is not None and not self._fuller(found, (place,)):
                    return found
                try:
                    return self._build(name, place, path)
                except WorkbenchError as error:
                    reason = error.message
            self._failed[(path, build_id)] = reason
            return None

    def problem(self, path: str, build_id: str = "") -> str:
        """Why `get` returned None for these arguments; empty if it did not."""
        return self._failed.get((path, build_id), "")

    def image(self, data: bytes, path: str, build_id: str = "") -> ElfSymbols | None:
        """Symbols of an ELF image in memory (the vdso)."""
        with self._lock:
            try:
                symbols = ElfSymbols.open(data, path=path, debug=False)
            except WorkbenchError as error:
                self._failed[(path, build_id)] = error.message
                return None
            if build_id and symbols.build_id != build_id:
                self._failed[(path, build_id)] = (
                    f"this machine's image has build id {symbols.build_id or 'none'}"
                )
                return None
            if symbols.build_id:
                self._loaded[symbols.build_id] = symbols
                self._write(symbols.build_id, symbols)
            return symbols

    def known(self, build_id: str) -> ElfSymbols | None:
        """Symbols by build id alone, from memory or the cache on disk."""
        with self._lock:
            return self._known(build_id)

    def save(self) -> None:
        """Write readable names that were added since they were loaded; a full disk loses only the cache."""
        with self._lock:
            changed = False
            for name, symbols in self._loaded.items():
                if not symbols.new_names or symbols.display_table is None:
                    continue
                import pyarrow as pa

                slot, display = symbols.display_table
                text = display.cast(pa.large_string())
                offsets = np.frombuffer(text.buffers()[1], np.int64, len(text) + 1, text.offset * 8)
                data = text.buffers()[2]
                blob = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
                arrays = {
                    "slot": slot,
                    "offsets": offsets - offsets[0],
                    "text": blob[offsets[0] : offsets[-1]],
                }
                with contextlib.suppress(OSError):
                    write_arrays(self._file(name, ".names"), {"symbols": len(symbols)}, arrays)
                    symbols.new_names = 0
                changed = True
            if changed:
                self._evict()

    def _fuller(self, symbols: ElfSymbols, places: Iterable[str]) -> bool:
        """A copy of a stripped file is at hand that is not stripped (both have one build id)."""
        if symbols.full:
            return False
        for place in places:
            if not place.startswith("/") or (place, symbols.build_id) in self._stripped:
                continue
            try:
                with ElfFile(place) as elf:
                    if elf.has_symtab and elf.build_id() == symbols.build_id:
                        return True
            except (OSError, WorkbenchError):
                continue
            self._stripped.add((place, symbols.build_id))
        return False

    def _file(self, name: str, suffix: str) -> Path:
        return self.folder / name[:2] / f"{name[2:]}{suffix}"

    def _known(self, name: str) -> ElfSymbols | None:
        if name in self._loaded:
            return self._loaded[name]
        if not _HEX.fullmatch(name):
            return None
        found = self._read(name)
        if found is not None:
            self._loaded[name] = found
        return found

    def _build(self, name: str, place: str, path: str) -> ElfSymbols:
        symbols = ElfSymbols.open(place, path=path)
        self._loaded[name] = symbols
        self._write(name, symbols)
        return symbols

    def _write(self, name: str, symbols: ElfSymbols) -> None:
        arrays = {**symbols.columns, "pool": symbols.pool.view}
        # A cache that cannot be written (read-only home, full disk) costs time, not results.
        with contextlib.suppress(OSError):
            write_arrays(self._file(name, ".table"), symbols.meta, arrays)
            self._evict()

    def _read(self, name: str) -> ElfSymbols | None:
        file = self._file(name, ".table")
        try:
            meta, arrays, mapping, positions = read_arrays(file, unchecked=("pool",))
            pool_size = len(arrays.pop("pool"))
            columns = {key: arrays[key] for key in _COLUMNS}
            if any(columns[key].dtype.str != kind for key, kind in _COLUMNS.items()):
                return None
            if (
                not _consistent(columns, pool_size)
                or mapping[positions["pool"] + pool_size - 1] != 0
            ):
                return None
            symbols = ElfSymbols(meta, columns, NamePool(mapping, positions["pool"], pool_size))
        except (OSError, BadArrayFile, KeyError, IndexError):
            return None
        if not symbols.debug_path and debug_file(symbols.path, symbols.build_id, "") is not None:
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        self._read_names(name, symbols)
        return symbols

    def _read_names(self, name: str, symbols: ElfSymbols) -> None:
        import pyarrow as pa

        file = self._file(name, ".names")
        try:
            meta, arrays, _mapping, _positions = read_arrays(file)
            slot, offsets, text = arrays["slot"], arrays["offsets"], arrays["text"]
        except (OSError, BadArrayFile, KeyError):
            return
        count = len(offsets) - 1
        fits = (
            meta.get("symbols") == len(symbols) == len(slot)
            and count >= 0
            and slot.dtype == np.int32
            and offsets.dtype == np.int64
            and (len(slot) == 0 or (int(slot.max()) < count and int(slot.min()) >= -1))
            and int(offsets[0]) == 0
            and int(offsets[-1]) == len(text)
            and bool((offsets[1:] >= offsets[:-1]).all())
        )
        if not fits:
            return
        display = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))
        symbols.adopt_display(slot, display)
        with contextlib.suppress(OSError):
            os.utime(file)

    def _evict(self) -> None:
        files = []
        # Those of other versions too: after an upgrade nobody reads them.
        for file in self.folder.parent.glob("symbols-*/*/*"):
            with contextlib.suppress(OSError):
                status = file.stat()
                files.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                file.unlink()
                total -= size


def _consistent(columns: dict[str, NDArray[np.generic]], pool_size: int) -> bool:
    symbols, ranges, loads = (len(columns[key]) for key in ("value", "starts", "load_offset"))
    if any(len(columns[key]) != symbols for key in ("size", "kind", "binding", "name")):
        return False
    if any(len(columns[key]) != ranges for key in ("ends", "best", "parent")):
        return False
    if any(len(column) != loads for key, column in columns.items() if key.startswith("load_")):
        return False
    code = columns["code_name"]
    if any(len(columns[key]) != len(code) for key in ("code_start", "code_end")):
        return False
    if len(code) and int(code[code != np.uint32(NAMELESS)].max(initial=0)) >= pool_size:
        return False
    if pool_size < 1 or (symbols and int(columns["name"].max()) >= pool_size):
        return False
    if not ranges:
        return True
    best, parent = columns["best"], columns["parent"]
    return bool(
        best.min() >= 0 and best.max() < symbols and parent.min() >= -1 and parent.max() < ranges
    )


def _file_key(status: os.stat_result) -> str:
    text = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:40]


@cache
def default_store() -> SymbolStore:
    """The store that everything in this process shares."""
    return SymbolStore()
