"""Unwind tables of ELF files: built from `.eh_frame` once, kept on disk by build-id.

The section is found through its header or, in a file stripped of section headers, through PT_GNU_EH_FRAME
(LSB Core 5.0, section 10.6.2: `.eh_frame_hdr` begins with a pointer to `.eh_frame` and the number of functions).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import WorkbenchError
from workbench.frames.symbols.elffile import PT_LOAD, BadElf, ElfFile
from workbench.frames.symbols.store import cache_folder
from workbench.native.unwind import AARCH64, ROW, SIGNAL, X86_64, CfaKind, RuleKind, build_rows

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from workbench.frames.symbols.ranges import NamedRanges

__all__ = ("UnwindTable", "UnwindTables")

PT_GNU_EH_FRAME = 0x6474E550
PF_X = 1
VERSION = 2
"""Part of the file names of the cache: tables of another layout or other rules are not read."""
MAX_SECTION = 1 << 30
MAX_ENTRY_CODE = 128
MAX_CACHE = 1 << 30
"""Bytes on disk above which the tables used longest ago are removed."""
_FORMATS = {0: "<Q", 2: "<H", 3: "<I", 4: "<Q", 10: "<h", 11: "<i", 12: "<q"}
# mov x8, #139 (rt_sigreturn); svc #0: the signal trampoline of aarch64, whose call frame information the kernel
# leaves out on purpose.
_AARCH64_SIGRETURN = bytes.fromhex("681180d2010000d4")
# CPython's perf trampoline on x86-64 (Python/asm_trampoline.S), copied once per Python function into anonymous memory:
# sub rsp, 8; call rcx; add rsp, 8; ret. It keeps no frame pointer. (That of aarch64 does.)
_PYTHON_TRAMPOLINE = bytes.fromhex("4883ec08ffd14883c408c3")
_PYTHON_TRAMPOLINE_RULES = ((0, 8), (4, 16), (10, 8))
"""Offset in the trampoline from which the CFA is sp plus the second number."""


@dataclass(frozen=True, slots=True)
class UnwindTable:
    """The unwind rows of one file and how it is laid out in memory.

    Parameters
    ----------
    rows : ndarray of `workbench.native.unwind.ROW`, shape (n,)
        Sorted by `start`; read-only.
    machine : int
        ELF ``e_machine``.
    segments : tuple of (offset, vaddr, size)
        Executable PT_LOAD segments: bytes `size` at file `offset` are mapped for virtual address `vaddr`.
    build_id : str
        Hex, or empty.
    """

    rows: NDArray[np.void]
    machine: int
    segments: tuple[tuple[int, int, int], ...]
    build_id: str

    def bias(self, start: int, offset: int, size: int) -> int:
        """Run-time minus file address of a mapping of `size` bytes at file `offset`, modulo 2**64.

        Where segments share a page of the file, the one that lies in the mapping whole, then the larger, is it.
        """
        best, result = (False, 0), start - offset
        for segment, vaddr, length in self.segments:
            low, high = max(offset, segment), min(offset + size, segment + length)
            score = ((low, high) == (segment, segment + length), high - low)
            if high > low and score > best:
                best, result = score, start - offset + segment - vaddr
        return result % (1 << 64)


def _pointer(data: bytes, at: int, encoding: int, address: int, base: int) -> int | None:
    """A pointer of `.eh_frame_hdr`; None where its encoding is not one that linkers write."""
    form = _FORMATS.get(encoding & 0x0F)
    relative = {0x00: 0, 0x10: address + at, 0x30: base}.get(encoding & 0xF0)
    if form is None or relative is None or at + struct.calcsize(form) > len(data):
        return None
    value: int = struct.unpack_from(form, data, at)[0]
    return (value + relative) % (1 << 64)


def _from_header(elf: ElfFile) -> tuple[int, int]:
    """Address of `.eh_frame` and number of functions (0: not said) by PT_GNU_EH_FRAME; (0, 0) without one."""
    for row in elf.segments[elf.segments["type"] == PT_GNU_EH_FRAME]:
        address = int(row["vaddr"])
        head = elf.read(int(row["offset"]), min(int(row["filesz"]), 20), "PT_GNU_EH_FRAME")
        if len(head) < 8 or head[0] != 1:
            continue
        form = _FORMATS.get(head[1] & 0x0F)
        frames = _pointer(head, 4, head[1], address, address)
        if form is None or not frames:
            continue
        count = None
        if head[2] != 0xFF:
            count = _pointer(head, 4 + struct.calcsize(form), head[2], address, address)
        return frames, count or 0
    return 0, 0


def _eh_frame(elf: ElfFile) -> tuple[bytes, int, int]:
    """Bytes of `.eh_frame`, their address, and how many functions to read (0: all)."""
    section = elf.section(".eh_frame")
    if section is not None and section.size <= MAX_SECTION:
        return elf.content(section), section.address, 0
    address, count = _from_header(elf)
    for row in elf.loads:
        start, size = int(row["vaddr"]), int(row["filesz"])
        if address and start <= address < start + size:
            skipped = address - start
            size = min(size - skipped, MAX_SECTION)
            return elf.read(int(row["offset"]) + skipped, size, ".eh_frame"), address, count
    return b"", 0, 0


def _with_sigreturn(elf: ElfFile, rows: NDArray[np.void]) -> NDArray[np.void]:
    """`rows` with one for the signal trampoline in the vdso of aarch64.

    Offsets from sp at the trampoline are those of `struct rt_sigframe`: siginfo 128 bytes, then in the ucontext (176
    bytes before sigcontext) fault_address, regs[31], sp, pc.
    """
    for row in elf.loads:
        code = elf.read(int(row["offset"]), int(row["filesz"]), "the code")
        at = code.find(_AARCH64_SIGRETURN)
        if at < 0 or at % 4:
            continue
        address = int(row["vaddr"]) + at
        context = 128 + 176 + 8
        fp, sp, pc = context + 29 * 8, context + 31 * 8, context + 32 * 8
        # From 4 bytes before: handlers return to the first instruction, and callers are looked up at address - 1.
        rule = (CfaKind.SP_DEREF, RuleKind.AT_SP, RuleKind.AT_SP, SIGNAL)
        inside = np.array([(address - 4, sp, fp, pc, *rule)], ROW)
        kept = rows[: np.searchsorted(rows["start"], address - 4)]
        after = np.array([(address + 8, 0, 0, 0, 0, 0, 0, 0)], ROW)
        return np.concatenate([kept, inside, after, rows[np.searchsorted(rows["start"], address + 8) :]])
    return rows


def _with_entry(elf: ElfFile, rows: NDArray[np.void]) -> NDArray[np.void]:
    """`rows` with the program entry as outermost frame where the start code says nothing about itself.

    That code is a few instructions of assembly (the dynamic loader's, musl's); it has no caller.
    """
    at = int(np.searchsorted(rows["start"], elf.entry, "right"))
    if not elf.entry or (at and rows["cfa_kind"][at - 1] != CfaKind.NONE):
        return rows
    end = elf.entry + MAX_ENTRY_CODE
    if at < len(rows) and int(rows["start"][at]) < end:
        extra = np.zeros(1, ROW)
    else:
        extra = np.zeros(2, ROW)
        extra["start"][1] = end
    extra[0] = (elf.entry, 0, 0, 0, CfaKind.SP, RuleKind.SAME, RuleKind.UNDEFINED, 0)
    kept = at - (at > 0 and int(rows["start"][at - 1]) == elf.entry)
    return np.concatenate([rows[:kept], extra, rows[at:]])


def _segments(elf: ElfFile) -> tuple[tuple[int, int, int], ...]:
    loads = elf.segments[(elf.segments["type"] == PT_LOAD) & (elf.segments["flags"] & PF_X != 0)]
    return tuple((int(r["offset"]), int(r["vaddr"]), int(r["filesz"])) for r in loads)


class UnwindTables:
    """Unwind tables by file, each built once and kept in memory and on disk.

    Parameters
    ----------
    folder : Path, optional
        Where tables are kept: raw `.npy` of `workbench.native.unwind.ROW`, named by build-id, file size and
        format version. A file that is missing, damaged or of another layout is built again; a folder that cannot be
        written is done without. Default: sub-folder
        ``unwind`` of the symbol cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder() / "unwind"
        self.built = 0
        """Tables built from `.eh_frame` so far (not read from disk)."""
        self._tables: dict[tuple[int, int, int, int], UnwindTable | None] = {}
        self._images: dict[bytes, UnwindTable | None] = {}

    def of_file(self, path: str | Path) -> UnwindTable | None:
        """Table of the ELF file at `path`; None where it is no ELF file of a supported machine or cannot be read."""
        try:
            status = Path(path).stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None  # opening a device can have effects of its own
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._tables:
            self._tables[key] = None
            with contextlib.suppress(BadElf, OSError), ElfFile(path) as elf:
                self._tables[key] = self._table(elf, repr(key))
        return self._tables[key]

    def of_image(self, image: bytes) -> UnwindTable | None:
        """Table of an ELF file held in memory (the vdso); None where it is damaged or of another machine."""
        key = hashlib.sha256(image).digest()
        if key not in self._images:
            self._images[key] = None
            with contextlib.suppress(BadElf), ElfFile(image, "vdso") as elf:
                self._images[key] = self._table(elf, key.hex(), keep=False)
        return self._images[key]

    def of_generated_code(self, code: bytes, machine: int) -> UnwindTable | None:
        """Table of code without a file, by its instructions; None where they are not known to need one.

        Addresses in the table count from the first byte. The trampolines by which CPython shows its functions to
        profilers are known; other generated code is left to frame pointers.
        """
        data = np.frombuffer(code, np.uint8)
        size = len(_PYTHON_TRAMPOLINE)
        if len(data) < size:
            return None
        found = np.flatnonzero(data[: len(data) - size + 1] == _PYTHON_TRAMPOLINE[0])
        for k in range(1, size):
            found = found[data[found + k] == _PYTHON_TRAMPOLINE[k]]
        return _trampolines(found, machine, len(data))

    def of_perf_map(
        self, functions: NamedRanges, start: int, end: int, machine: int
    ) -> UnwindTable | None:
        """As `of_generated_code` for the mapping `start` to `end`, where its code cannot be read any more: by what
        the process's perf-PID.map says of it.
        """
        inside = (functions.starts >= start) & (functions.ends <= end)
        size = len(_PYTHON_TRAMPOLINE)
        # 4 bytes more: there is an endbr64 before. Others keep the frame pointer.
        lengths = functions.ends - functions.starts
        inside &= (lengths == size) | (lengths == size + 4)
        found = [
            int(functions.ends[k]) - size - start
            for k in np.flatnonzero(inside).tolist()
            if functions.names[k].startswith("py::")
        ]
        return _trampolines(np.array(found, np.int64), machine, end - start)

    def _table(self, elf: ElfFile, identity: str, *, keep: bool = True) -> UnwindTable | None:
        if elf.machine not in (X86_64, AARCH64):
            return None
        build_id = elf.build_id()
        name = build_id or "file-" + hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]
        path = self.folder / f"{name}-{elf.size:x}-v{VERSION}.npy"
        rows = _load(path) if keep else None
        if rows is None:
            data, address, limit = _eh_frame(elf)
            rows = build_rows(data, address, elf.machine, limit).rows
            if elf.machine == AARCH64 and not keep:
                rows = _with_sigreturn(elf, rows)
            rows = _with_entry(elf, rows)
            self.built += 1
            if keep:
                _save(path, rows)
        rows.setflags(write=False)
        return UnwindTable(rows, elf.machine, _segments(elf), build_id)


def _trampolines(found: NDArray[np.int64], machine: int, length: int) -> UnwindTable | None:
    """Table of CPython's trampolines at these offsets in a mapping of `length` bytes."""
    if machine != X86_64 or not len(found):
        return None
    rows = np.zeros((len(found), len(_PYTHON_TRAMPOLINE_RULES) + 1), ROW)
    for k, (offset, cfa) in enumerate(_PYTHON_TRAMPOLINE_RULES):
        rows["start"][:, k] = found + offset
        rows["cfa_offset"][:, k] = cfa
    rows["cfa_kind"][:, :-1] = CfaKind.SP
    rows["ra_rule"][:, :-1] = RuleKind.AT_CFA
    rows["ra_offset"][:, :-1] = -8
    rows["start"][:, -1] = found + len(_PYTHON_TRAMPOLINE)
    return UnwindTable(rows.ravel(), machine, ((0, 0, length),), "")


def _load(path: Path) -> NDArray[np.void] | None:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                return None
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            left = os.fstat(file.fileno()).st_size - file.tell()
            if dtype != ROW or fortran or len(shape) != 1 or shape[0] * ROW.itemsize != left:
                return None
            rows: NDArray[Any] = np.fromfile(file, ROW, shape[0])
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, WorkbenchError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now: the oldest go first when the folder is full
    if len(rows) != shape[0] or (len(rows) > 1 and not (rows["start"][1:] > rows["start"][:-1]).all()):
        return None
    return rows


def _save(path: Path, rows: NDArray[np.void]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.lib.format.write_array(file, rows, version=(1, 0), allow_pickle=False)
        part.replace(path)
        _remove_oldest(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def _remove_oldest(folder: Path) -> None:
    found = [(entry.stat(), entry) for entry in folder.glob("*.npy")]
    size = sum(status.st_size for status, _ in found)
    for status, entry in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
        if size <= MAX_CACHE:
            break
        entry.unlink(missing_ok=True)
        size -= status.st_size
