"""Names of address ranges that no file has: JIT code (perf-PID.map) and the kernel (/proc/kallsyms)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("NamedRanges", "find_perf_map", "parse_kallsyms", "parse_perf_map", "python_name")

MAX_PERF_MAP = 256 << 20
_NONE = 2**64 - 1
_PYTHON = re.compile(r"py::(.*):([^:]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedRanges:
    """Sorted, disjoint starts with a name each.

    ``starts``, ``ends``: uint64, shape (n,); ``names`` and ``modules``: n texts.
    """

    starts: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    names: list[str]
    modules: list[str]

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
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
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


def parse_kallsyms(content: bytes) -> NamedRanges:
    """Ranges of /proc/kallsyms (functions only); empty where the addresses are hidden (all zero)."""
    rows: dict[int, tuple[str, str]] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        parts = line.split(None, 3)
        if len(parts) < 3 or parts[1] not in "tTwW":
            continue
        try:
            address = int(parts[0], 16)
        except ValueError:
            continue
        if not 0 < address < _NONE:
            continue
        known = rows.get(address)
        # The names that a reader expects: global before local, without the aliases' underscores.
        if known is None or (known[0].startswith("_") and not parts[2].startswith("_")):
            rows[address] = (parts[2], parts[3].strip() if len(parts) > 3 else "[kernel]")
    starts = sorted(rows)
    ends = [*starts[1:], min(starts[-1] + 4096, _NONE)] if starts else []
    return NamedRanges(
        np.array(starts, np.uint64),
        np.array(ends, np.uint64),
        [rows[start][0] for start in starts],
        [rows[start][1] for start in starts],
    )
