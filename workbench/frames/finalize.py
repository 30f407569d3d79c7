"""From the spool to the finished recording: one zstd Parquet per frame, batch by batch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.frames import checkpoint, provenance
from workbench.frames.columns import arrow_schema
from workbench.frames.manifest import FrameInfo, Loss
from workbench.frames.place import inside
from workbench.frames.resolve import RAW_STACKS, NameSources, Raw, Resolver
from workbench.frames.schema import SCHEMAS
from workbench.frames.spool import SpoolReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pyarrow as pa

    from workbench.frames.schema import Column

__all__ = ("SpoolFolder", "compact", "digest", "losses_of", "overhead_of", "write_frames")

ROW_GROUP = 1 << 17


class SpoolFolder(Raw):
    """The spool of a recording folder as `Raw`.

    Parameters
    ----------
    folder : Path
        The recording.
    columns : mapping of str to tuple of Column
        Recorded columns of each frame, in order.
    boot_id : str
        Boot of the recording: another boot's kernel addresses are not looked up in this one's symbols.
    live : bool
        The recorded processes may still be there: the files they write for profilers are read.
    verify : bool
        A batch with a wrong checksum is an error; else reading ends there.
    """

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, tuple[Column, ...]],
        *,
        boot_id: str = "",
        live: bool = False,
        verify: bool = True,
    ) -> None:
        self._boot_id = boot_id
        self._live = live
        self._folder = folder
        self._spool = folder / "spool"
        self._files = folder / "files"
        self._columns = dict(columns)
        # Rows first, then the stacks they name: a recorder that is running writes them the other way round.
        self._streams = {
            frame: [SpoolReader(path, verify=verify) for path in self._segments(frame)]
            for frame in (*columns, RAW_STACKS)
        }

    def names(self) -> tuple[str, ...]:
        extra = (RAW_STACKS,) if self._streams[RAW_STACKS] else ()
        return (*self._columns, *extra)

    def columns(self, frame: str) -> tuple[Column, ...]:
        return self._columns[frame]

    def _segments(self, frame: str) -> Iterator[Path]:
        """Stream files of a frame in order; a new one begins where columns were declared late."""
        number = 0
        while os.path.lexists(path := self._spool / f"{segment_name(frame, number)}.arrow"):
            if os.path.lexists(index := path.with_suffix(".index")):
                inside(self._folder, index)
            yield inside(self._folder, path)
            number += 1
        kept = checkpoint.find(self._spool)
        if kept and os.path.lexists(path := kept[0] / f"{segment_name(frame, 0)}.arrow"):
            yield inside(self._folder, path)

    def rows(self, frame: str) -> int:
        """Rows that the indices promise."""
        return sum(stream.rows for stream in self._streams[frame])

    def batches(self, frame: str) -> Iterator[pa.RecordBatch]:
        for stream in self._streams[frame]:
            for batch in stream.batches():
                yield (
                    batch
                    if frame == RAW_STACKS
                    else _widen(batch, self._columns[frame], stream.path)
                )

    def names_sources(self) -> NameSources:
        maps: dict[int, bytes] = {}
        for path in sorted(self._files.glob("perf-*.map")):
            pid = path.name[5:-4]
            if pid.isdecimal():
                maps[int(pid)] = inside(self._folder, path).read_bytes()
        jit = None if self._live and not maps else maps
        kallsyms = self._files / "kallsyms"
        if os.path.lexists(kallsyms):
            inside(self._folder, kallsyms)
        else:
            here = provenance.host().boot_id
            same_boot = bool(here) and here == self._boot_id
            return NameSources(jit, Path("/proc/kallsyms") if same_boot else None)
        return NameSources(jit, kallsyms)


def segment_name(frame: str, number: int) -> str:
    """Name of a frame's n-th stream file, without suffix."""
    return f"{frame}.{number}" if number else frame


def _widen(batch: pa.RecordBatch, columns: tuple[Column, ...], path: Path) -> pa.RecordBatch:
    """The batch with all columns: those declared after it was written get 0, NaN or the empty text."""
    import pyarrow as pa

    from workbench.errors import DamagedRecording

    schema = arrow_schema(columns)
    if batch.schema.equals(schema):
        return batch
    arrays = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        if at >= 0 and batch.schema.field(at).type != field.type:
            raise DamagedRecording(
                f"{path}: column {field.name!r} is {batch.schema.field(at).type}, not {field.type}",
                "the manifest and the spool are not of the same recording; restore the folder",
            )
        arrays.append(batch.column(at) if at >= 0 else _blank(field.type, batch.num_rows))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _blank(kind: pa.DataType, rows: int) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([""], pa.utf8()))
    if pa.types.is_floating(kind):
        return pa.array(np.full(rows, np.nan))
    return pa.array(np.zeros(rows, kind.to_pandas_dtype()))


def compact(table: pa.Table) -> pa.Table:
    """The table with one chunk per column, whose dictionaries hold only the names that its rows use."""
    import pyarrow as pa

    columns = [_compact(column) for column in table.unify_dictionaries().columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _compact(column: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(whole.type) or not len(whole):
        return whole
    codes = whole.indices.to_numpy()
    used = np.zeros(len(whole.dictionary), bool)
    used[codes] = True
    if used.all():
        return whole
    renumbered = (np.cumsum(used, dtype=np.int32) - 1).astype(np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(renumbered[codes]), whole.dictionary.filter(pa.array(used)), safe=False
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_parquet(
    path: Path,
    columns: tuple[Column, ...],
    batches: Iterator[pa.RecordBatch],
    advance: Callable[[int], None],
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(columns)
    text = [column.name for column in columns if column.dtype == "str"]
    repeated = [*text, *(name for name in ("pid", "tid", "cpu", "stack") if name in schema.names)]
    encoding = {"time": "DELTA_BINARY_PACKED"} if "time" in schema.names else None
    rows = 0
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=repeated or False, column_encoding=encoding
    ) as writer:
        pending: list[pa.RecordBatch] = []
        held = 0

        def put() -> None:
            writer.write_table(
                compact(pa.Table.from_batches(pending, schema)), row_group_size=max(held, 1)
            )

        for batch in batches:
            pending.append(batch)
            held += batch.num_rows
            rows += batch.num_rows
            advance(batch.num_rows)
            if held >= ROW_GROUP:
                put()
                pending, held = [], 0
        if held:
            put()
    return rows


def write_frames(
    folder: Path,
    raw: SpoolFolder,
    resolver: Resolver,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, FrameInfo]:
    """Write ``NAME.parquet`` for every frame of `raw` into `folder`, names resolved.

    Memory does not grow with the number of rows, only with distinct stacks and addresses.

    Raises
    ------
    OSError
        A file could not be written (disk full); no half-written Parquet file remains.
    """
    total = max(sum(raw.rows(name) for name in raw.names()), 1)
    done = 0
    infos: dict[str, FrameInfo] = {}
    for name in resolver.frames:
        columns = resolver.columns(name)
        path = folder / f"{name}.parquet"
        part = folder / f".{name}.parquet.part"

        def advance(rows: int, name: str = name) -> None:
            nonlocal done
            done += rows
            if progress:
                progress(min(done / total, 1.0), name)

        try:
            rows = _write_parquet(part, columns, resolver.batches(name), advance)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        infos[name] = info_of(name, columns, rows, path)
    return infos


def info_of(
    name: str, columns: tuple[Column, ...], rows: int = 0, path: Path | None = None
) -> FrameInfo:
    """Manifest entry of a frame; with `path`, of its finished file."""
    schema = SCHEMAS.get(name)
    known = set(schema.names) if schema else set()
    return FrameInfo(
        rows=rows,
        bytes=path.stat().st_size if path else 0,
        sha256=digest(path) if path else "",
        meaning=schema.meaning if schema else "",
        recorded_by=schema.recorded_by if schema else "",
        columns=columns,
        extra=tuple(column.name for column in columns if column.name not in known),
    )


def losses_of(batches: Iterator[pa.RecordBatch]) -> tuple[Loss, ...]:
    """Totals of frame `losses` by collector, frame and cause, without rows that lost nothing."""
    totals: dict[tuple[str, str, str], int] = {}
    for batch in batches:
        for row in batch.to_pylist():
            key = (row["collector"], row["frame"], row["cause"])
            totals[key] = totals.get(key, 0) + row["lost"]
    return tuple(Loss(*key, lost) for key, lost in totals.items() if lost)


def overhead_of(batches: Iterator[pa.RecordBatch]) -> dict[str, float]:
    """Total estimated cost in ns by collector, from frame `overhead`."""
    totals: dict[str, float] = {}
    for batch in batches:
        for row in batch.to_pylist():
            totals[row["collector"]] = totals.get(row["collector"], 0.0) + row["total"]
    return totals
