"""From addresses to names: the `resolve` columns of every frame and the frame `stacks`.

Addresses are looked up once each, as (process, address) pairs collected batch by batch; rows are then filled by
integer indexing. Interned addresses are call sites (a return address minus one for callers), so no address is
adjusted here.
"""

from __future__ import annotations

import contextlib
from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.frames.schema import SCHEMAS, Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ("RAW_STACKS", "NameSources", "Pairs", "Raw", "Resolver", "all_columns", "frame_names")

RAW_STACKS = "_stacks"
KERNEL = np.uint64(1 << 63)
STACKS_PER_BATCH = 8192


@dataclass(frozen=True, slots=True)
class NameSources:
    """Where names come from besides the mapped files.

    ``perf_maps``: saved perf-PID.map contents by pid; None lets live processes' own files be read. ``kallsyms``:
    kernel symbols of the boot that was recorded; None leaves kernel functions unnamed.
    """

    perf_maps: Mapping[int, bytes] | None
    kallsyms: Path | None


class Raw(Protocol):
    """What was recorded, before names: frames as batches."""

    def names(self) -> tuple[str, ...]:
        """Frames there, and `RAW_STACKS` if stacks were interned."""

    def columns(self, frame: str) -> tuple[Column, ...]:
        """Recorded columns of a frame."""

    def batches(self, frame: str) -> Iterator[pa.RecordBatch]:
        """Rows of a frame, all columns in each batch."""

    def names_sources(self) -> NameSources:
        """Where names come from besides the files that were mapped."""


class Pairs:
    """Unique (pid, address) pairs with the time each was first seen.

    Kernel addresses belong to pid 0, whichever process they were seen in.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int64]]] = []
        self._pending = 0
        self._merged = 0
        self._runs: dict[int, tuple[int, int]] | None = None

    def add(self, pids: NDArray[Any], addresses: NDArray[Any], times: NDArray[Any]) -> None:
        """Add rows, equally long."""
        addresses = addresses.astype(np.uint64, copy=False)
        pids = np.where(addresses >= KERNEL, np.int32(0), pids).astype(np.int32, copy=False)
        self._parts.append(_unique(pids, addresses, times.astype(np.int64, copy=False)))
        self._pending += len(self._parts[-1][0])
        if self._pending > max(1 << 18, self._merged):
            self._merge()

    def _merge(self) -> None:
        if self._parts:
            columns = (np.concatenate(column) for column in zip(*self._parts, strict=True))
            self._parts = [_unique(*columns)]
            self._merged = len(self._parts[0][0])
        self._pending = 0

    def freeze(self) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int64]]:
        """All pairs, sorted by pid and address: pids, addresses, times."""
        self._merge()
        if not self._parts:
            self._parts = [(np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, np.int64))]
        pids = self._parts[0][0]
        values, starts = np.unique(pids, return_index=True)
        ends = [*starts[1:].tolist(), len(pids)][: len(values)]
        self._runs = dict(
            zip(values.tolist(), zip(starts.tolist(), ends, strict=True), strict=True)
        )
        return self._parts[0]

    def index(self, pids: NDArray[Any], addresses: NDArray[Any]) -> NDArray[np.int64]:
        """Row of each given pair in `freeze()`; every one of them must have been added."""
        assert self._runs is not None, "freeze first"
        addresses = addresses.astype(np.uint64, copy=False)
        known = self._parts[0][1]
        pids = np.where(addresses >= KERNEL, 0, pids)
        found = np.empty(len(addresses), np.int64)
        order = np.argsort(pids, kind="stable")
        values, starts = np.unique(pids[order], return_index=True)
        for pid, rows in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
            begin, end = self._runs[pid]
            found[rows] = begin + np.searchsorted(known[begin:end], addresses[rows])
        return found


def _unique(
    pids: NDArray[np.int32], addresses: NDArray[np.uint64], times: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.int64]]:
    order = np.lexsort((times, addresses, pids))
    pids, addresses, times = pids[order], addresses[order], times[order]
    first = np.ones(len(pids), bool)
    first[1:] = (pids[1:] != pids[:-1]) | (addresses[1:] != addresses[:-1])
    return pids[first], addresses[first], times[first]


@dataclass(frozen=True, slots=True)
class Codes:
    """Text rows as codes into names."""

    codes: NDArray[np.int32]
    names: pa.Array

    def take(self, rows: NDArray[Any]) -> pa.Array:
        """The texts of some rows; row -1 is the empty text (the last name)."""
        import pyarrow as pa

        return pa.DictionaryArray.from_arrays(
            pa.array(self.codes[rows].astype(np.int32, copy=False)), self.names, safe=False
        )


def _coded(codes: NDArray[Any], names: pa.Array) -> Codes:
    """With one more row at the end (so that index -1 finds it) that is the empty text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    empty = pc.index(names, "").as_py()
    if empty < 0:
        empty = len(names)
        names = pa.concat_arrays([names, pa.array([""], names.type)])
    return Codes(np.append(codes, empty).astype(np.int32), names)


def _of_dictionary(column: pa.DictionaryArray) -> Codes:
    return _coded(column.indices.to_numpy(), column.dictionary)


@dataclass(frozen=True, slots=True)
class _Frames:
    """Frames of unique addresses: those of address i are rows first[i] to first[i + 1], innermost first."""

    first: NDArray[np.int64]
    function: Codes
    module: Codes
    line: Codes
    space: Codes
    inlined: NDArray[np.bool_]


class Resolver:
    """Fills `resolve` columns and makes `stacks` from what was recorded.

    Construction reads every batch once and symbolizes; `batches` then gives any frame as it is declared.
    """

    def __init__(self, raw: Raw, progress: Callable[[float, str], None] | None = None) -> None:
        self.raw = raw
        self._progress = progress
        self._pairs = Pairs()
        self._data = Pairs()
        self._data_columns: set[str] = set()
        self._collect()
        self._frames = self._symbolize()
        self._leaf: dict[str, Codes] = {}

    @property
    def frames(self) -> tuple[str, ...]:
        """Frames that `batches` gives: those recorded, and `stacks` if anything has a stack column."""
        return frame_names(self.raw)

    def columns(self, frame: str) -> tuple[Column, ...]:
        """All columns of a frame: its schema's in order, then those it declared itself."""
        return all_columns(self.raw, frame)

    def batches(self, frame: str) -> Iterator[pa.RecordBatch]:
        """Rows of a frame with all its columns."""
        import pyarrow as pa

        from workbench.frames.columns import arrow_schema

        columns = self.columns(frame)
        schema = arrow_schema(columns)
        if frame == "stacks" and frame not in self.raw.names():
            yield from self._stack_batches(schema)
            return
        for batch in self.raw.batches(frame):
            arrays = [
                self._resolved(column.resolve, batch)
                if column.resolve
                else batch.column(column.name)
                for column in columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _collect(self) -> None:
        if RAW_STACKS in self.raw.names():
            for batch in self.raw.batches(RAW_STACKS):
                pids, times, addresses, lengths = _raw_stacks(batch)
                self._pairs.add(np.repeat(pids, lengths), addresses, np.repeat(times, lengths))
        for frame in self.raw.names():
            if frame == RAW_STACKS:
                continue
            rules = {column.resolve for column in self.columns(frame)} - {""}
            code = {rule.partition(":")[2] for rule in rules if _is_code(rule)}
            data = {rule.partition(":")[2] for rule in rules if rule.startswith("module:")} - code
            if not code | data:
                continue
            for batch in self.raw.batches(frame):
                pids = _numpy(batch, "pid")
                times = (
                    _numpy(batch, "time")
                    if "time" in batch.schema.names
                    else np.zeros(len(pids), np.int64)
                )
                for name in code:
                    self._pairs.add(pids, _numpy(batch, name), times)
                self._data_columns |= data
                for name in data:
                    self._data.add(pids, _numpy(batch, name), times)

    def _symbolize(self) -> _Frames:
        from workbench.frames.symbols.mappings import Mappings
        from workbench.frames.symbols.symbolizer import Symbolizer

        sources = self.raw.names_sources()
        mappings = Mappings()
        if "mappings" in self.raw.names():
            for batch in self.raw.batches("mappings"):
                mappings.add(_columns_of(batch))
        symbolizer = Symbolizer(
            mappings,
            perf_maps=sources.perf_maps,
            kallsyms=sources.kallsyms,
            progress=self._symbol_progress if self._progress else None,
        )
        try:
            self._mapping = _of_dictionary(symbolizer.modules(*self._data.freeze()))
            code = self._pairs.freeze()
            resolved = symbolizer.resolve(*code)
        finally:
            with contextlib.suppress(
                OSError
            ):  # the cache for next time is no reason to lose a recording
                symbolizer.close()
        counts = np.bincount(resolved.index, minlength=len(code[0]))
        return _Frames(
            first=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            function=_of_dictionary(resolved.function),
            module=_of_dictionary(resolved.module),
            line=_of_dictionary(resolved.line),
            space=_of_dictionary(resolved.space),
            inlined=resolved.inlined,
        )

    def _symbol_progress(self, done: int, total: int) -> None:
        assert self._progress is not None
        self._progress(done / max(total, 1), "source lines")

    def _resolved(self, rule: str, batch: pa.RecordBatch) -> pa.Array:
        what, _, name = rule.partition(":")
        if what in ("leaf", "user"):
            leaf = self._leaves(what)
            stacks = _numpy(batch, name).astype(np.int64)
            stacks[(stacks < 0) | (stacks >= len(leaf.codes) - 1)] = -1
            return leaf.take(stacks)
        pids, addresses = _numpy(batch, "pid"), _numpy(batch, name)
        if name in self._data_columns:
            return self._mapping.take(self._data.index(pids, addresses))
        rows = self._frames.first[:-1][self._pairs.index(pids, addresses)]
        texts: Codes = getattr(self._frames, what)
        return texts.take(rows)

    def _leaves(self, what: str) -> Codes:
        """By stack id: the innermost function ("leaf"), or the innermost outside the kernel where there is one."""
        if what not in self._leaf:
            given = "stacks" in self.raw.names()
            make = self._given_leaves if given else self._interned_leaves
            self._leaf[what] = make(what)
        return self._leaf[what]

    def _interned_leaves(self, what: str) -> Codes:
        rows = []
        if RAW_STACKS in self.raw.names():
            for batch in self.raw.batches(RAW_STACKS):
                pids, _, addresses, lengths = _raw_stacks(batch)
                first = np.cumsum(lengths) - lengths
                if what == "user":
                    kernel = np.append(0, np.cumsum(addresses >= KERNEL))
                    depth = kernel[first + lengths] - kernel[first]
                    first = first + np.where(depth < lengths, depth, 0)
                innermost = self._pairs.index(pids, addresses[first])
                rows.append(self._frames.first[:-1][innermost])
        function = self._frames.function
        codes = function.codes[np.concatenate(rows)] if rows else np.empty(0, np.int32)
        return Codes(np.append(codes, function.codes[-1]), function.names)

    def _given_leaves(self, what: str) -> Codes:
        import pyarrow as pa

        known: dict[str, int] = {}
        ids: list[NDArray[Any]] = []
        codes: list[NDArray[Any]] = []
        depths: list[NDArray[Any]] = []
        for batch in self.raw.batches("stacks"):
            depth = _numpy(batch, "depth").astype(np.int64)
            if what == "user":  # kernel functions come after all others
                space = np.asarray(batch.column("space").to_pylist())
                depth += np.where(space == "kernel", 1 << 32, 0)
            function = batch.column("function")
            table = [known.setdefault(name, len(known)) for name in function.dictionary.to_pylist()]
            ids.append(_numpy(batch, "stack"))
            codes.append(np.asarray(table, np.int32)[function.indices.to_numpy()])
            depths.append(depth)
        if not ids:
            return _coded(np.empty(0, np.int32), pa.array([], pa.utf8()))
        stacks, all_codes = np.concatenate(ids), np.concatenate(codes)
        order = np.lexsort((np.concatenate(depths), stacks))
        order = order[stacks[order] >= 0]
        stacks = stacks[order]
        first = np.append(True, stacks[1:] != stacks[:-1])[: len(stacks)]
        known.setdefault("", len(known))
        table_codes = np.full(int(stacks.max(initial=-1)) + 1, known[""], np.int32)
        table_codes[stacks[first]] = all_codes[order][first]
        return _coded(table_codes, pa.array(list(known), pa.utf8()))

    def _stack_batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        if RAW_STACKS not in self.raw.names():
            return
        frames = self._frames
        next_id = 0
        for whole in self.raw.batches(RAW_STACKS):
            for start in range(0, whole.num_rows, STACKS_PER_BATCH):
                pids, _, addresses, lengths = _raw_stacks(whole.slice(start, STACKS_PER_BATCH))
                pair = self._pairs.index(np.repeat(pids, lengths), addresses)
                counts = frames.first[pair + 1] - frames.first[pair]
                rows = np.repeat(frames.first[pair], counts) + _within(counts)
                ends = np.cumsum(counts)[np.cumsum(lengths) - 1]
                sizes = np.diff(ends, prepend=0)
                ids = np.arange(next_id, next_id + len(pids), dtype=np.int32)
                next_id += len(pids)
                columns = {
                    "stack": pa.array(np.repeat(ids, sizes)),
                    "depth": pa.array(_within(sizes).astype(np.int16)),
                    "pid": pa.array(np.repeat(pids, sizes)),
                    "address": pa.array(np.repeat(addresses, counts)),
                    "space": frames.space.take(rows),
                    "function": frames.function.take(rows),
                    "module": frames.module.take(rows),
                    "line": frames.line.take(rows),
                    "inlined": pa.array(frames.inlined[rows]),
                }
                yield pa.RecordBatch.from_arrays(
                    [columns[name] for name in schema.names], schema=schema
                )


def frame_names(raw: Raw) -> tuple[str, ...]:
    """Frames recorded, and `stacks` if anything has a stack column."""
    names = [name for name in raw.names() if name != RAW_STACKS]
    if "stacks" not in names and (
        RAW_STACKS in raw.names()
        or any(column.name == "stack" for name in names for column in raw.columns(name))
    ):
        names.append("stacks")
    return tuple(names)


def all_columns(raw: Raw, frame: str) -> tuple[Column, ...]:
    """All columns of a frame: its schema's in order, resolved ones too, then those it declared itself."""
    if frame not in raw.names():
        return SCHEMAS[frame].columns
    recorded = raw.columns(frame)
    known = {column.name: column for column in recorded}
    declared = SCHEMAS[frame].columns if frame in SCHEMAS else recorded
    order = ChainMap({column.name: column for column in declared}, known)
    names = [column.name for column in declared if column.resolve or column.name in known]
    return tuple(order[name] for name in dict.fromkeys([*names, *known]))


def _is_code(rule: str) -> bool:
    """Whether the rule's address is of an instruction (data addresses need only their mapping)."""
    return rule.startswith(("function:", "line:"))


def _within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... for each run: [2, 3] gives [0, 1, 0, 1, 2]."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)


def _columns_of(batch: pa.RecordBatch) -> dict[str, Any]:
    """Columns as numpy arrays, text as lists."""
    return {
        name: batch.column(name).to_pylist() if _is_text(batch, name) else _numpy(batch, name)
        for name in batch.schema.names
    }


def _is_text(batch: pa.RecordBatch, name: str) -> bool:
    return hasattr(batch.column(name), "dictionary")


def _numpy(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    values: NDArray[Any] = batch.column(name).to_numpy(zero_copy_only=False)
    return values


def _raw_stacks(
    batch: pa.RecordBatch,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """pids, times, addresses end to end, lengths."""
    stacks = batch.column("addresses")
    lengths = np.diff(stacks.offsets.to_numpy()).astype(np.int64)
    return _numpy(batch, "pid"), _numpy(batch, "time"), stacks.flatten().to_numpy(), lengths
