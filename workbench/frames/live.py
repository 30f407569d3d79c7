"""Frames and stacks while they are recorded: collected in blocks, written to the spool block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from workbench.errors import BadSpec
from workbench.frames.columns import Block, check_columns
from workbench.frames.declaration import Kind
from workbench.frames.finalize import segment_name
from workbench.frames.manifest import FRAME_NAME
from workbench.frames.resolve import RAW_STACKS
from workbench.frames.schema import SCHEMAS, Column, schema
from workbench.frames.spool import SpoolWriter
from workbench.frames.stack_table import StackTable
from workbench.native.stacks import OVERFLOWED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = ("LiveFrame", "LiveFrames")

STACKS_PER_BATCH = 4096
STACKS_TWICE = "frame `stacks` is appended directly and stacks are interned as well"
DTYPES = get_args(Kind)


@dataclass(slots=True)
class LiveFrame:
    """One frame being written; ``rows`` counts those on disk."""

    name: str
    recorded: tuple[Column, ...]
    extra: tuple[Column, ...] = ()
    segment: int = 0
    block: Block | None = None
    spool: SpoolWriter | None = None
    rows: int = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        """Recorded columns, then those declared by this recording."""
        return self.recorded + self.extra

    @property
    def pending(self) -> int:
        """Rows in memory."""
        return self.block.rows if self.block else 0


class LiveFrames:
    """Every frame of one recording while it is made.

    Methods raise BadSpec for a caller's mistake and OSError (with the file's name) when the disk does not take it.

    Parameters
    ----------
    spool : Path
        Folder of the streams.
    max_stacks, max_stack_bytes : int
        Bound of the stacks remembered at a time.
    """

    def __init__(self, spool: Path, max_stacks: int, max_stack_bytes: int) -> None:
        self.frames: dict[str, LiveFrame] = {}
        self.losses: dict[tuple[str, str], int] = {}
        self._folder = spool
        self._stacks = StackTable(max_stacks, max_stack_bytes)
        self._stack_spool: SpoolWriter | None = None
        self._given_stacks = False

    @property
    def kept(self) -> int:
        """Rows on disk."""
        return sum(frame.rows for frame in self.frames.values())

    def frame(self, name: str) -> LiveFrame:
        """The frame of a registered schema, new or known."""
        known = self.frames.get(name)
        if known is None:
            known = self.frames[name] = LiveFrame(name, schema(name).recorded)
        return known

    def append(self, name: str, columns: Mapping[str, Any], *, lose: str = "") -> None:
        """Copy rows into the frame's block, writing full blocks; with `lose` only count them, as lost for that."""
        if name == "stacks":
            if len(self._stacks):
                raise BadSpec(STACKS_TWICE, "use one of them")
            self._given_stacks = True
        frame = self.frame(name)
        checked = check_columns(name, frame.columns, len(frame.recorded), columns)
        rows = len(next(iter(checked.values()))) if checked else 0
        if lose:
            self.lose(name, lose, rows)
            return
        if frame.block is None:
            frame.block = Block(frame.columns)
        start = 0
        while start < rows:
            if not frame.block.room:
                self._write_out(frame)
            stop = min(rows, start + frame.block.room)
            frame.block.put(checked, start, stop)
            start = stop

    def declare(self, name: str, column: str, dtype: str, unit: str, meaning: str) -> bool:
        """Add a column to an open frame; False if it is there already with the same meaning."""
        frame = self.frame(name)
        if not schema(name).open_columns:
            raise BadSpec(
                f"frame {name!r} takes no extra columns",
                f"frames that do: {', '.join(sorted(s.name for s in SCHEMAS.values() if s.open_columns))}",
            )
        if dtype not in DTYPES or not FRAME_NAME.fullmatch(column.lower()):
            raise BadSpec(
                f"column {column!r} of dtype {dtype!r} cannot be declared",
                f"names are letters, digits and _; dtypes: {', '.join(DTYPES)}",
            )
        new = Column(column, dtype, unit, meaning)  # type: ignore[arg-type]
        for other in (*frame.columns, *schema(name).columns):
            if other.name == column:
                if other.dtype == dtype and other in frame.extra:
                    return False
                raise BadSpec(
                    f"frame {name!r} already has a column {column!r} of dtype {other.dtype}",
                    "use another name",
                )
        self._write_out(frame)
        if frame.spool:  # rows from here on have other columns: a new stream
            frame.spool.close()
            frame.spool = None
            frame.segment += 1
        frame.block = None
        frame.extra = (*frame.extra, new)
        return True

    def intern(
        self,
        pids: ArrayLike,
        addresses: ArrayLike,
        lengths: ArrayLike,
        times: NDArray[np.int64] | None,
        *,
        write: bool,
    ) -> NDArray[np.int32]:
        """Ids of stacks; one that is larger than the whole table gets -1 and is counted as lost."""
        if self._given_stacks:
            raise BadSpec(STACKS_TWICE, "use one of them")
        ids = self._stacks.intern(pids, addresses, lengths, times, keep=write)
        over = ids == OVERFLOWED
        if over.any():
            self.lose("stacks", "stack larger than the table", int(over.sum()))
            ids[over] = -1
        if write and self._stacks.waiting >= STACKS_PER_BATCH:
            self._write_stacks()
        return ids

    def flush(self) -> None:
        """Write everything that is in memory."""
        self._write_stacks()
        for frame in self.frames.values():
            self._write_out(frame)

    def lose(self, name: str, cause: str, rows: int) -> None:
        """Count rows as lost."""
        if rows:
            self.losses[name, cause] = self.losses.get((name, cause), 0) + rows

    def drop(self, cause: str) -> None:
        """Forget the rows in memory and count them as lost."""
        for frame in self.frames.values():
            if frame.block:
                self.lose(frame.name, cause, frame.pending)
                frame.block.clear()

    def close_streams(self) -> None:
        """Close the files; nothing can be written after it."""
        for spool in (self._stack_spool, *(frame.spool for frame in self.frames.values())):
            if spool:
                spool.close()

    def close(self) -> None:
        """Close the files and free the stack table."""
        self.close_streams()
        self._stacks.close()

    def _write_out(self, frame: LiveFrame) -> None:
        block = frame.block
        if block is None or not block.rows:
            return
        self._write_stacks()  # a row on disk never names a stack that is not
        if frame.spool is None:
            name = segment_name(frame.name, frame.segment)
            frame.spool = SpoolWriter(self._folder, name, block.schema)
        frame.spool.write(block.batch())
        frame.rows += block.rows
        block.clear()

    def _write_stacks(self) -> None:
        for batch in self._stacks.take() if self._stacks.waiting else ():
            if self._stack_spool is None:
                self._stack_spool = SpoolWriter(self._folder, RAW_STACKS, batch.schema)
            self._stack_spool.write(batch)
