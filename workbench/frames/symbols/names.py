"""The pool of NUL-terminated symbol names, and searches in it that never build half a million Python strings."""

from __future__ import annotations

import fnmatch
import mmap
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ("NamePool", "edit_distances", "mangled_fragment")

MAX_NAME = 1 << 16
_WILD = re.compile(r"[*?\[]")


class NamePool:
    """Names end to end in one buffer (a string table, or the mapped cache).

    Parameters
    ----------
    buffer : bytes or mmap
        Holds the names.
    start, size : int
        Part of the buffer that is the pool; it must end with a NUL.
    """

    __slots__ = ("_buffer", "_end", "_start", "view")

    def __init__(self, buffer: bytes | mmap.mmap, start: int = 0, size: int | None = None) -> None:
        self._buffer = buffer
        self._start = start
        self._end = len(buffer) if size is None else start + size
        self.view: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8, self._end - start, start)

    def name(self, offset: int) -> bytes:
        """The name at an offset, cut at 64 KiB (a damaged table may lack its NULs)."""
        start = self._start + offset
        most = min(start + MAX_NAME, self._end)
        end = self._buffer.find(b"\0", start, most)
        return self._buffer[start : most if end < 0 else end]

    def raw(self, offsets: Iterable[int]) -> list[bytes]:
        """The names at offsets, as `name` gives them but without a call for each."""
        buffer, find, start, last = self._buffer, self._buffer.find, self._start, self._end
        found = []
        for offset in offsets:
            at = start + offset
            end = find(b"\0", at, at + MAX_NAME)
            found.append(buffer[at : end if 0 <= end < last else min(at + MAX_NAME, last)])
        return found

    def text(self, offsets: Iterable[int]) -> list[str]:
        """The names at offsets as str."""
        return [self.name(offset).decode("utf-8", "replace") for offset in offsets]

    def occurrences(self, needle: bytes, most: int = 1 << 20) -> NDArray[np.int64]:
        """Offsets at which `needle` occurs, overlaps included, at most `most`."""
        found: list[int] = []
        at = self._buffer.find(needle, self._start, self._end)
        while at >= 0 and len(found) < most:
            found.append(at - self._start)
            at = self._buffer.find(needle, at + 1, self._end)
        return np.array(found, np.int64)

    def exact(self, name: bytes, offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Rows of `offsets` whose name is `name`."""
        # Linkers let "bar" be the tail of "foobar", so a name may begin anywhere.
        hits = self.occurrences(name + b"\0")
        if len(hits) <= 4:
            rows = [np.flatnonzero(offsets == np.uint32(hit)) for hit in hits.tolist()]
            return np.concatenate(rows) if rows else np.zeros(0, np.int64)
        return np.flatnonzero(np.isin(offsets, hits.astype(np.uint32)))

    def containing(self, needle: bytes, offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Rows of `offsets` whose name contains `needle`."""
        hits = self.occurrences(needle)
        if not len(hits):
            return np.zeros(0, np.int64)
        order = np.argsort(offsets, kind="stable")
        ordered = offsets[order].astype(np.int64)
        # The name that holds a hit starts at or before it and after the NUL that precedes it.
        upper = np.searchsorted(ordered, hits, "right")
        before = np.fromiter((self._before(h) for h in hits.tolist()), np.int64, len(hits))
        lower = np.searchsorted(ordered, before, "left")
        rows = [order[a:b] for a, b in zip(lower.tolist(), upper.tolist(), strict=True) if b > a]
        return np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)

    def _before(self, offset: int) -> int:
        return self._buffer.rfind(b"\0", self._start, self._start + offset) + 1 - self._start

    def starting(self, prefix: bytes, offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Rows of `offsets` whose name begins with `prefix`."""
        rows = np.arange(len(offsets))
        last = len(self.view) - 1
        for i, byte in enumerate(prefix):
            at = np.minimum(offsets[rows].astype(np.int64) + i, last)
            rows = rows[self.view[at] == byte]
        return rows

    def glob(self, pattern: str, offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Rows of `offsets` whose name matches a shell pattern (``*``, ``?``, ``[...]``)."""
        literals = [part for part in re.split(r"\[[^\]]*\]|[*?]", pattern) if part]
        head = _WILD.split(pattern, maxsplit=1)[0]
        if head:
            rows = self.starting(head.encode(), offsets)
        elif literals and "[" not in pattern:
            rows = self.containing(max(literals, key=len).encode(), offsets)
        else:
            rows = np.arange(len(offsets))
        matches = re.compile(fnmatch.translate(pattern).encode()).match
        kept = [row for row in rows.tolist() if matches(self.name(int(offsets[row])))]
        return np.array(kept, np.int64)

    def lengths(self, offsets: NDArray[np.uint32], most: int) -> NDArray[np.int64]:
        """Length of each name, or `most` + 1 where it is longer."""
        length = np.full(len(offsets), most + 1, np.int64)
        rows = np.arange(len(offsets))
        last = len(self.view) - 1
        for i in range(most + 1):
            at = np.minimum(offsets[rows].astype(np.int64) + i, last)
            ended = self.view[at] == 0
            length[rows[ended]] = i
            rows = rows[~ended]
        return length

    def matrix(self, offsets: NDArray[np.uint32], width: int) -> NDArray[np.uint8]:
        """Names as rows of bytes, zero-padded or cut to `width`: uint8, shape (n, width)."""
        at = offsets.astype(np.int64)[:, None] + np.arange(width)
        out: NDArray[np.uint8] = self.view[np.minimum(at, len(self.view) - 1)]
        out[np.cumsum(out == 0, axis=1) > 0] = 0
        return out


def edit_distances(
    query: bytes, names: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Edit distance of `query` to every row of a zero-padded matrix, transpositions counted once.

    The optimal string alignment recurrence, run for all names at once: one pass over (query x width) cells, each a
    vector over the names.
    """
    count, width = names.shape
    columns = np.ascontiguousarray(names.T)
    before: list[NDArray[np.int16]] = []
    row = [np.full(count, j, np.int16) for j in range(width + 1)]
    for i, byte in enumerate(query, 1):
        current = [np.full(count, i, np.int16)]
        for j in range(1, width + 1):
            cost = (columns[j - 1] != byte).astype(np.int16)
            cell = np.minimum(np.minimum(row[j], current[j - 1]) + np.int16(1), row[j - 1] + cost)
            if i > 1 and j > 1:
                swapped = (columns[j - 1] == query[i - 2]) & (columns[j - 2] == byte)
                cell = np.where(swapped, np.minimum(cell, before[j - 2] + np.int16(1)), cell)
            current.append(cell)
        before, row = row, current
    table = np.stack(row, axis=1)
    return table[np.arange(count), np.minimum(lengths, width)].astype(np.int64)


def mangled_fragment(name: str) -> bytes:
    """What the mangled form of a qualified C++ or Rust name must contain: `a::bc` gives ``1a2bc``.

    Template arguments and parameters are left out: they mangle in too many ways.
    """
    plain = re.sub(r"\(.*", "", name)
    depth, kept = 0, []
    for letter in plain:
        depth += letter == "<"
        if depth == 0:
            kept.append(letter)
        depth -= letter == ">" and depth > 0
    parts = [part for part in "".join(kept).split("::") if re.fullmatch(r"\w+", part)]
    if parts and parts[0] == "std":
        parts = parts[1:]
    if not parts or "<" in plain:
        parts = parts[-1:]
    return b"".join(b"%d%s" % (len(part.encode()), part.encode()) for part in parts)
