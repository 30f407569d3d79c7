"""Machine code around an instruction pointer: from the files of a process, its memory, or what the hit brought."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.errors import WorkbenchError
from workbench.frames.symbols.mappings import build_id_at, parse_maps, readable_place
from workbench.frames.symbols.store import default_store

__all__ = ("Code", "CodeReader")

_BEFORE, _AFTER = 1 << 16, 16
_SHORT = 256  # bytes before the stop where no function start is known
_Map = tuple[int, int, int, str]


@dataclass(frozen=True, slots=True)
class Code:
    """Bytes with the stop at position `ip`, and the position of the function's first instruction where known.

    `key` names the place independently of the process: hits of equal key decode alike.
    """

    data: bytes
    ip: int
    start: int | None
    key: tuple[str, int]
    lasting: bool = True
    """False for code in anonymous memory, which a just-in-time compiler may replace between two hits."""


class CodeReader:
    """Finds code; remembers the mappings of every process asked for, so that those that exited still have code.

    Parameters
    ----------
    root : int
        The first process: its mappings stand in for those of a fork that exited before its were read.
    """

    def __init__(self, root: int | None) -> None:
        self._root = root
        self._maps: dict[int, list[_Map]] = {}
        self._places: dict[tuple[str, int], tuple[str, str]] = {}
        if root is not None:
            self.refresh(root)

    def refresh(self, pid: int) -> None:
        """Read the mappings of a process again; what was known stays if it is gone."""
        try:
            rows = parse_maps(Path(f"/proc/{pid}/maps").read_bytes())
        except OSError:
            return
        if not rows:
            return
        self._maps[pid] = rows
        for start, end, _, path in rows:
            # Resolved now: the process may be gone when the first hit is read.
            if path.startswith("/") and (path, pid) not in self._places:
                place = readable_place(pid, start, end, path)
                self._places[path, pid] = (place, build_id_at(place) if place else "")

    def find(self, pid: int, ip: int, own: bytes = b"", own_ip: int = 0) -> Code | None:
        """Code around `ip`.

        Parameters
        ----------
        pid, ip : int
            Process and reported instruction pointer.
        own : bytes
            What the hit recorded around it, with the stop at position `own_ip`: the last resort.
        """
        if ip >> 63:  # the kernel's
            return Code(own, own_ip, None, (own.hex(), ip)) if own else None
        found = self._mapped(pid, ip)
        if found is None and pid not in self._maps:
            self.refresh(pid)
            found = self._mapped(pid, ip)
        if found is None:
            self.refresh(pid)  # a library loaded since
            found = self._mapped(pid, ip)
        if found is None and self._root is not None and self._root != pid:
            found = self._mapped(self._root, ip, pid)
        if found is not None and (code := self._from_file(*found)) is not None:
            return code
        data = _memory(pid, ip - _SHORT, _SHORT + _AFTER)
        if data:
            return Code(data, _SHORT, None, (f"memory of {pid}", ip), lasting=False)
        if own:
            return Code(own, own_ip, None, (own.hex(), ip))
        return None

    def _mapped(
        self, pid: int, ip: int, like: int | None = None
    ) -> tuple[str, str, str, int] | None:
        for start, end, offset, path in self._maps.get(pid, ()):
            if start <= ip < end and path.startswith("/"):
                place, build_id = self._places.get((path, pid), ("", ""))
                return path, place, build_id, ip - start + offset
        return None

    def _from_file(self, path: str, place: str, build_id: str, offset: int) -> Code | None:
        where = place if place and os.access(place, os.R_OK) else path
        begin = max(offset - _SHORT, 0)
        start: int | None = None
        try:
            symbols = default_store().get(path, build_id, [place] if place else [])
        except WorkbenchError:
            symbols = None
        if symbols is not None:
            # The instruction before the stop belongs to the function, the one at the stop need not.
            vaddr, known = symbols.offset_to_vaddr(np.array([offset, offset - 1], np.uint64))
            rows = symbols.find_address(vaddr, "function")
            row = int(rows[0]) if rows[0] >= 0 else int(rows[1])
            if row >= 0 and known.all():
                before = int(vaddr[0]) - symbols[row].address
                if before <= _BEFORE and before <= offset:
                    start, begin = offset - before, min(begin, offset - before)
        if build_id and build_id_at(where) != build_id:
            return None
        try:
            with Path(where).open("rb") as file:
                data = os.pread(file.fileno(), offset + _AFTER - begin, begin)
        except OSError:
            return None
        if len(data) <= offset - begin:
            return None
        position = None if start is None else start - begin
        return Code(data, offset - begin, position, (build_id or where, offset))


def _memory(pid: int, address: int, size: int) -> bytes:
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, address)
    except (OSError, OverflowError, ValueError):
        return b""
