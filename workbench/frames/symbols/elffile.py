"""Headers, sections and notes of one ELF file, read with bounds checks from a file that may be hostile.

Reads go through `pread`, not a mapping: a file that is truncated while we look at it then gives an error instead of
a SIGBUS that would take the recorder down.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ("BadElf", "ElfFile", "Section", "build_id_of")

SECTION_DTYPE = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("address", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("align", "<u8"),
        ("entsize", "<u8"),
    ]
)
SEGMENT_DTYPE = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("vaddr", "<u8"),
        ("paddr", "<u8"),
        ("filesz", "<u8"),
        ("memsz", "<u8"),
        ("align", "<u8"),
    ]
)
SYMBOL_DTYPE = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("shndx", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
PT_LOAD, PT_NOTE = 1, 4
SHT_SYMTAB, SHT_NOTE, SHT_NOBITS = 2, 7, 8
SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 2, 4, 0x800
NT_GNU_BUILD_ID = 3
MAX_NOTE = 1 << 20
MAX_HEADERS = 1 << 18
MAX_SECTION_NAME = 256


class BadElf(WorkbenchError):
    """A file that is not a 64-bit little-endian ELF file, or is truncated or corrupt."""

    code: ClassVar[str] = "bad-elf"


@dataclass(frozen=True, slots=True)
class Section:
    """One section header, its name resolved."""

    index: int
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    entsize: int


class ElfFile:
    """One ELF file, opened for reading.

    Parameters
    ----------
    source : path, or bytes
        File to read, or its whole content.
    name : str
        How errors call it; default the path.

    Raises
    ------
    BadElf
        Not ELF, 32-bit, big-endian, truncated or corrupt headers.
    OSError
        The file cannot be opened.
    """

    def __init__(self, source: str | Path | bytes, name: str = "") -> None:
        self._data: bytes | None = None
        self._fd = -1
        if isinstance(source, bytes):
            self._data = source
            self.size = len(source)
            self.name = name or "ELF image in memory"
        else:
            self.name = name or str(source)
            # O_NONBLOCK: a path that turns out to be a FIFO must not hang us.
            self._fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
            self.size = status.st_size
        try:
            self._read_headers()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was read stays valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fail(self, what: str) -> BadElf:
        """The error for a flaw of this file."""
        return BadElf(
            f"{self.name}: {what}",
            "the file is damaged or not what it seems; rebuild or reinstall it",
        )

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Exactly `size` bytes at `offset`, or BadElf naming `what` was to be read there."""
        if offset < 0 or size < 0 or offset > self.size or size > self.size - offset:
            raise self.fail(
                f"truncated: {what} needs bytes {offset:#x} to {offset + size:#x}, the file has {self.size:#x}"
            )
        if self._data is not None:
            return self._data[offset : offset + size]
        parts: list[bytes] = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise self.fail(f"cannot be read: {error.strerror}") from error
            if not part:
                raise self.fail(f"truncated while reading {what}")
            if len(part) == size and not parts:
                return part
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def _read_headers(self) -> None:
        if self.size < 64:
            raise BadElf(
                f"{self.name}: not an ELF file ({self.size} bytes)",
                "expected a program or shared library",
            )
        head = self.read(0, 64, "the ELF header")
        if head[:4] != b"\x7fELF":
            raise BadElf(f"{self.name}: not an ELF file", "expected a program or shared library")
        if head[4] != 2:
            raise BadElf(
                f"{self.name}: 32-bit ELF is not supported", "build the program for a 64-bit target"
            )
        if head[5] != 1:
            raise BadElf(
                f"{self.name}: big-endian ELF is not supported",
                "symbols are read on little-endian targets only",
            )
        (
            self.type,
            self.machine,
            _version,
            self.entry,
            phoff,
            shoff,
            _flags,
            _ehsize,
            phentsize,
            phnum,
            shentsize,
            shnum,
            shstrndx,
        ) = struct.unpack_from("<HHIQQQIHHHHHH", head, 16)
        if shoff and shentsize != SECTION_DTYPE.itemsize:
            raise self.fail(
                f"section headers of {shentsize} bytes, expected {SECTION_DTYPE.itemsize}"
            )
        if phnum and phentsize != SEGMENT_DTYPE.itemsize:
            raise self.fail(
                f"program headers of {phentsize} bytes, expected {SEGMENT_DTYPE.itemsize}"
            )
        if shoff and (shnum == 0 or phnum == 0xFFFF or shstrndx == 0xFFFF):
            first = np.frombuffer(self.read(shoff, 64, "the first section header"), SECTION_DTYPE)[
                0
            ]
            shnum = int(first["size"]) if shnum == 0 else shnum
            phnum = int(first["info"]) if phnum == 0xFFFF else phnum
            shstrndx = int(first["link"]) if shstrndx == 0xFFFF else shstrndx
        if max(shnum, phnum) > MAX_HEADERS:
            raise self.fail(f"{max(shnum, phnum)} headers")
        self.segments = self._table(phoff, phnum, SEGMENT_DTYPE, "the program headers")
        self.headers = self._table(
            shoff, shnum if shoff else 0, SECTION_DTYPE, "the section headers"
        )
        names = b""
        if 0 < shstrndx < len(self.headers):
            names = self._content(int(shstrndx), "the section names")
        self.sections = tuple(
            Section(
                i, _string(names, int(row["name"])), *(int(row[field]) for field in _SECTION_FIELDS)
            )
            for i, row in enumerate(self.headers)
        )

    def _table(self, offset: int, count: int, dtype: np.dtype[Any], what: str) -> NDArray[Any]:
        return np.frombuffer(self.read(offset, count * dtype.itemsize, what), dtype)

    def _content(self, index: int, what: str) -> bytes:
        row = self.headers[index]
        if int(row["type"]) == SHT_NOBITS:
            return b""
        return self.read(int(row["offset"]), int(row["size"]), what)

    def section(self, name: str) -> Section | None:
        """The first section of that name that has content in the file."""
        for one in self.sections:
            if one.name == name and one.type != SHT_NOBITS:
                return one
        return None

    @property
    def has_symtab(self) -> bool:
        """The file was not stripped."""
        return any(one.type == SHT_SYMTAB for one in self.sections)

    def content(self, section: Section) -> bytes:
        """Bytes of a section."""
        return self._content(section.index, f"section {section.name}")

    @property
    def loads(self) -> NDArray[Any]:
        """PT_LOAD program headers."""
        loads: NDArray[Any] = self.segments[self.segments["type"] == PT_LOAD]
        return loads

    def build_id(self) -> str:
        """GNU build id in hex, empty if the file has none."""
        for row in self.segments[self.segments["type"] == PT_NOTE]:
            if found := self._note(int(row["offset"]), int(row["filesz"]), int(row["align"])):
                return found
        for row in self.headers[self.headers["type"] == SHT_NOTE]:
            if found := self._note(int(row["offset"]), int(row["size"]), int(row["align"])):
                return found
        return ""

    def _note(self, offset: int, size: int, align: int) -> str:
        if size > MAX_NOTE or offset > self.size or size > self.size - offset:
            return ""
        data = self.read(offset, size, "a note")
        step = 8 if align == 8 else 4
        position = 0
        while position + 12 <= len(data):
            name_size, content_size, kind = struct.unpack_from("<III", data, position)
            name_at = position + 12
            content_at = name_at + -(-name_size // step) * step
            end = content_at + content_size
            if end > len(data):
                break
            if (
                kind == NT_GNU_BUILD_ID
                and data[name_at : name_at + name_size] == b"GNU\0"
                and content_size <= 64
            ):
                return data[content_at:end].hex()
            position = content_at + -(-content_size // step) * step
        return ""

    def debug_link(self) -> str:
        """File name in .gnu_debuglink, empty if there is none."""
        found = self.section(".gnu_debuglink")
        if found is None or found.size > 4096:
            return ""
        name = self.content(found).split(b"\0", 1)[0]
        return "" if b"/" in name else os.fsdecode(name)


_SECTION_FIELDS = ("type", "flags", "address", "offset", "size", "link", "info", "entsize")


def _string(table: bytes, offset: int) -> str:
    most = offset + MAX_SECTION_NAME
    end = table.find(b"\0", offset, most)
    return table[offset : end if end >= 0 else most].decode("utf-8", "replace")


def build_id_of(path: str | Path) -> str:
    """GNU build id of a file in hex; empty where it has none, is not ELF or cannot be read."""
    try:
        with ElfFile(path) as elf:
            return elf.build_id()
    except (OSError, BadElf):
        return ""
