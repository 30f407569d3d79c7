"""Functions and data objects of one ELF file: by address, by name, by pattern."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.errors import UnknownSymbol
from workbench.frames.symbols.demangle import demangle
from workbench.frames.symbols.elffile import BadElf, ElfFile
from workbench.frames.symbols.functions import NAMELESS
from workbench.frames.symbols.names import NamePool, edit_distances, mangled_fragment
from workbench.frames.symbols.table import FUNCTION, OBJECT, build_table, minidebug

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ("ElfSymbols", "Kind", "Symbol", "debug_file")

Kind = Literal["function", "object", "any"]
_KIND_NAMES = {FUNCTION: "function", OBJECT: "object"}
_BINDINGS = {0: "local", 1: "global", 2: "weak", 10: "global"}
_LAST = 2**64 - 1
_DEBUG_ROOT = Path("/usr/lib/debug")


@dataclass(frozen=True, slots=True)
class Symbol:
    """One named range of an ELF file.

    ``address`` is the virtual address in the file (add the load bias of a process), ``size`` its bytes, ``binding``
    local, global or weak.
    """

    name: str
    address: int
    size: int
    kind: str
    binding: str

    @property
    def demangled(self) -> str:
        """Readable C++ or Rust name."""
        return demangle(self.name.encode())


def debug_file(path: str | Path, build_id: str, link: str) -> Path | None:
    """Separate debug file of a program, by build id, else by .gnu_debuglink name; None where there is none."""
    candidates = []
    if len(build_id) > 2:
        candidates.append(_DEBUG_ROOT / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug")
    if link:
        folder = Path(path).parent
        candidates += [
            folder / link,
            folder / ".debug" / link,
            _DEBUG_ROOT / folder.relative_to(folder.anchor) / link,
        ]
    for one in candidates:
        try:
            if one.is_file() and not one.samefile(path):
                return one
        except OSError:
            continue
    return None


class ElfSymbols:
    """Symbol table and layout of one ELF file; every bulk query is vectorised.

    Build one with `ElfSymbols.open` (reads the file) or, with the persistent cache, by `store.SymbolStore`.

    Attributes
    ----------
    path : str
        File the symbols are of.
    build_id : str
        GNU build id in hex, or empty.
    debug_path : str
        Separate debug file that contributed, or empty.
    full : bool
        A .symtab contributed, so that static functions are named too; a stripped file has exported symbols only.
    has_lines : bool
        The file or its debug file has a line table.
    columns : dict of ndarray
        See `table.build_table`; plus the PT_LOAD segments as ``load_offset``, ``load_filesz``, ``load_vaddr``,
        ``load_memsz`` (uint64) and ``load_flags`` (uint32).
    """

    def __init__(
        self, meta: Mapping[str, Any], columns: dict[str, NDArray[Any]], pool: NamePool
    ) -> None:
        self.path = str(meta["path"])
        self.build_id = str(meta["build_id"])
        self.debug_path = str(meta["debug_path"])
        self.has_lines = bool(meta["has_lines"])
        self.full = bool(meta["full"])
        self.position_independent = bool(meta["position_independent"])
        self.columns = columns
        self.pool = pool
        self._display_slot: NDArray[np.int32] | None = None
        self._display: pa.Array | None = None
        self.new_names = 0

    @classmethod
    def open(cls, source: str | Path | bytes, *, path: str = "", debug: bool = True) -> ElfSymbols:
        """Read a file: .symtab, .dynsym, minidebuginfo, and its separate debug file where there is one.

        Parameters
        ----------
        source : path or bytes
            What to read.
        path : str
            The name of the file, where it differs from what is read (``/proc/PID/map_files/...``).
        debug : bool
            Look for a separate debug file.

        Raises
        ------
        BadElf
            Not an ELF file that can be read, or damaged.
        UnknownSymbol
            The file cannot be opened.
        """
        shown = path or ("" if isinstance(source, bytes) else str(source))
        try:
            elf = ElfFile(source, shown)
        except OSError as error:
            raise UnknownSymbol(
                f"symbols of {shown} cannot be read: {error.strerror}",
                "check the path and your permission to read it",
            ) from error
        opened = [elf]
        try:
            build_id = elf.build_id()
            has_lines = elf.section(".debug_line") is not None
            separate = None
            if debug and shown:
                separate = debug_file(shown, build_id, elf.debug_link())
            images = [elf]
            if (packed := minidebug(elf)) is not None:
                images.append(packed)
            if separate is not None and (other := _open_debug(separate, build_id)) is not None:
                opened.append(other)
                images.append(other)
                has_lines = has_lines or other.section(".debug_line") is not None
            else:
                separate = None
            columns, names = build_table(images)
            loads = elf.loads
            columns |= {
                "load_offset": loads["offset"].copy(),
                "load_filesz": loads["filesz"].copy(),
                "load_vaddr": loads["vaddr"].copy(),
                "load_memsz": loads["memsz"].copy(),
                "load_flags": loads["flags"].copy(),
            }
        finally:
            for one in opened:
                one.close()
        meta = {
            "path": shown,
            "build_id": build_id,
            "debug_path": str(separate or ""),
            "has_lines": has_lines,
            "full": any(one.has_symtab for one in images),
            "position_independent": elf.type == 3,
        }
        return cls(meta, columns, NamePool(names))

    @property
    def meta(self) -> dict[str, Any]:
        """What the constructor needs beside the columns and names."""
        return {
            "path": self.path,
            "build_id": self.build_id,
            "debug_path": self.debug_path,
            "has_lines": self.has_lines,
            "full": self.full,
            "position_independent": self.position_independent,
        }

    def __len__(self) -> int:
        return len(self.columns["value"])

    def __repr__(self) -> str:
        return f"<ElfSymbols {self.path}: {len(self)} symbols>"

    def __getitem__(self, index: int) -> Symbol:
        c = self.columns
        return Symbol(
            self.name(index),
            int(c["value"][index]),
            int(c["size"][index]),
            _KIND_NAMES.get(int(c["kind"][index]), "any"),
            _BINDINGS.get(int(c["binding"][index]), "global"),
        )

    def name(self, index: int) -> str:
        """Raw name of one symbol."""
        return self.pool.name(int(self.columns["name"][index])).decode("utf-8", "replace")

    # Addresses ------------------------------------------------------------------------------------------------

    def offset_to_vaddr(
        self, offsets: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Virtual addresses of file offsets, and which offsets lie in a loaded segment.

        A mapping is whole pages, so offsets up to a page before or after a segment count as part of it.
        """
        offsets = np.asarray(offsets, np.uint64)
        vaddr = np.zeros(len(offsets), np.uint64)
        found = np.zeros(len(offsets), bool)
        c = self.columns
        for exact in (True, False):
            for i in range(len(c["load_offset"])):
                start, size = c["load_offset"][i], c["load_filesz"][i]
                low, high = int(start), int(start) + int(size)
                if not exact:
                    low, high = low & ~4095, (high + 4095) & ~4095
                inside = (
                    ~found & (offsets >= np.uint64(low)) & (offsets < np.uint64(min(high, _LAST)))
                )
                vaddr[inside] = offsets[inside] - start + c["load_vaddr"][i]
                found |= inside
            if found.all():
                break
        return vaddr, found

    def vaddr_to_offset(
        self, vaddrs: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """File offsets of virtual addresses, and which of them have content in the file (.bss has none)."""
        vaddrs = np.asarray(vaddrs, np.uint64)
        offset = np.zeros(len(vaddrs), np.uint64)
        found = np.zeros(len(vaddrs), bool)
        c = self.columns
        for i in range(len(c["load_vaddr"])):
            start, size = c["load_vaddr"][i], c["load_filesz"][i]
            inside = ~found & (vaddrs >= start) & (vaddrs - start < size)
            offset[inside] = vaddrs[inside] - start + c["load_offset"][i]
            found |= inside
        return offset, found

    def find_address(self, vaddrs: NDArray[np.uint64], kind: Kind = "any") -> NDArray[np.int64]:
        """Index of the symbol that covers each virtual address, -1 where none does.

        Where symbols nest, the innermost wins. Fastest with sorted addresses.
        """
        vaddrs = np.asarray(vaddrs, np.uint64)
        starts, ends, parent = (self.columns[key] for key in ("starts", "ends", "parent"))
        if not len(starts):
            return np.full(len(vaddrs), -1, np.int64)
        at = np.searchsorted(starts, vaddrs, "right") - 1
        miss = np.flatnonzero((at < 0) | (vaddrs >= ends[at]))
        if len(miss):
            for _ in range(64):
                inner = at[miss]
                at[miss] = np.where(inner >= 0, parent[inner], -1)
                miss = miss[(at[miss] >= 0) & (vaddrs[miss] >= ends[at[miss]])]
                if not len(miss):
                    break
            at[miss] = -1
        index: NDArray[np.int64] = np.where(at >= 0, self.columns["best"][at], -1).astype(np.int64)
        if kind != "any":
            wanted = FUNCTION if kind == "function" else OBJECT
            index[(index >= 0) & (self.columns["kind"][index] != wanted)] = -1
        return index

    def find_code(self, vaddrs: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Index of the function or linkage stub without a symbol that holds each virtual address, or -1."""
        starts, ends = self.columns["code_start"], self.columns["code_end"]
        vaddrs = np.asarray(vaddrs, np.uint64)
        if not len(starts):
            return np.full(len(vaddrs), -1, np.int64)
        at = np.searchsorted(starts, vaddrs, "right") - 1
        return np.where((at >= 0) & (vaddrs < ends[at]), at, -1)

    def code_names(self, indices: NDArray[np.int64], module: str) -> list[str]:
        """Names of what `find_code` found.

        ``module:0xaddress`` for a function, by its first address in the file's symbol table; ``name@plt`` for the
        stub by which the file calls an imported function, ``module:plt`` for what all its stubs share.
        """
        names = []
        for i in indices.tolist():
            offset = int(self.columns["code_name"][i])
            if offset == NAMELESS:
                names.append(f"{module}:{int(self.columns['code_start'][i]):#x}")
            else:
                name = self.pool.name(offset)
                names.append(f"{demangle(name)}@plt" if name else f"{module}:plt")
        return names

    # Names ----------------------------------------------------------------------------------------------------

    def _of_kind(self, rows: NDArray[np.int64], kind: Kind) -> NDArray[np.int64]:
        if kind == "any":
            return rows
        wanted = FUNCTION if kind == "function" else OBJECT
        kept: NDArray[np.int64] = rows[self.columns["kind"][rows] == wanted]
        return kept

    def find_name(self, name: str, kind: Kind = "any") -> list[Symbol]:
        """Symbols of that name (several for static functions of the same name); empty where there is none.

        The name is the raw one, with or without its symbol version, or a demangled one with or without parameters.
        """
        offsets = self.columns["name"]
        raw = name.encode()
        rows = self._of_kind(self.pool.exact(raw, offsets), kind)
        if not len(rows) and "@" not in name:
            rows = self._of_kind(self._versions(raw), kind)
        if not len(rows) and not name.startswith("_Z"):
            rows = self._of_kind(self._by_demangled(name), kind)
        return [self[row] for row in rows.tolist()]

    def _versions(self, raw: bytes) -> NDArray[np.int64]:
        offsets = self.columns["name"]
        hits = self.pool.occurrences(raw + b"@", 4096).astype(np.uint32)
        return np.flatnonzero(np.isin(offsets, hits)) if len(hits) else np.zeros(0, np.int64)

    def _by_demangled(self, name: str, most: int = 20_000) -> NDArray[np.int64]:
        fragment = mangled_fragment(name)
        if not fragment:
            return np.zeros(0, np.int64)
        rows = self.pool.containing(fragment, self.columns["name"])[:most]
        kept = []
        for row in rows.tolist():
            readable = demangle(self.pool.name(int(self.columns["name"][row])))
            if (
                readable == name
                or readable.split("(", 1)[0] == name
                or readable.split("<", 1)[0] == name
            ):
                kept.append(row)
        return np.array(kept, np.int64)

    def match(self, pattern: str, kind: Kind = "any") -> list[Symbol]:
        """Symbols whose raw name matches a shell pattern, by address."""
        rows = self._of_kind(self.pool.glob(pattern, self.columns["name"]), kind)
        return [self[row] for row in rows.tolist()]

    def nearest(self, name: str, n: int = 5, kind: Kind = "any") -> list[str]:
        """The names most like `name`, best first: those that contain it, then by edit distance."""
        query = name.encode()[:48]
        offsets = self.columns["name"]
        if not query or not len(self):
            return []
        rows = self._of_kind(np.arange(len(offsets)), kind)
        width = len(query) + max(3, len(query) // 3)
        lengths = self.pool.lengths(offsets[rows], width)
        close = np.abs(lengths - len(query)) <= max(3, len(query) // 3)
        # Candidates share some letters in place near either end; without that no small edit distance exists.
        rows, lengths = rows[close], lengths[close]
        if len(rows) > 20_000:
            rows, lengths = self._likely(query, rows, lengths, 20_000)
        scored: dict[str, tuple[int, int]] = {}
        if len(rows):
            matrix = self.pool.matrix(offsets[rows], width)
            distance = edit_distances(query.lower(), _lower(matrix), lengths)
            best = np.argsort(distance, kind="stable")[: n * 4]
            for row, far in zip(rows[best].tolist(), distance[best].tolist(), strict=True):
                if far <= max(2, len(query) // 2):
                    scored.setdefault(self.name(row), (far, 0))
        part = query
        if "::" in name:
            scope, _, last = name.partition("(")[0].rpartition("::")
            for far, row in enumerate(self._of_scope(scope, last, n)):
                scored.setdefault(self._readable(row), (1 + far, 0))
            part = last.encode()
        inside = self.pool.containing(part, offsets)[:500] if len(part) >= 3 else rows[:0]
        for row in self._of_kind(inside, kind).tolist():
            shown = self._readable(row)
            scored.setdefault(shown, (2 + 2 * ("::" in name), len(shown)))
        return sorted(scored, key=lambda text: (scored[text], text))[:n]

    def _readable(self, row: int) -> str:
        return demangle(self.pool.name(int(self.columns["name"][row])))

    def _of_scope(self, scope: str, last: str, n: int) -> list[int]:
        """Symbols of a C++ or Rust scope whose own name is most like `last`, best first."""
        fragment = mangled_fragment(scope)
        follow = re.compile(re.escape(fragment) + rb"(?:I.{1,200}?E)?(\d{1,4})")
        members: dict[str, int] = {}
        if not fragment:
            return []
        for row in self.pool.containing(fragment, self.columns["name"])[:20_000].tolist():
            raw = self.pool.name(int(self.columns["name"][row]))
            # Parts that the compiler split off (foo.cold) are not what the user meant to name.
            if b"." not in raw and (match := follow.search(raw)):
                own = raw[match.end() : match.end() + int(match[1])].decode("utf-8", "replace")
                members.setdefault(own, row)
        return [members[own] for own in difflib.get_close_matches(last, members, n, 0.5)]

    def _likely(
        self, query: bytes, rows: NDArray[np.int64], lengths: NDArray[np.int64], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        wanted = np.zeros(256, np.int8)
        wanted[list(query.lower())] = 1
        matrix = _lower(self.pool.matrix(self.columns["name"][rows], min(len(query) + 3, 24)))
        shared = wanted[matrix].sum(axis=1, dtype=np.int32)
        head = (matrix[:, : min(8, len(query))] == np.frombuffer(query.lower()[:8], np.uint8)).sum(
            axis=1
        )
        keep = np.argsort(-(shared + 2 * head), kind="stable")[:most]
        return rows[keep], lengths[keep]

    # Readable names, kept between sessions by the store ------------------------------------------------------------

    def adopt_display(self, slot: NDArray[np.int32], names: pa.Array) -> None:
        """Take readable names from an earlier session: `slot` gives the row in `names` of each symbol, or -1."""
        self._display_slot, self._display = slot, names

    @property
    def display_table(self) -> tuple[NDArray[np.int32], pa.Array] | None:
        """`slot` and names for `adopt_display`; None before any name was asked for."""
        if self._display_slot is None:
            return None
        return self._display_slot, self._display

    def display(self, indices: NDArray[np.int64]) -> pa.Array:
        """Readable (demangled) names of symbols as a pyarrow string array; each is demangled once ever."""
        import pyarrow as pa

        if self._display_slot is None or self._display is None:
            self._display_slot = np.full(len(self), -1, np.int32)
            self._display = pa.array([], pa.large_string())
        slots = self._display_slot[indices]
        if len(slots) and slots.min() < 0:
            missing = np.unique(indices[slots < 0])
            offsets = self.columns["name"][missing].tolist()
            fresh = pa.array([demangle(self.pool.name(at)) for at in offsets], pa.large_string())
            if not self._display_slot.flags.writeable:
                self._display_slot = self._display_slot.copy()
            self._display_slot[missing] = np.arange(len(missing), dtype=np.int32) + len(
                self._display
            )
            self._display = pa.concat_arrays([self._display, fresh])
            self.new_names += len(missing)
            slots = self._display_slot[indices]
        return self._display.take(pa.array(slots))


def _open_debug(path: Path, build_id: str) -> ElfFile | None:
    try:
        elf = ElfFile(path)
    except (OSError, BadElf):
        return None
    # A debug file of another build would give wrong names, which is worse than none.
    if build_id and elf.build_id() not in ("", build_id):
        elf.close()
        return None
    return elf


def _lower(matrix: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where((matrix >= 65) & (matrix <= 90), matrix + 32, matrix).astype(np.uint8)
