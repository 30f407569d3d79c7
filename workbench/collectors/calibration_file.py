"""The file whose functions a calibration probes: machine code, with the headers and symbols of an ELF file."""

from __future__ import annotations

import platform
import struct
from collections.abc import Mapping

__all__ = ("START", "image")

START = 1024
"""Byte of the file, and offset in its mapping, where the code begins."""

_MACHINES = {"x86_64": 62, "aarch64": 183}  # EM_X86_64, EM_AARCH64
_HEADER, _SEGMENT, _SECTION = "<4sBBBB8xHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ"
_SHARED_OBJECT, _LOAD, _READ_EXECUTE = 3, 1, 5
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_ALLOC_EXECUTE = 6
_GLOBAL_FUNCTION = 0x12


def image(code: bytes, functions: Mapping[str, tuple[int, int]], machine: str = "") -> bytes:
    """A shared object of one page of code, with a symbol for each function.

    Parameters
    ----------
    code : bytes
        Machine code, at most 3,072 bytes.
    functions : mapping
        (offset in `code`, size in bytes) by name.
    machine : str
        As `platform.machine` names it; this one by default.

    Returns
    -------
    bytes
        The file (System V ABI, chapter 4). The code begins at byte `START`.
    """
    names, symbols = b"\0", bytes(24)
    for name, (at, size) in functions.items():
        symbols += struct.pack("<IBBHQQ", len(names), _GLOBAL_FUNCTION, 0, 1, START + at, size)
        names += name.encode() + b"\0"
    titles = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    page = 4096
    at_names = page + len(symbols)
    at_titles = at_names + len(names)
    at_sections = -(-(at_titles + len(titles)) // 8) * 8

    def section(title: str, kind: int, flags: int, at: int, size: int, *rest: int) -> bytes:
        return struct.pack(
            _SECTION, titles.index(b"\0" + title.encode() + b"\0") + 1, kind, flags,
            at if flags else 0, at, size, *rest,
        )  # fmt: skip

    sections = bytes(64) + b"".join(
        (
            section(".text", _PROGBITS, _ALLOC_EXECUTE, START, page - START, 0, 0, 16, 0),
            section(".symtab", _SYMTAB, 0, page, len(symbols), 3, 1, 8, 24),
            section(".strtab", _STRTAB, 0, at_names, len(names), 0, 0, 1, 0),
            section(".shstrtab", _STRTAB, 0, at_titles, len(titles), 0, 0, 1, 0),
        )
    )
    header = struct.pack(
        _HEADER, b"\x7fELF", 2, 1, 1, 0, _SHARED_OBJECT, _MACHINES[machine or platform.machine()],
        1, 0, 64, at_sections, 0, 64, 56, 1, 64, 5, 4,
    )  # fmt: skip
    segment = struct.pack(_SEGMENT, _LOAD, _READ_EXECUTE, 0, 0, 0, page, page, page)
    first = (header + segment).ljust(START, b"\0") + code[: page - START].ljust(page - START, b"\0")
    return (first + symbols + names + titles).ljust(at_sections, b"\0") + sections
