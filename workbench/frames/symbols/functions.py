"""Where functions begin and end in a file that has no symbols for them.

Compilers describe every function in `.eh_frame` so that exceptions can pass through it, and that section stays when a
file is stripped. Layout: LSB Core 5.0, section 10.6 (`.eh_frame`, `.eh_frame_hdr`); pointer encodings: DWARF 5,
section 7.24 and LSB Core 5.0, section 10.5.1. Only what linkers write is read; anything else gives fewer ranges.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.symbols.elffile import BadElf
from workbench.frames.symbols.plt import linkage_stubs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.frames.symbols.elffile import ElfFile

__all__ = ("NAMELESS", "CodeRanges", "code_ranges", "function_ranges")

PT_GNU_EH_FRAME = 0x6474E550
PF_X = 1
MAX_SECTION = 1 << 30
MAX_ENTRIES = 1 << 23
MAX_FORMATS = 1 << 14
"""Entries that tell how addresses are written; linkers merge them to a few hundred in the largest files."""
MAX_STEPS = 1 << 20
_PCREL_SDATA4, _UDATA4, _DATAREL_SDATA4 = 0x1B, 0x03, 0x3B
_WIDTHS = {0x00: 8, 0x03: 4, 0x0B: 4, 0x04: 8, 0x0C: 8}
_SIGNED = 0x08
_ABSOLUTE, _PCREL = 0x00, 0x10
_Ranges = tuple["NDArray[np.uint64]", "NDArray[np.uint64]"]
NAMELESS = 2**32 - 1
"""In place of the position of a name: a function that is known by its range alone."""


@dataclass(frozen=True, slots=True)
class CodeRanges:
    """Ranges of code, sorted and disjoint: functions by `.eh_frame`, and the stubs that call imported functions.

    ``starts``, ``ends``: uint64, shape (n,). ``names``: uint32, shape (n,), position in ``pool`` of the imported
    function's raw name (empty for what is common to all stubs), or `NAMELESS`.
    """

    starts: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    names: NDArray[np.uint32]
    pool: bytes

    def edge_after(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The next address at which a range begins or ends; 2**64 - 1 where there is none."""
        starts = np.append(self.starts, np.uint64(2**64 - 1))
        ends = np.append(self.ends, np.uint64(0))
        following = np.searchsorted(self.starts, addresses, "right")
        inside = ends[following - 1] > addresses
        return np.where(inside, ends[following - 1], starts[following])

    def beyond(self, starts: NDArray[np.uint64], ends: NDArray[np.uint64]) -> CodeRanges:
        """The ranges that none of the given ones (sorted by start) covers whole."""
        if not len(starts):
            return self
        before = np.searchsorted(starts, self.starts, "right") - 1
        reach = np.maximum.accumulate(ends)[before]
        keep = (before < 0) | (reach < self.ends)
        return CodeRanges(self.starts[keep], self.ends[keep], self.names[keep], self.pool)


def code_ranges(elf: ElfFile) -> CodeRanges:
    """Functions and linkage stubs of a file; what is damaged or of another layout is left out."""
    try:
        starts, ends = function_ranges(elf)
    except BadElf:
        starts, ends = _none()
    names = np.full(len(starts), NAMELESS, np.uint32)
    try:
        stubs, stub_ends, targets = linkage_stubs(elf)
    except BadElf:
        return CodeRanges(starts, ends, names, b"")
    if not len(stubs):
        return CodeRanges(starts, ends, names, b"")
    # A whole linkage table is one function to .eh_frame.
    at = np.searchsorted(stubs, starts, "right") - 1
    own = (at < 0) | (starts >= stub_ends[at])
    sizes = [len(name) + 1 for name in targets]
    starts = np.concatenate([starts[own], stubs])
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    ends = np.concatenate([ends[own], stub_ends])[order]
    ends[:-1] = np.minimum(ends[:-1], starts[1:])
    positions = (np.cumsum(sizes) - sizes).astype(np.uint32)
    names = np.concatenate([names[own], positions])[order]
    return CodeRanges(starts, ends, names, b"\0".join(targets) + b"\0")


def function_ranges(elf: ElfFile) -> _Ranges:
    """First address of each function and the address after its last byte.

    Parts that the compiler split off (the cold half of a function) are ranges of their own.

    Returns
    -------
    starts, ends : ndarray of uint64
        Sorted, disjoint, inside executable segments; empty where the file does not say.
    """
    header = _header(elf)
    if header is not None:
        frames, starts, records = header
    else:
        section = elf.section(".eh_frame")
        if section is None:
            return _none()
        frames, starts, records = section.address, None, None
    data = _bytes_at(elf, frames, records)
    if len(data) < 16:
        return _none()
    # The records' 4-byte fields need not be aligned in a hostile file: a view of every byte position.
    words: NDArray[np.uint32] = np.ndarray((len(data) - 3,), "<u4", data, strides=(1,))
    at = _walk(data) if records is None else (records - np.uint64(frames)).view(np.int64)
    fits = (at >= 0) & (at <= len(data) - 16)
    at = at[fits]
    if starts is not None:
        starts = starts[fits]
    begins, sizes = _decode(data, words, at, frames)
    starts = begins if starts is None else starts
    good = sizes > 0
    return _disjoint(elf, starts[good], sizes[good])


def _none() -> _Ranges:
    return np.zeros(0, np.uint64), np.zeros(0, np.uint64)


def _header(elf: ElfFile) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]] | None:
    """Address of `.eh_frame`, and start and record of each function by the search table of `.eh_frame_hdr`."""
    for row in elf.segments[elf.segments["type"] == PT_GNU_EH_FRAME]:
        address, offset = int(row["vaddr"]), int(row["offset"])
        size = min(int(row["filesz"]), elf.size - min(offset, elf.size), MAX_SECTION)
        if size < 12:
            continue
        head = elf.read(offset, 12, "PT_GNU_EH_FRAME")
        version, *encodings, frames, count = struct.unpack("<BBBBiI", head)
        if version != 1 or encodings != [_PCREL_SDATA4, _UDATA4, _DATAREL_SDATA4]:
            continue
        count = min(count, (size - 12) // 8, MAX_ENTRIES)
        if not count:
            continue
        pairs = np.frombuffer(elf.read(offset + 12, count * 8, "PT_GNU_EH_FRAME"), "<i4")
        table = pairs.astype(np.int64).view(np.uint64).reshape(-1, 2) + np.uint64(address)
        return (address + 4 + frames) % (1 << 64), table[:, 0], table[:, 1]
    return None


def _bytes_at(elf: ElfFile, address: int, records: NDArray[np.uint64] | None) -> bytes:
    """Bytes of the file from an address on, up to the last record (or of the section, where none are given)."""
    for row in elf.loads:
        start, size = int(row["vaddr"]), int(row["filesz"])
        if not start <= address < start + size:
            continue
        skipped = address - start
        offset = int(row["offset"]) + skipped
        size = min(size - skipped, elf.size - min(offset, elf.size), MAX_SECTION)
        if records is None:
            section = elf.section(".eh_frame")
            size = min(size, section.size if section is not None else size)
        else:
            inside = records[(records >= address) & (records < start + int(row["filesz"]))]
            last = int(inside.max()) - address + 32 if len(inside) else 0
            size = min(size, last)
        return elf.read(offset, size, ".eh_frame") if size > 0 else b""
    return b""


def _walk(data: bytes) -> NDArray[np.int64]:
    """Positions of the functions' records, in a file without a search table."""
    found = []
    at = 0
    for _ in range(MAX_STEPS):
        if at + 16 > len(data):
            break
        length, kind = struct.unpack_from("<II", data, at)
        if length in (0, 0xFFFFFFFF):
            break
        if kind:
            found.append(at)
        at += 4 + length
    return np.array(found, np.int64)


def _decode(data: bytes, words: NDArray[np.uint32], at: NDArray[np.int64], address: int) -> _Ranges:
    """First address and bytes of the functions whose records are at positions `at`; 0 bytes where not readable."""
    begins, sizes = np.zeros(len(at), np.uint64), np.zeros(len(at), np.uint64)
    # A record: length, distance back to the entry that tells the encoding, first address, bytes.
    entry = at + 4 - words[at + 4].astype(np.int64)
    plain = (words[at] != 0xFFFFFFFF) & (words[at + 4] != 0) & (entry >= 0)
    distinct, member = np.unique(np.where(plain, entry, -1), return_inverse=True)
    formats = np.full(len(distinct), 0xFF, np.uint8)
    for i, where in enumerate(distinct[:MAX_FORMATS].tolist()):
        if where >= 0:
            formats[i] = _encoding(data, where)
    encoding = formats[member]
    for form in set(formats.tolist()):
        width = _WIDTHS.get(form & 0x0F)
        relative = form & 0x70
        if form & 0x80 or width is None or relative not in (_ABSOLUTE, _PCREL):
            continue
        rows = np.flatnonzero((encoding == form) & (at + 8 + 2 * width <= len(data)))
        field = at[rows] + 8
        begin, size = (_number(words, field + k * width, width) for k in (0, 1))
        if width == 4 and form & _SIGNED:
            begin = begin.astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
        if relative == _PCREL:
            begin = begin + (field.astype(np.uint64) + np.uint64(address))
        begins[rows], sizes[rows] = begin, size
    return begins, sizes


def _number(words: NDArray[np.uint32], at: NDArray[np.int64], width: int) -> NDArray[np.uint64]:
    low = words[at].astype(np.uint64)
    return low if width == 4 else low | words[at + 4].astype(np.uint64) << np.uint64(32)


def _encoding(data: bytes, at: int) -> int:
    """How the functions of a common information entry write addresses; 0xFF where it is not readable."""
    if at + 9 > len(data):
        return 0xFF
    length, kind, version = struct.unpack_from("<IIB", data, at)
    body = data[at + 9 : min(at + 4 + length, at + 256)]
    text, nul, rest = body.partition(b"\0")
    if kind or version not in (1, 3) or not nul or b"eh" in text:
        return 0xFF
    if not text.startswith(b"z"):
        return _ABSOLUTE
    # Alignments of code and data, the return address register (a byte in version 1), the length of what follows.
    cursor = _after_number(rest, _after_number(rest, 0))
    cursor = cursor + 1 if version == 1 else _after_number(rest, cursor)
    cursor = _after_number(rest, cursor)
    for letter in text[1:].decode("latin-1"):
        if cursor >= len(rest):
            return 0xFF
        if letter == "R":
            return rest[cursor]
        if letter == "L":
            cursor += 1
        elif letter == "P":
            width = _WIDTHS.get(rest[cursor] & 0x0F)
            if width is None or rest[cursor] & 0x70 == 0x50:
                return 0xFF
            cursor += 1 + width
        elif letter not in "SBG":
            return 0xFF
    return _ABSOLUTE


def _after_number(data: bytes, at: int) -> int:
    """Position after a LEB128 number."""
    while at < len(data) and data[at] & 0x80:
        at += 1
    return at + 1


def _disjoint(elf: ElfFile, starts: NDArray[np.uint64], sizes: NDArray[np.uint64]) -> _Ranges:
    starts, first = np.unique(starts, return_index=True)
    ends = starts + np.minimum(sizes[first], ~starts)
    if len(starts) > 1:
        ends[:-1] = np.minimum(ends[:-1], starts[1:])
    inside = np.zeros(len(starts), bool)
    code: NDArray[Any] = elf.loads[elf.loads["flags"] & PF_X != 0]
    for row in code:
        low, size = row["vaddr"], row["filesz"]
        here = (starts >= low) & (starts - low < size)
        ends[here] = np.minimum(ends[here], low + np.minimum(size, ~low))
        inside |= here
    return starts[inside], ends[inside]
