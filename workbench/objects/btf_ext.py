"""`.BTF.ext` of an object: which instruction is of which function, line and CO-RE relocation.

Format: kernel Documentation/bpf/btf.rst, section 4. Instruction offsets are bytes from the start of an ELF section.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench.objects.btf import BadBtf

if TYPE_CHECKING:
    from workbench.objects.btf import Btf

__all__ = ("BtfExt", "CoreRecord", "LineRecord")

_HEADER = 24  # bytes
_LARGEST_RECORD = 1 << 12


@dataclass(frozen=True, slots=True)
class LineRecord:
    """Source of the instructions from byte `offset` of a section on."""

    offset: int
    file: str
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class CoreRecord:
    """A CO-RE relocation of the instruction at byte `offset`: BTF type, access string and kind."""

    offset: int
    type: int
    access: str
    kind: int


@dataclass(slots=True)
class BtfExt:
    """All records, by ELF section name, each list in ascending order of the offset.

    Raises
    ------
    BadBtf
        Truncated or malformed.
    """

    functions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    lines: dict[str, list[LineRecord]] = field(default_factory=dict)
    relocations: dict[str, list[CoreRecord]] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes, btf: Btf, name: str = "") -> BtfExt:
        """Read the content of a `.BTF.ext` section; `btf` holds its strings, `name` is whose it is."""
        made = cls()
        try:
            if len(data) < _HEADER:
                raise ValueError(f"its header is cut short after {len(data)} bytes")
            magic, _version, _flags, header = struct.unpack_from("<HBBI", data)
            if magic != 0xEB9F:
                raise ValueError(f"magic is {magic:#x}, expected 0xeb9f")
            parts = struct.unpack_from("<6I" if 32 <= header <= len(data) else "<4I", data, 8)
            for offset, section, record in _records(data, header, parts[0], parts[1], 8, btf):
                made.functions.setdefault(section, []).append(
                    (offset, struct.unpack_from("<I", record, 4)[0])
                )
            for offset, section, record in _records(data, header, parts[2], parts[3], 16, btf):
                file, text, packed = struct.unpack_from("<3I", record, 4)
                line = LineRecord(
                    offset, btf.string(file), packed >> 10, packed & 1023, btf.string(text)
                )
                made.lines.setdefault(section, []).append(line)
            if len(parts) > 4:
                for offset, section, record in _records(data, header, parts[4], parts[5], 16, btf):
                    number, access, kind = struct.unpack_from("<3I", record, 4)
                    made.relocations.setdefault(section, []).append(
                        CoreRecord(offset, number, btf.string(access), kind)
                    )
        except (ValueError, OverflowError) as error:
            where = f" of {name}" if name else ""
            raise BadBtf(f"malformed section .BTF.ext{where}: {error}") from None
        for functions in made.functions.values():
            functions.sort()
        for lines in made.lines.values():
            lines.sort(key=lambda one: one.offset)
        for relocations in made.relocations.values():
            relocations.sort(key=lambda one: one.offset)
        return made


def _records(
    data: bytes, header: int, offset: int, length: int, smallest: int, btf: Btf
) -> list[tuple[int, str, bytes]]:
    """(byte offset of the instruction, section, whole record) of one of the tables."""
    if not length:
        return []
    at, end = header + offset, header + offset + length
    if end > len(data):
        raise ValueError(
            f"a table of {length} bytes at offset {at} reaches past its end at {len(data)}"
        )
    if length < 4:
        raise ValueError(f"a table of {length} bytes at offset {at}")
    (size,) = struct.unpack_from("<I", data, at)
    if not smallest <= size <= _LARGEST_RECORD or size % 4:
        raise ValueError(f"records of {size} bytes at offset {at}")
    at += 4
    found = []
    while at < end:
        if at + 8 > end:
            raise ValueError(f"a table is cut short at offset {at}")
        name, count = struct.unpack_from("<2I", data, at)
        at += 8
        if at + count * size > end:
            raise ValueError(
                f"{count} records at offset {at} reach past the end of their table at {end}"
            )
        section = btf.string(name)
        for _ in range(count):
            record = data[at : at + size]
            found.append((struct.unpack_from("<I", record)[0], section, record))
            at += size
    return found
