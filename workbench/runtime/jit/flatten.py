"""An object file to a blob: code and constants one after the other, references between them resolved.

Only references relative to the place itself are accepted, for those need no address. Everything else would tie the
code to a process and is refused by name.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from workbench.errors import MissingCapability
from workbench.runtime.jit.blob import Symbol

__all__ = ("Flat", "Unresolved", "flatten")

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
_ALLOC, _WRITE = 2, 1
_PROGBITS, _SYMTAB, _RELATIVE, _NOBITS = 1, 2, 4, 8
_X86, _ARM = 62, 183


class Flat(NamedTuple):
    """Code and constants; functions with their offsets."""

    code: bytes
    symbols: tuple[Symbol, ...]

    def offset(self, name: str) -> int:
        """Byte offset of a function."""
        return next(symbol.offset for symbol in self.symbols if symbol.name == name)


class Unresolved(MissingCapability):
    """A reference to something outside the object.

    Attributes
    ----------
    name : str
        The missing symbol.
    """

    code = "unresolved"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"compiled code refers to {name!r}, which does not exist where it will run",
            "this is a defect of the JIT: please report it with the program",
        )
        self.name = name


class _Section(NamedTuple):
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


def _sections(elf: bytes) -> list[_Section]:
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    raw = [_SECTION.unpack_from(elf, table + index * size) for index in range(count)]
    strings = raw[names][4]

    def text(at: int) -> str:
        return elf[at : elf.index(b"\0", at)].decode()

    return [_Section(text(strings + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], r[8]) for r in raw]


def flatten(elf: bytes) -> Flat:
    """Lay out the allocated sections and apply their relocations.

    Parameters
    ----------
    elf : bytes
        A relocatable ELF64 object that LLVM emitted for x86-64 or aarch64.

    Raises
    ------
    Unresolved
        A reference to an undefined symbol.
    MissingCapability
        A writable section, or a relocation that needs an address.
    """
    (machine,) = struct.unpack_from("<H", elf, 18)
    sections = _sections(elf)
    code = bytearray()
    placed: dict[int, int] = {}
    for wanted in (True, False):  # .text first
        for index, section in enumerate(sections):
            if not section.flags & _ALLOC or not section.size:
                continue
            if (section.name == ".text") != wanted or section.name.startswith(".eh_frame"):
                continue
            if section.flags & _WRITE or section.type not in (_PROGBITS,):
                raise MissingCapability(
                    f"compiled code has a section {section.name}, which needs relocation or memory of its own",
                    "this is a defect of the JIT: please report it with the program",
                )
            code += bytes(-len(code) % max(section.align, 1))
            placed[index] = len(code)
            code += elf[section.offset : section.offset + section.size]
    symbols = _symbols(elf, sections)
    for section in sections:
        if section.type == _RELATIVE and section.info in placed:
            _relocate(elf, section, code, placed, symbols, machine)
    functions = tuple(
        sorted(
            (
                Symbol(name, placed[where] + value, size)
                for name, kind, where, value, size in symbols
                if kind & 15 == 2 and where in placed
            ),
            key=lambda symbol: symbol.offset,
        )
    )
    return Flat(bytes(code), functions)


def _symbols(elf: bytes, sections: list[_Section]) -> list[tuple[str, int, int, int, int]]:
    """(name, info, section, value, size)"""
    found = []
    for section in sections:
        if section.type != _SYMTAB:
            continue
        strings = sections[section.link].offset
        for at in range(section.offset, section.offset + section.size, _SYMBOL.size):
            name, info, _, where, value, size = _SYMBOL.unpack_from(elf, at)
            begin = strings + name
            found.append((elf[begin : elf.index(b"\0", begin)].decode(), info, where, value, size))
    return found


def _relocate(
    elf: bytes,
    section: _Section,
    code: bytearray,
    placed: dict[int, int],
    symbols: list[tuple[str, int, int, int, int]],
    machine: int,
) -> None:
    base = placed[section.info]
    for at in range(section.offset, section.offset + section.size, _RELA.size):
        where, info, addend = _RELA.unpack_from(elf, at)
        name, _, inside, value, _ = symbols[info >> 32]
        if inside == 0:
            raise Unresolved(name)
        if inside not in placed:
            raise MissingCapability(
                f"compiled code refers to {name!r} in a section that is not part of it",
                "this is a defect of the JIT: please report it with the program",
            )
        _apply(code, base + where, placed[inside] + value + addend, info & 0xFFFFFFFF, machine)


def _apply(code: bytearray, place: int, target: int, kind: int, machine: int) -> None:
    """x86-64: PC32, PLT32, PC64. aarch64: PREL32, PREL64, CALL26, JUMP26 and ADRP with its low half."""
    if machine == _X86 and kind in (2, 4):
        struct.pack_into("<i", code, place, target - place)
    elif machine == _X86 and kind == 24:
        struct.pack_into("<q", code, place, target - place)
    elif machine == _ARM and kind == 261:
        struct.pack_into("<i", code, place, target - place)
    elif machine == _ARM and kind == 260:
        struct.pack_into("<q", code, place, target - place)
    elif machine == _ARM and kind in _ARM_KINDS:
        _apply_arm(code, place, target, kind)
    else:
        raise MissingCapability(
            f"compiled code has a relocation of type {kind} that needs an address",
            "this is a defect of the JIT: please report it with the program",
        )


#: ADD_ABS_LO12_NC and LDSTn_ABS_LO12_NC by how far their immediate is shifted; the blob is mapped at a page boundary.
_LOW12: Final = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}
_ARM_KINDS: Final = frozenset({275, 276, 282, 283, *_LOW12})


def _apply_arm(code: bytearray, place: int, target: int, kind: int) -> None:
    (word,) = struct.unpack_from("<I", code, place)
    if kind in (282, 283):
        word |= (target - place >> 2) & 0x3FFFFFF
    elif kind in (275, 276):
        pages = (target >> 12) - (place >> 12)
        word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    else:
        word |= ((target & 0xFFF) >> _LOW12[kind]) << 10
    struct.pack_into("<I", code, place, word)
