"""The procedure linkage table: which imported function each stub of a file jumps to.

A stub loads a slot of the global offset table and jumps there; the relocation of that slot names the function. Stubs
are found by these instructions, so that every layout that linkers write (.plt, .plt.got, .plt.sec, with and without
branch protection) is read alike. Relocations: System V ABI, AMD64 supplement section 4.4, and ELF for the Arm 64-bit
architecture section 5.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.frames.symbols.elffile import SHF_COMPRESSED, SHF_EXECINSTR, SYMBOL_DTYPE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.frames.symbols.elffile import ElfFile, Section

__all__ = ("linkage_stubs",)

X86_64, AARCH64 = 62, 183
SHT_RELA, SHT_DYNSYM = 4, 11
MAX_SECTION = 1 << 28
MAX_SECTIONS = 8
MAX_STUBS = 1 << 20
_SLOTS = {X86_64: (6, 7), AARCH64: (1025, 1026)}  # GLOB_DAT, JUMP_SLOT
_RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_ENDBR64 = np.frombuffer(bytes.fromhex("f30f1efa"), np.uint8)
_BTI_C = 0xD503245F


def linkage_stubs(
    elf: ElfFile,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], list[bytes]]:
    """Ranges of the linkage table, sorted and disjoint, and the raw name of the function that each jumps to.

    What is no stub of a known function (the common first entry) has the empty name.
    """
    starts: list[int] = []
    ends: list[int] = []
    names: list[bytes] = []
    sections = [
        one
        for one in elf.sections
        if one.name.startswith(".plt") and one.flags & SHF_EXECINSTR and _readable(one)
    ]
    found: list[tuple[Section, NDArray[np.int64], NDArray[np.uint64]]] = []
    for section in sorted(sections[:MAX_SECTIONS], key=lambda one: one.address):
        last = found[-1][0] if found else section
        if found and section.address < last.address + last.size:
            continue
        if section.address + section.size < 1 << 64:
            data = elf.content(section)
            at, slots = _x86(data, section) if elf.machine == X86_64 else _aarch64(data, section)
            found.append((section, at[:MAX_STUBS], slots[:MAX_STUBS]))
    targets = _targets(elf, [slots for _, _, slots in found])
    for section, at, slots in found:
        stubs = {
            section.address + where: targets.get(slot, b"")
            for where, slot in zip(at.tolist(), slots.tolist(), strict=True)
        }
        begin = sorted({section.address, *stubs})
        starts += begin
        ends += [*begin[1:], section.address + section.size]
        names += [stubs.get(one, b"") for one in begin]
    return np.array(starts, np.uint64), np.array(ends, np.uint64), names


def _readable(section: Section) -> bool:
    return 0 < section.size <= MAX_SECTION and not section.flags & SHF_COMPRESSED


def _targets(elf: ElfFile, wanted: list[NDArray[np.uint64]]) -> dict[int, bytes]:
    """The function that the loader puts into each of these slots of the global offset table."""
    found: dict[int, bytes] = {}
    if not wanted:
        return found
    slots = np.sort(np.concatenate(wanted))
    tables = [one for one in elf.sections if one.type == SHT_RELA and _readable(one)]
    for section in tables[:MAX_SECTIONS]:
        link = section.link
        if not 0 < link < len(elf.sections):
            continue
        symbols = elf.sections[link]
        if symbols.type != SHT_DYNSYM or not 0 < symbols.link < len(elf.sections):
            continue
        content = elf.content(section)
        rows = np.frombuffer(content, _RELA, len(content) // _RELA.itemsize)
        rows = rows[np.isin(rows["type"], _SLOTS.get(elf.machine, ())) & (rows["symbol"] != 0)]
        after = np.searchsorted(slots, rows["offset"], "right")
        rows = rows[(after > 0) & (slots[after - 1] == rows["offset"])] if len(slots) else rows[:0]
        content = elf.content(symbols)
        table = np.frombuffer(content, SYMBOL_DTYPE, len(content) // SYMBOL_DTYPE.itemsize)
        rows = rows[rows["symbol"] < len(table)][:MAX_STUBS]
        strings = elf.content(elf.sections[symbols.link])
        offsets = table["name"][rows["symbol"]].tolist()
        for slot, at in zip(rows["offset"].tolist(), offsets, strict=True):
            found[slot] = strings[at : max(strings.find(b"\0", at, at + 65536), at)]
    return found


def _x86(data: bytes, section: Section) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Stubs (positions) and the slots they use, by ``jmp *slot(%rip)``."""
    code = np.frombuffer(data, np.uint8)
    at = np.flatnonzero((code[:-5] == 0xFF) & (code[1:-4] == 0x25)) if len(code) > 6 else _nothing()
    distance = np.ndarray((max(len(data) - 3, 0),), "<i4", data, strides=(1,))
    slots = (at + 6 + distance[at + 2]).view(np.uint64) + np.uint64(section.address)
    # The jump comes first, or after endbr64, with or without a bnd prefix.
    for prefix in (0, 1):
        before = at - prefix - len(_ENDBR64)
        marked = before >= 0
        for k, byte in enumerate(_ENDBR64.tolist()):
            marked &= code[np.maximum(before, 0) + k] == byte
        if prefix:
            marked &= code[np.maximum(at - 1, 0)] == 0xF2
        at = np.where(marked, before, at)
    bare = (at > 0) & (code[np.maximum(at - 1, 0)] == 0xF2) if len(at) else at > 0
    return np.where(bare, at - 1, at), slots


def _aarch64(data: bytes, section: Section) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The same by ``adrp x16, page; ldr x17, [x16, #offset]``."""
    code = np.frombuffer(data, "<u4", len(data) // 4)
    if len(code) < 2:
        return _nothing(), _nothing().view(np.uint64)
    load = (code[:-1] & 0x9F00001F == 0x90000010) & (code[1:] & 0xFFC003FF == 0xF9400211)
    at = np.flatnonzero(load)
    first, second = code[at].astype(np.int64), code[at + 1].astype(np.int64)
    pages = (first >> 5 & 0x7FFFF) << 2 | first >> 29 & 3
    pages -= (pages >> 20) << 21
    page = (at * 4 + section.address) & ~4095
    slots = (page + (pages << 12) + ((second >> 10 & 0xFFF) << 3)).view(np.uint64)
    guarded = (at > 0) & (code[np.maximum(at - 1, 0)] == _BTI_C)
    return (at - guarded) * 4, slots


def _nothing() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)
