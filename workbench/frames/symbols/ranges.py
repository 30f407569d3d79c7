"""Names of address ranges that no file has: JIT code (perf-PID.map) and the kernel (/proc/kallsyms)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("NamedRanges", "find_perf_map", "parse_kallsyms", "parse_perf_map", "python_name")

MAX_PERF_MAP = 256 << 20
_NONE = 2**64 - 1
_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[list(b"0123456789abcdef")] = np.arange(16)
_PYTHON = re.compile(r"py::(.*):([^:]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedRanges:
    """Sorted, disjoint starts with a name each.

    ``starts``, ``ends``: uint64, shape (n,); ``names`` and ``modules``: n texts.
    """

    starts: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    names: Sequence[str]
    modules: Sequence[str]

    def find(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Index of the range that holds each address, or -1."""
        if not len(self.starts):
            return np.full(len(addresses), -1, np.int64)
        at = np.searchsorted(self.starts, addresses, "right") - 1
        return np.where((at >= 0) & (addresses < self.ends[at]), at, -1)


def _build(rows: list[tuple[int, int, str, str]]) -> NamedRanges:
    """Ranges from rows (start, end, name, module); of two with one start the later row wins."""
    by_start = {row[0]: row for row in rows}
    ordered = [by_start[start] for start in sorted(by_start)]
    starts = np.array([row[0] for row in ordered], np.uint64)
    ends = np.array([row[1] for row in ordered], np.uint64)
    return NamedRanges(starts, ends, [row[2] for row in ordered], [row[3] for row in ordered])


def python_name(name: str) -> str | None:
    """Readable form of a CPython perf trampoline name (``py::function:/path/file.py``), None for other names."""
    match = _PYTHON.fullmatch(name)
    if match is None:
        return None
    return f"{match[1]} ({Path(match[2]).name or match[2]})"


def parse_perf_map(content: bytes) -> NamedRanges:
    """Ranges of a perf-PID.map: lines ``START SIZE NAME``, numbers in hex; lines that do not parse are left out.

    A runtime appends to the file, so a later line for the same address replaces an earlier one.
    """
    rows = []
    for line in content.splitlines():
        parts = line.split(b" ", 2)
        if len(parts) != 3:
            continue
        try:
            start, size = int(parts[0], 16), int(parts[1], 16)
        except ValueError:
            continue
        if 0 <= start < _NONE and size > 0:
            rows.append((start, min(start + size, _NONE), parts[2].decode("utf-8", "replace"), ""))
    return _build(rows)


def find_perf_map(pid: int) -> bytes:
    """Content of the perf map that process `pid` wrote, empty where there is none.

    Looked for under the process's own root and under the pid that it has there (containers), then under /tmp.
    """
    inner = pid
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                inner = int(line.split()[-1])
    except (OSError, ValueError):
        pass
    for place in (f"/proc/{pid}/root/tmp/perf-{inner}.map", f"/tmp/perf-{pid}.map"):
        try:
            path = Path(place)
            if path.is_file():
                with path.open("rb") as file:
                    return file.read(MAX_PERF_MAP)
        except OSError:
            continue
    return b""


class _Cuts(Sequence[str]):
    """Texts of one buffer, decoded when they are asked for."""

    __slots__ = ("_begins", "_content", "_ends")

    def __init__(self, content: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self._content, self._begins, self._ends = content, begins, ends

    def __len__(self) -> int:
        return len(self._begins)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _Cuts(self._content, self._begins[index], self._ends[index])
        name = self._content[self._begins[index] : self._ends[index]]
        return name.decode("utf-8", "replace").strip()


_last_kallsyms: tuple[bytes, NamedRanges] | None = None


def parse_kallsyms(content: bytes) -> NamedRanges:
    """Ranges of /proc/kallsyms (functions only); empty where the addresses are hidden (all zero).

    Lines are ``ADDRESS TYPE NAME``, a tab and the module in brackets, the address 16 hex digits; others are left out.
    The last table is kept for as long as the content is the same: it changes within a boot, with every module and
    every BPF program that is loaded.
    """
    global _last_kallsyms
    last = _last_kallsyms
    if last is None or last[0] != content:
        last = _last_kallsyms = content, _parse_kallsyms(content)
    return last[1]


def _parse_kallsyms(content: bytes) -> NamedRanges:
    data = np.frombuffer(content, np.uint8)
    if len(data) < 20:
        return _build([])
    newlines = np.flatnonzero(data == ord("\n"))
    begins = np.concatenate([np.zeros(1, np.int64), newlines + 1])
    ends = np.append(newlines, len(data))
    whole = ends - begins >= 20
    begins, ends = begins[whole], ends[whole]
    function = np.isin(data[begins + 17], np.frombuffer(b"tTwW", np.uint8))
    function &= (data[begins + 16] == ord(" ")) & (data[begins + 18] == ord(" "))
    begins, ends = begins[function], ends[function]
    digits = _DIGITS[sliding_window_view(data, 16)[begins]]
    packed = np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2])
    addresses = packed.view(">u8").astype(np.uint64).reshape(-1)
    good = (digits < 16).all(axis=1) & (addresses > 0) & (addresses < np.uint64(_NONE))
    begins, ends, addresses = begins[good] + 19, ends[good], addresses[good]
    # The names that a reader expects: global before local, without the aliases' underscores.
    order = np.lexsort((data[begins] == ord("_"), addresses))
    starts, first = np.unique(addresses[order], return_index=True)
    begins, ends = begins[order][first], ends[order][first]
    tabs = np.append(np.flatnonzero(data == ord("\t")), len(data))
    tab = np.minimum(tabs[np.searchsorted(tabs, begins)], ends)
    modules = ["[kernel]"] * len(starts)
    loaded = np.flatnonzero(tab < ends)
    owners = _Cuts(content, tab[loaded] + 1, ends[loaded])
    for i, owner in zip(loaded.tolist(), owners, strict=True):
        modules[i] = owner
    last = starts[-1:] + np.minimum(np.uint64(4096), ~starts[-1:])
    names = _Cuts(content, begins, tab)
    return NamedRanges(starts, np.concatenate([starts[1:], last]), names, modules)
