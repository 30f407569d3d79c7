"""Names for columns of addresses: mappings, symbol tables, JIT maps, the kernel and source lines, joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.frames.symbols.lines import LineFrame, LineResolver
from workbench.frames.symbols.mappings import build_id_at, readable_by
from workbench.frames.symbols.ranges import (
    NamedRanges,
    find_perf_map,
    parse_kallsyms,
    parse_perf_map,
    python_name,
)
from workbench.frames.symbols.store import SymbolStore, default_store
from workbench.frames.symbols.texts import TextColumn
from workbench.frames.symbols.vdso import vdso_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import pyarrow as pa
    from numpy.typing import NDArray

    from workbench.frames.symbols.elf import ElfSymbols
    from workbench.frames.symbols.mappings import Mappings

__all__ = ("SPACES", "Resolved", "Symbolizer")

SPACES = ("user", "kernel", "python", "jit")
_USER, _KERNEL, _PYTHON, _JIT = range(4)
_KERNEL_START = np.uint64(1 << 63)
_VSYSCALL = np.uint64(0xFFFFFFFFFF600000)
_ANONYMOUS = ("", "//anon", "/dev/zero (deleted)", "/dev/zero", "[heap]")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Frames of addresses: equally long columns, at least one row per address, inlined calls before their caller.

    ``index``: int64, which input; ``depth``: int16, 0 is the innermost; ``inlined``: bool, the call was inlined into
    the row after it. ``function``, ``module``, ``line``, ``space``: pyarrow ``DictionaryArray`` (int32 codes, unique
    string values), what pandas reads as a category without a copy per row.
    """

    index: NDArray[np.int64]
    depth: NDArray[np.int16]
    function: pa.DictionaryArray
    module: pa.DictionaryArray
    line: pa.DictionaryArray
    space: pa.DictionaryArray
    inlined: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(slots=True)
class _Unique:
    """The distinct (mapping, address) pairs of a query, and what each resolved to."""

    address: NDArray[np.uint64]
    row: NDArray[np.int64]
    pid: NDArray[np.int32]
    inverse: NDArray[np.int64]
    function: NDArray[np.int64]
    module: NDArray[np.int64]
    space: NDArray[np.int8]
    frames: dict[int, tuple[LineFrame, ...]] = field(default_factory=dict)


class Symbolizer:
    """Resolves addresses of processes, alive or not, to functions, modules, lines and inlined calls.

    Parameters
    ----------
    mappings : Mappings
        What was mapped where; may grow between calls.
    lines : bool
        Source lines and inlined calls, where a module has a line table and llvm-symbolizer is installed.
    perf_maps : dict of int to bytes or path, optional
        Recorded perf-PID.map of each process. Without it the maps of live processes are read where they are needed.
    kallsyms : path, optional
        Kernel symbols; None leaves kernel functions as ``[kernel]``.
    store : SymbolStore, optional
        Where symbol tables come from; default the one shared by this process.
    progress : callable, optional
        Called with (done, total) while lines are looked up, which is the slow part.
    """

    def __init__(
        self,
        mappings: Mappings,
        *,
        lines: bool = True,
        perf_maps: Mapping[int, bytes | Path] | None = None,
        kallsyms: Path | None = Path("/proc/kallsyms"),
        store: SymbolStore | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.mappings = mappings
        self.store = store or default_store()
        self._lines = LineResolver() if lines else None
        self._perf_maps = perf_maps
        self._jit: dict[int, NamedRanges] = {}
        self._kallsyms = kallsyms
        self._kernel: NamedRanges | None = None
        self._progress = progress

    def __enter__(self) -> Symbolizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End llvm-symbolizer and keep the readable names for the next session."""
        if self._lines is not None:
            self._lines.close()
        self.store.save()

    @property
    def problems(self) -> dict[str, str]:
        """Why modules have no symbols: path to reason."""
        pairs = set(zip(self.mappings.path, self.mappings.build_id, strict=True))
        found = {path: self.store.problem(path, build_id) for path, build_id in pairs}
        return {path: reason for path, reason in sorted(found.items()) if reason}

    def resolve(
        self,
        pids: NDArray[np.int32] | int,
        addresses: NDArray[np.uint64],
        times: NDArray[np.int64] | None = None,
    ) -> Resolved:
        """Frames of each address, with lines and inlined calls where they are known.

        Parameters
        ----------
        pids : int32, shape (n,) or a scalar
            Process of each address; ignored for kernel addresses.
        addresses : uint64, shape (n,)
            Instructions (for callers: return address minus one).
        times : int64, shape (n,), optional
            When each was seen, ns of CLOCK_MONOTONIC; decides between mappings where a process called exec or a
            pid was reused.

        Returns
        -------
        Resolved
            Rows in the order of the input.
        """
        functions, modules, lines = TextColumn(), TextColumn(), TextColumn()
        unique = self._unique(pids, addresses, times)
        self._name(unique, functions, modules, with_lines=self._lines is not None)
        return self._expand(unique, functions, modules, lines)

    def functions(
        self,
        pids: NDArray[np.int32] | int,
        addresses: NDArray[np.uint64],
        times: NDArray[np.int64] | None = None,
    ) -> pa.DictionaryArray:
        """Function (or data object) of each address, no lines and no inlined calls: the fast way.

        Returns
        -------
        pyarrow.DictionaryArray
            n rows, int32 codes, unique string values.
        """
        names = TextColumn()
        unique = self._unique(pids, addresses, times)
        self._name(unique, names, TextColumn(), with_lines=False)
        return names.encode(unique.function[unique.inverse])

    def modules(
        self,
        pids: NDArray[np.int32] | int,
        addresses: NDArray[np.uint64],
        times: NDArray[np.int64] | None = None,
    ) -> pa.DictionaryArray:
        """Mapping of each address: path, ``[kernel]``, ``[heap]``, ..., ``[anonymous]``, empty where none is known."""
        rows, kernel, _pids = self._rows(pids, addresses, times)
        names = TextColumn()
        distinct, inverse = np.unique(np.where(kernel, -2, rows), return_inverse=True)
        texts = [
            "[kernel]" if row == -2 else "" if row < 0 else self.mappings.path[row] or "[anonymous]"
            for row in distinct.tolist()
        ]
        return names.encode(names.listed(texts)[inverse])

    # Steps ------------------------------------------------------------------------------------------------------

    def _rows(
        self,
        pids: NDArray[np.int32] | int,
        addresses: NDArray[np.uint64],
        times: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
        addresses = np.asarray(addresses, np.uint64)
        pids = np.broadcast_to(np.asarray(pids, np.int32), addresses.shape)
        rows = self.mappings.find(pids, addresses, times)
        kernel = (
            (addresses >= _KERNEL_START)
            & (rows < 0)
            & ((addresses & ~np.uint64(4095)) != _VSYSCALL)
        )
        return rows, kernel, pids

    def _unique(
        self,
        pids: NDArray[np.int32] | int,
        addresses: NDArray[np.uint64],
        times: NDArray[np.int64] | None,
    ) -> _Unique:
        addresses = np.asarray(addresses, np.uint64)
        rows, kernel, pids = self._rows(pids, addresses, times)
        # What tells equal addresses apart: the mapping; the process where there is none; nothing in the kernel.
        group = np.where(rows >= 0, rows, np.where(kernel, -1, -2 - pids.astype(np.int64)))
        one_process = len(pids) == 0 or bool((pids == pids[0]).all())
        if one_process and times is None:
            _, first, inverse = np.unique(addresses, return_index=True, return_inverse=True)
        else:
            order = np.lexsort((addresses, group))
            new = np.ones(len(order), bool)
            new[1:] = (addresses[order][1:] != addresses[order][:-1]) | (
                group[order][1:] != group[order][:-1]
            )
            first = order[new]
            inverse = np.empty(len(order), np.int64)
            inverse[order] = np.cumsum(new) - 1
        count = len(first)
        space = np.where(kernel[first], _KERNEL, _USER).astype(np.int8)
        return _Unique(
            addresses[first],
            rows[first],
            pids[first],
            inverse.reshape(-1),
            np.full(count, -1, np.int64),
            np.full(count, -1, np.int64),
            space,
        )

    def _name(
        self, unique: _Unique, functions: TextColumn, modules: TextColumn, *, with_lines: bool
    ) -> None:
        self._name_kernel(unique, functions, modules)
        rows = np.unique(unique.row[unique.row >= 0])
        by_module: dict[tuple[str, str], list[int]] = {}
        for row in rows.tolist():
            by_module.setdefault((self.mappings.path[row], self.mappings.build_id[row]), []).append(
                row
            )
        module_of = np.full(len(self.mappings) + 1, -1, np.int64)
        for number, members in enumerate(by_module.values()):
            module_of[members] = number
        member = module_of[unique.row]
        for number, (path, build_id) in enumerate(by_module):
            at = np.flatnonzero(member == number)
            unique.module[at] = modules.listed([path])[0]
            symbols = self._symbols(path, build_id)
            if symbols is not None:
                self._name_file(unique, at, path, symbols, functions, with_lines=with_lines)
        left = np.flatnonzero(unique.function < 0)
        if len(left):
            unique.module[left[unique.module[left] < 0]] = modules.listed([""])[0]
            self._name_jit(unique, left, functions, modules)
            self._name_unknown(unique, functions)

    def _symbols(self, path: str, build_id: str) -> ElfSymbols | None:
        if path == "[vdso]":
            known = self.store.known(build_id) if build_id else None
            return known or self.store.image(vdso_image(), path, build_id)
        if not path.startswith("/") or _is_anonymous(path):
            return None
        return self.store.get(path, build_id, readable_by(path, build_id))

    def _name_kernel(self, unique: _Unique, functions: TextColumn, modules: TextColumn) -> None:
        at = np.flatnonzero(unique.space == _KERNEL)
        if not len(at):
            return
        if self._kernel is None:
            self._kernel = parse_kallsyms(_content(self._kallsyms))
        table = self._kernel
        found = table.find(unique.address[at])
        names = [table.names[i] if i >= 0 else "[kernel]" for i in found.tolist()]
        unique.function[at] = functions.listed(names)
        unique.module[at] = modules.listed(
            [table.modules[i] if i >= 0 else "[kernel]" for i in found.tolist()]
        )

    def _name_file(
        self,
        unique: _Unique,
        at: NDArray[np.int64],
        path: str,
        symbols: ElfSymbols,
        functions: TextColumn,
        *,
        with_lines: bool,
    ) -> None:
        row = unique.row[at]
        offsets = unique.address[at] - self.mappings.start[row] + self.mappings.offset[row]
        vaddrs, inside = symbols.offset_to_vaddr(offsets)
        index = np.where(inside, symbols.find_address(vaddrs), -1)
        good = index >= 0
        hit = index[good]
        if len(hit):
            mark = np.zeros(len(symbols), bool)
            mark[hit] = True
            distinct = np.flatnonzero(mark)
            base = functions.bulk(symbols.display(distinct))
            number = np.cumsum(mark) - 1
            unique.function[at[good]] = base + number[hit]
        if with_lines and symbols.has_lines:
            self._add_lines(unique, at[inside], path, symbols, vaddrs[inside])
        bad = np.flatnonzero(~good)
        if not len(bad):
            return
        short = _file_name(path)
        code = np.where(inside[bad], symbols.find_code(vaddrs[bad]), -1)
        known, member = np.unique(code[code >= 0], return_inverse=True)
        if len(known):
            codes = functions.listed(symbols.code_names(known, short))
            unique.function[at[bad[code >= 0]]] = codes[member]
        bad = bad[code < 0]
        unique.function[at[bad]] = functions.listed(
            [f"{short}+{offset:#x}" for offset in offsets[bad].tolist()]
        )

    def _add_lines(
        self,
        unique: _Unique,
        at: NDArray[np.int64],
        path: str,
        symbols: ElfSymbols,
        vaddrs: NDArray[np.uint64],
    ) -> None:
        if self._lines is None or not self._lines.available:
            return
        build_id = symbols.build_id
        # The plain path first: llvm-symbolizer keeps what it read by path, and /proc/PID paths differ per process.
        for place in (path, *readable_by(path, build_id), symbols.debug_path):
            if place and build_id_at(place) == build_id and Path(place).is_file():
                break
        else:
            return
        answers = self._lines.resolve(place, vaddrs.tolist(), self._progress)
        unique.frames.update(
            (position, frames)
            for position, frames in zip(at.tolist(), answers, strict=True)
            if frames
        )

    def _name_jit(
        self, unique: _Unique, left: NDArray[np.int64], functions: TextColumn, modules: TextColumn
    ) -> None:
        anonymous = np.array(
            [
                row < 0 or _is_anonymous(self.mappings.path[row])
                for row in unique.row[left].tolist()
            ],
            bool,
        )
        left = left[anonymous & (unique.space[left] == _USER)]
        left = left[np.argsort(unique.pid[left], kind="stable")]
        pids, first = np.unique(unique.pid[left], return_index=True)
        for pid, at in zip(pids.tolist(), np.split(left, first[1:]), strict=False):
            table = self._jit_of(pid)
            found = table.find(unique.address[at])
            for position, i in zip(
                at[found >= 0].tolist(), found[found >= 0].tolist(), strict=True
            ):
                name = table.names[i]
                readable = python_name(name)
                unique.space[position] = _JIT if readable is None else _PYTHON
                unique.function[position] = functions.listed([readable or name])[0]
                if readable is not None:
                    unique.module[position] = modules.listed([name.rpartition(":")[2]])[0]

    def _jit_of(self, pid: int) -> NamedRanges:
        if pid not in self._jit:
            if self._perf_maps is None:
                content = find_perf_map(pid)
            else:
                given = self._perf_maps.get(pid, b"")
                content = given if isinstance(given, bytes) else _content(Path(given))
            self._jit[pid] = parse_perf_map(content)
        return self._jit[pid]

    def _name_unknown(self, unique: _Unique, functions: TextColumn) -> None:
        left = np.flatnonzero(unique.function < 0)
        names = []
        for row, address in zip(
            unique.row[left].tolist(), unique.address[left].tolist(), strict=True
        ):
            path = self.mappings.path[row] if row >= 0 else ""
            if path and not _is_anonymous(path):
                offset = address - int(self.mappings.start[row]) + int(self.mappings.offset[row])
                names.append(f"{_file_name(path)}+{offset:#x}")
            else:
                names.append(f"{address:#x}")
        unique.function[left] = functions.listed(names)

    def _expand(
        self, unique: _Unique, functions: TextColumn, modules: TextColumn, lines: TextColumn
    ) -> Resolved:
        count = len(unique.address)
        no_line = lines.listed([""])[0]
        height = np.ones(count, np.int64)
        for position, frames in unique.frames.items():
            height[position] = len(frames)
        start = np.cumsum(height) - height
        total = int(height.sum())
        owner = np.repeat(np.arange(count), height)
        depth = np.arange(total) - start[owner]
        inlined = depth < height[owner] - 1
        function = unique.function[owner]
        line = np.full(total, no_line, np.int64)
        for position, frames in unique.frames.items():
            first = int(start[position])
            line[first : first + len(frames)] = lines.listed([frame.line for frame in frames])
            # The outermost frame is a real function: it keeps the symbol table's name.
            names = [frame.function for frame in frames[:-1]]
            if names:
                function[first : first + len(names)] = functions.listed(
                    [name or "[inlined]" for name in names]
                )
        if total == count:
            pick, index = unique.inverse, np.arange(len(unique.inverse))
            depth = np.zeros(len(pick), np.int64)
            chosen = owner[pick]
        else:
            each = height[unique.inverse]
            index = np.repeat(np.arange(len(each)), each)
            within = np.arange(len(index)) - (np.cumsum(each) - each)[index]
            pick = start[unique.inverse][index] + within
            depth = within
            chosen = owner[pick]
        spaces = TextColumn()
        space_codes = spaces.listed(list(SPACES))
        return Resolved(
            index.astype(np.int64),
            depth.astype(np.int16),
            functions.encode(function[pick]),
            modules.encode(unique.module[chosen]),
            lines.encode(line[pick]),
            spaces.encode(space_codes[unique.space[chosen]]),
            inlined[pick],
        )


def _is_anonymous(path: str) -> bool:
    return path in _ANONYMOUS or path.startswith(
        ("[anon", "/memfd:", "anon_inode:", "/SYSV", "/dev/")
    )


def _file_name(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(" (deleted)")


def _content(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError:
        return b""
