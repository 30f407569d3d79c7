"""Sections and symbols of a small ELF64 file (a BPF object); bulk symbol tables live in `frames.symbols`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from workbench.errors import WorkbenchError

__all__ = ("DAMAGED", "BadElf", "Relocation", "Section", "SectionFile", "Symbol")

EM_BPF = 247
SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 2, 4, 8, 9
_LARGEST = 1 << 28
_HEADER = 64
#: What to do about a damaged object.
DAMAGED: Final = (
    "the file is damaged or cut short: copy or compile it again (clang -g -O2 -target bpf -c)"
)


class BadElf(WorkbenchError):
    """A file that is not a well-formed ELF64 little-endian object; without another hint, one for damaged files."""

    code = "bad-elf"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or DAMAGED)


@dataclass(frozen=True, slots=True)
class Section:
    """One section with its content (empty for .bss)."""

    index: int
    name: str
    type: int
    flags: int
    data: bytes
    size: int
    link: int
    info: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """One entry of the symbol table; `type` is 1 object, 2 function, 3 section."""

    name: str
    type: int
    binding: int
    section: int
    value: int
    size: int
    visibility: int = 0


@dataclass(frozen=True, slots=True)
class Relocation:
    """One entry of a relocation section: byte offset in the section it changes, symbol and R_BPF_* number."""

    offset: int
    symbol: Symbol
    type: int


class SectionFile:
    """An ELF64 little-endian file read whole.

    Raises
    ------
    BadElf
        Not such a file, or headers that point outside it.
    """

    def __init__(self, data: bytes, name: str = "object") -> None:
        self.name = name
        if len(data) > _LARGEST:
            raise BadElf(f"{name} has {len(data)} bytes: too large for a BPF object")
        if data[:6] != b"\x7fELF\x02\x01":
            raise BadElf(
                f"{name} is not a 64-bit little-endian ELF file{_found(data)}", _remedy(data)
            )
        try:
            self._parse(data)
        except (struct.error, IndexError, OverflowError):
            raise BadElf(f"{name}: the ELF headers contradict each other") from None

    def _parse(self, data: bytes) -> None:
        if len(data) < _HEADER:
            raise BadElf(
                f"{self.name}: the ELF header at offset 0 is cut short after {len(data)} bytes"
            )
        (self.machine,) = struct.unpack_from("<H", data, 18)
        (table,) = struct.unpack_from("<Q", data, 40)
        entry_size, count, names = struct.unpack_from("<3H", data, 58)
        if entry_size != 64:
            raise BadElf(
                f"{self.name}: the ELF header at offset 58 says section headers of {entry_size} bytes"
            )
        if table + 64 * count > len(data):
            raise BadElf(
                f"{self.name}: the headers of {count} sections at offset {table} reach past the end of the file "
                f"at {len(data)}"
            )
        raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
        if not 0 <= names < count:
            raise BadElf(
                f"{self.name}: section {names}, which should hold the names, does not exist"
            )
        strings = data[raw[names][4] : raw[names][4] + raw[names][5]]
        self.sections: list[Section] = []
        for i, (name, kind, flags, _addr, offset, size, link, info, _align, _each) in enumerate(
            raw
        ):
            body = b"" if kind in (0, SHT_NOBITS) else data[offset : offset + size]
            if kind not in (0, SHT_NOBITS) and len(body) != size:
                raise BadElf(
                    f"{self.name}: section {_text(strings, name) or i} ({size} bytes at offset {offset}) reaches past "
                    f"the end of the file at {len(data)}"
                )
            self.sections.append(
                Section(i, _text(strings, name), kind, flags, body, size, link, info)
            )
        self.symbols: list[Symbol] = []
        for section in self.sections:
            if section.type != SHT_SYMTAB or section.link >= len(self.sections):
                continue
            text = self.sections[section.link].data
            for at in range(0, len(section.data) - 23, 24):
                name, info, other, index, value, size = struct.unpack_from(
                    "<IBBHQQ", section.data, at
                )
                self.symbols.append(
                    Symbol(_text(text, name), info & 15, info >> 4, index, value, size, other & 3)
                )

    def relocations(self, section: Section) -> list[Relocation]:
        """Relocations of `section`, by ascending offset.

        Raises
        ------
        BadElf
            Damaged, or with explicit addends (RELA), which no BPF compiler emits.
        """
        found = []
        for table in self.sections:
            if table.type not in (SHT_REL, SHT_RELA) or table.info != section.index:
                continue
            if table.type == SHT_RELA:
                raise BadElf(
                    f"{self.name}: section {table.name} has explicit addends (RELA)",
                    "compile it with clang -target bpf",
                )
            if len(table.data) % 16:
                raise BadElf(
                    f"{self.name}: section {table.name} has {len(table.data)} bytes, no multiple of 16"
                )
            for at, (offset, info) in enumerate(struct.iter_unpack("<QQ", table.data)):
                if info >> 32 >= len(self.symbols):
                    raise BadElf(
                        f"{self.name}: section {table.name}, offset {16 * at}: there is no symbol {info >> 32}"
                    )
                if offset >= section.size:
                    raise BadElf(
                        f"{self.name}: section {table.name}, offset {16 * at}: byte {offset} is past the end of "
                        f"{section.name}"
                    )
                found.append(Relocation(offset, self.symbols[info >> 32], info & 0xFFFFFFFF))
        return sorted(found, key=lambda one: one.offset)

    def section(self, name: str) -> Section | None:
        """Section by name."""
        return next((s for s in self.sections if s.name == name), None)


def _text(strings: bytes, offset: int) -> str:
    if offset > len(strings):
        return ""
    end = strings.find(b"\0", offset)
    return strings[offset : end if end >= 0 else None].decode("utf-8", "replace")


def _found(data: bytes) -> str:
    if data[:4] != b"\x7fELF":
        return ""
    return ": it is for 32 bits" if data[4:5] == b"\x01" else ": it is for the other byte order"


def _remedy(data: bytes) -> str:
    if data[:4] == b"\x7fELF":
        return "compile it with clang -target bpfel -c"
    return "give a BPF object (.o), as clang -g -O2 -target bpf -c makes it, or C source (.bpf.c)"
