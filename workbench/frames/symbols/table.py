"""Build the sorted symbol table of an ELF file from its symbol sections.

Layout of a symbol entry and the meaning of its fields: System V gABI, chapter 4, "Symbol Table".
"""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.symbols.elffile import (
    SHF_ALLOC,
    SHF_COMPRESSED,
    SHF_EXECINSTR,
    SHT_SYMTAB,
    SYMBOL_DTYPE,
    BadElf,
    ElfFile,
    Section,
)
from workbench.frames.symbols.functions import NAMELESS, CodeRanges, code_ranges
from workbench.frames.symbols.names import NamePool

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("FUNCTION", "OBJECT", "build_table", "minidebug")

SHT_DYNSYM = 11
FUNCTION, OBJECT = 1, 2
# Symbol type -> kind; TLS symbols are offsets, not addresses, so they are left out.
_KINDS = np.zeros(16, np.uint8)
_KINDS[[2, 10]] = FUNCTION
_KINDS[[1, 5]] = OBJECT
_UNDEFINED, _RESERVED, _XINDEX = 0, 0xFF00, 0xFFFF
MAX_MINIDEBUG = 1 << 28
MAX_NESTED = 1_000_000


def minidebug(elf: ElfFile) -> ElfFile | None:
    """The ELF image inside .gnu_debugdata (Fedora's "minidebuginfo": an LZMA-packed .symtab), if there is one."""
    section = elf.section(".gnu_debugdata")
    if section is None:
        return None
    packed = elf.content(section)
    unpacker = lzma.LZMADecompressor(memlimit=1 << 28)
    try:
        image = unpacker.decompress(packed, MAX_MINIDEBUG)
    except (lzma.LZMAError, MemoryError) as error:
        raise elf.fail(f".gnu_debugdata cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise elf.fail(".gnu_debugdata is cut off or larger than 256 MiB")
    return ElfFile(image, f"{elf.name} .gnu_debugdata")


def _raw(elf: ElfFile, section: Section) -> tuple[NDArray[Any], bytes]:
    if section.flags & SHF_COMPRESSED:
        raise elf.fail(f"{section.name} is compressed")
    if not 0 < section.link < len(elf.sections):
        raise elf.fail(f"{section.name} names section {section.link} as its string table")
    strings = elf.content(elf.sections[section.link])
    count = section.size // SYMBOL_DTYPE.itemsize
    data = elf.content(section)
    if len(strings) >= 1 << 32:
        raise elf.fail("string table over 4 GiB")
    if strings and strings[-1] != 0:
        strings += b"\0"
    return np.frombuffer(
        data, SYMBOL_DTYPE, min(count, len(data) // SYMBOL_DTYPE.itemsize)
    ), strings


def _usable(elf: ElfFile, rows: NDArray[Any], strings: bytes) -> dict[str, NDArray[Any]]:
    """Columns value, size, kind, binding, name, rank, limit of the defined functions and objects."""
    flags = elf.headers["flags"]
    ends = elf.headers["address"] + elf.headers["size"]
    shndx = rows["shndx"]
    keep = (
        (shndx != _UNDEFINED)
        & ((shndx < _RESERVED) | (shndx == _XINDEX))
        & (rows["name"] < len(strings))
    )
    types = rows["info"] & 15
    # FILE and SECTION symbols are the only large groups that are neither; drop them before any gather.
    keep &= (types != 3) & (types != 4) & (types != 6)
    rows = rows[keep]
    types = types[keep]
    section = rows["shndx"].astype(np.int64)
    known = section < len(flags)
    section[~known] = 0
    bytes_view = np.frombuffer(strings, np.uint8)
    first = bytes_view[rows["name"]] if len(strings) else np.zeros(len(rows), np.uint8)
    second = (
        bytes_view[np.minimum(rows["name"].astype(np.int64) + 1, len(strings) - 1)]
        if len(strings)
        else first
    )
    kind = _KINDS[types]
    untyped = types == 0
    section_flags = flags[section] if len(flags) else np.zeros(len(rows), np.uint64)
    loaded = known & ((section_flags & SHF_ALLOC) != 0)
    code = (section_flags & SHF_EXECINSTR) != 0
    kind = np.where(untyped & loaded, np.where(code, FUNCTION, OBJECT).astype(np.uint8), kind)
    # Mapping symbols ($x, $d) and assembler-local labels (.L1) name no function.
    label = untyped & ((first == ord("$")) | ((first == ord(".")) & (second == ord("L"))))
    good = (kind != 0) & (first != 0) & ~label
    rows, kind, untyped, first = rows[good], kind[good], untyped[good], first[good]
    binding = rows["info"] >> 4
    value = rows["value"].astype(np.uint64)
    size = np.minimum(rows["size"].astype(np.uint64), ~value)
    limit = np.where(known[good], ends[section[good]] if len(ends) else 0, 0).astype(np.uint64)
    # The best name of an address: sized, typed, function, global before weak before local, no underscore.
    order = np.where(binding == 1, 0, np.where(binding == 2, 1, 2)).astype(np.uint64)
    rank = (
        ((size == 0).astype(np.uint64) << np.uint64(5))
        | (untyped.astype(np.uint64) << np.uint64(4))
        | ((kind == OBJECT).astype(np.uint64) << np.uint64(3))
        | (order << np.uint64(1))
        | (first == ord("_")).astype(np.uint64)
    )
    return {
        "value": value,
        "size": size,
        "kind": kind.astype(np.uint8),
        "binding": binding.astype(np.uint8),
        "name": rows["name"].astype(np.uint32),
        "rank": rank,
        "limit": limit,
    }


def _without_duplicates(
    new: dict[str, NDArray[Any]], strings: bytes, old: dict[str, NDArray[Any]], pool: bytes
) -> dict[str, NDArray[Any]]:
    """Rows of `new` that `old` lacks, comparing address and whole name."""
    if not len(old["value"]) or not len(new["value"]):
        return new
    shared = np.isin(old["value"], new["value"])
    known, fresh_names = NamePool(pool), NamePool(strings)
    names = known.raw(old["name"][shared].tolist())
    seen = set(zip(old["value"][shared].tolist(), names, strict=True))
    pairs = zip(new["value"].tolist(), fresh_names.raw(new["name"].tolist()), strict=True)
    fresh = np.array([pair not in seen for pair in pairs], bool)
    return {key: column[fresh] for key, column in new.items()}


def build_table(images: list[ElfFile]) -> tuple[dict[str, NDArray[Any]], bytes]:
    """Symbols of all symbol tables of `images` (one file, its minidebuginfo, its debug file) as sorted columns.

    Returns
    -------
    columns : dict of ndarray
        Per symbol, sorted by address, best name first: ``value`` uint64, ``size`` uint64 (zero-size symbols extend
        to the next one), ``kind`` uint8, ``binding`` uint8, ``name`` uint32 (offset into the names). Per distinct
        address: ``starts`` uint64, ``ends`` uint64, ``best`` int32 (row of its best symbol), ``parent`` int32 (the
        nearest earlier address whose range covers this one, or -1). Per function or linkage stub that no symbol
        covers whole: ``code_start``, ``code_end`` uint64 (sorted, disjoint), ``code_name`` uint32 (see
        `functions.CodeRanges`, offsets into the names).
    names : bytes
        NUL-terminated names.
    """
    columns: dict[str, NDArray[Any]] | None = None
    # Joined as late as possible: the names of a large library are a hundred megabytes.
    pieces: list[bytes] = []
    for elf in images:
        tables = [s for s in elf.sections if s.type in (SHT_SYMTAB, SHT_DYNSYM)]
        for section in sorted(tables, key=lambda s: s.type):
            if section.type == SHT_DYNSYM and elf is not images[0]:
                continue
            rows, strings = _raw(elf, section)
            found = _usable(elf, rows, strings)
            if columns is None:
                columns, pieces = found, [strings]
                continue
            pieces = [b"".join(pieces)] if len(pieces) > 1 else pieces
            found = _without_duplicates(found, strings, columns, pieces[0])
            if not len(found["value"]):
                continue
            if len(pieces[0]) + len(strings) >= 1 << 32:
                raise BadElf(f"{elf.name}: symbol names over 4 GiB")
            found["name"] = found["name"] + np.uint32(len(pieces[0]))
            columns = {key: np.concatenate([columns[key], found[key]]) for key in columns}
            pieces.append(strings)
    if columns is None:
        columns = _usable(images[0], np.zeros(0, SYMBOL_DTYPE), b"")
    code = code_ranges(images[0])
    table = _index(columns, code)
    code = code.beyond(table["starts"], table["ends"])
    if not any(pieces):
        pieces = [b"\0"]
    names, size = code.names, sum(map(len, pieces))
    named = names != NAMELESS
    if size + len(code.pool) < NAMELESS:
        names = np.where(named, names + np.uint32(size), names)
        pieces.append(code.pool)
    else:
        names = np.full(len(names), NAMELESS, np.uint32)
    table |= {"code_start": code.starts, "code_end": code.ends, "code_name": names}
    return table, b"".join(pieces)


def _index(columns: dict[str, NDArray[Any]], code: CodeRanges) -> dict[str, NDArray[Any]]:
    value, rank = columns["value"], columns["rank"]
    if len(value) and int(value.max()) < 1 << 56:
        order = np.argsort((value << np.uint64(8)) | rank, kind="stable")
    else:
        order = np.lexsort((rank, value))
    value = value[order]
    size, limit = columns["size"][order], columns["limit"][order]
    first = np.ones(len(value), bool)
    first[1:] = value[1:] != value[:-1]
    best = np.flatnonzero(first).astype(np.int32)
    starts = value[best]
    following = np.full(len(starts), np.uint64(2**64 - 1))
    following[:-1] = starts[1:]
    # Assembly symbols have no size: they end at the next symbol, with their function or with their section.
    group = np.cumsum(first) - 1
    bound = np.where(limit > value, np.minimum(following[group], limit), following[group])
    bound = (
        np.where(bound == np.uint64(2**64 - 1), value + np.uint64(1), bound)
        if len(value)
        else bound
    )
    sizeless = np.flatnonzero(size == 0)
    if len(sizeless):
        size = size.copy()
        size[sizeless] = (
            np.minimum(bound[sizeless], code.edge_after(value[sizeless])) - value[sizeless]
        )
    ends = starts + size[best]
    return {
        "value": value,
        "size": size,
        "kind": columns["kind"][order],
        "binding": columns["binding"][order],
        "name": columns["name"][order],
        "starts": starts,
        "ends": ends,
        "best": best,
        "parent": _parents(starts, ends),
    }


def _parents(starts: NDArray[np.uint64], ends: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Nearest earlier range that covers each start; -1 where none does (nearly everywhere)."""
    parent = np.full(len(starts), -1, np.int32)
    if len(starts) < 2:
        return parent
    nested = np.flatnonzero(starts[1:] < np.maximum.accumulate(ends)[:-1]) + 1
    if len(nested) > MAX_NESTED:
        nested = nested[:MAX_NESTED]
    for i in nested.tolist():
        start = starts[i]
        j = i - 1
        # Only ranges on the chain of i - 1 can reach past it, so the walk is linear over all i.
        while j >= 0 and ends[j] <= start:
            j = int(parent[j])
        parent[i] = j
    return parent
