"""Makes `.eh_frame` sections by hand, and reads real ones, for tests of the unwinder."""

from __future__ import annotations

import struct
from pathlib import Path

from workbench.frames.symbols.elffile import BadElf, ElfFile

SP, FP, RA = 7, 6, 16  # x86-64
TEXT = 0x100000
SECTION = 0x1000


def leb(value: int) -> bytes:
    """Unsigned LEB128."""
    out = b""
    while True:
        byte, value = value & 0x7F, value >> 7
        out += bytes([byte | (0x80 if value else 0)])
        if not value:
            return out


def sleb(value: int) -> bytes:
    """Signed LEB128."""
    out = b""
    while True:
        byte, value = value & 0x7F, value >> 7
        if value == (-1 if byte & 0x40 else 0):
            return out + bytes([byte])
        out += bytes([byte | 0x80])


def record(body: bytes, *, long: bool = False) -> bytes:
    """A length-prefixed record padded to 8 bytes."""
    body += b"\0" * (-(len(body) + (12 if long else 4)) % 8)
    return (
        struct.pack("<IQ", 0xFFFFFFFF, len(body)) if long else struct.pack("<I", len(body))
    ) + body


def cie(
    instructions: bytes = b"\x0c\x07\x08\x90\x01",  # def_cfa sp+8; ra at cfa-8
    augmentation: bytes = b"zR",
    data: bytes = b"\x1b",
    *,
    ra: int = RA,
    code_align: int = 1,
    data_align: int = -8,
    version: int = 1,
) -> bytes:
    """A common information entry; pointers are pcrel sdata4 by default."""
    body = struct.pack("<IB", 0, version) + augmentation + b"\0"
    body += leb(code_align) + sleb(data_align) + (bytes([ra]) if version == 1 else leb(ra))
    if augmentation.startswith(b"z"):
        body += leb(len(data)) + data
    return record(body + instructions)


def fde(
    at: int, cie_at: int, start: int, size: int, instructions: bytes, *, long: bool = False
) -> bytes:
    """A frame description entry for [start, start + size), to be placed at offset `at` of the section."""
    field = at + (12 if long else 4)
    relative = start - (SECTION + field + 4)
    body = struct.pack("<IiI", field - cie_at, relative, size) + leb(0) + instructions
    return record(body, long=long)


def section(
    *functions: tuple[int, int, bytes], first: bytes | None = None, long: bool = False
) -> bytes:
    """One CIE and functions (start, size, instructions), with the terminator."""
    data = cie() if first is None else first
    for start, size, instructions in functions:
        data += fde(len(data), 0, start, size, instructions, long=long)
    return data + b"\0\0\0\0"


def mapped_files() -> list[str]:
    """Files that this process executes from."""
    paths = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(None, 5)
        if (
            "x" in fields[1]
            and len(fields) > 5
            and fields[5].startswith("/")
            and fields[5] not in paths
        ):
            paths.append(fields[5])
    return paths


def real_sections(paths: list[str] | None = None) -> list[tuple[str, bytes, int, int]]:
    """(path, bytes, address, machine) of the `.eh_frame` of files, by default of all that this process executes."""
    out = []
    for path in mapped_files() if paths is None else paths:
        try:
            with ElfFile(path) as elf:
                found = elf.section(".eh_frame")
                if found is not None:
                    out.append((path, elf.content(found), found.address, elf.machine))
        except (BadElf, OSError):
            continue
    return out
