"""Write a recording: the sink of every collector, and of anybody who makes a synthetic recording in Python."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadSpec, RunFailed
from workbench.frames import finalize, place
from workbench.frames.columns import Block, check_columns
from workbench.frames.manifest import FILE_NAME, FRAME_NAME, CollectorInfo, FileInfo, Loss, Manifest
from workbench.frames.provenance import clock, provenance
from workbench.frames.resolve import RAW_STACKS
from workbench.frames.schema import SCHEMAS, Column, schema
from workbench.frames.spool import SpoolWriter
from workbench.native.stacks import OVERFLOWED, StackInterner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from workbench.frames.manifest import Status
    from workbench.frames.recording import Recording

__all__ = ("RecordingWriter",)

RESERVE = 256 << 10
"""Bytes kept for the last manifest, so that a full disk can still say what happened."""
STACKS_PER_BATCH = 4096
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float64", "bool", "str")
NOTED = {"command", "pid", "seed", "reason", "options"}


@dataclasses.dataclass(slots=True)
class _Frame:
    """One frame being written."""

    name: str
    recorded: tuple[Column, ...]
    extra: tuple[Column, ...] = ()
    segment: int = 0
    block: Block | None = None
    spool: SpoolWriter | None = None
    rows: int = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.recorded + self.extra


class RecordingWriter:
    """Makes the recording `path`.

    Works in ``PATH.partial`` and renames it at `finish`. Everything appended before a `flush` survives the death of
    this process. Safe to use from several threads.

    Parameters
    ----------
    path : str or Path
        The folder to make.
    command : sequence of str
        What is observed, empty for a pid or the whole machine.
    pid : int, optional
        Root process, None for the whole machine (or a synthetic recording).
    collectors : sequence of str or CollectorInfo
        Which collectors record, with their options.
    options : mapping, optional
        Options of the recording as a whole (JSON values).
    frames : sequence of str
        Frames that will be there even when nothing happens.
    seed : int, optional
        Seed of whatever was random in the run.
    overwrite : bool
        Replace an earlier recording at `path`, and what a dead recorder left there. Nothing else is ever replaced.
    versions : mapping of str to str, optional
        Versions only the caller knows, such as libbpf's.
    max_stacks, max_stack_bytes : int
        Bound of the stack table; stacks beyond it are counted as lost and get id -1.

    Raises
    ------
    BadSpec
        `path` exists, or another recorder is writing to it.
    NotPermitted
        `path` cannot be written.

    Examples
    --------
    >>> with RecordingWriter("made", collectors=["cpu"]) as writer:
    ...     stack = writer.intern([1], [0x401000, 0x401234], [2])
    ...     writer.append("samples", {"time": [5], "pid": [1], "tid": [1], "cpu": [0], "comm": ["a"], "stack": stack})
    """

    def __init__(
        self,
        path: str | Path,
        *,
        command: Sequence[str] = (),
        pid: int | None = None,
        collectors: Sequence[str | CollectorInfo] = (),
        options: Mapping[str, Any] | None = None,
        frames: Sequence[str] = (),
        seed: int | None = None,
        overwrite: bool = False,
        versions: Mapping[str, str] | None = None,
        max_stacks: int = 1 << 20,
        max_stack_bytes: int = 256 << 20,
    ) -> None:
        self.path = Path(path).absolute()
        if not self.path.name or self.path.name.endswith(place.PARTIAL):
            raise BadSpec(f"{path} cannot be the name of a recording", "give a name that does not end in .partial")
        known = provenance(**(versions or {}))
        self._manifest = Manifest(
            command=tuple(command),
            pid=pid,
            recorder=known.command,
            directory=known.directory,
            recorder_pid=os.getpid(),
            collectors=tuple(
                CollectorInfo(one) if isinstance(one, str) else CollectorInfo(one.name, _plain(one.options))
                for one in collectors
            ),
            options=_plain(options or {}),
            seed=seed,
            start=known.clock,
            host=known.host,
            versions=known.versions,
            git=known.git,
        )
        self._overwrite = overwrite
        self._lock = threading.RLock()
        self._frames: dict[str, _Frame] = {}
        self._stacks = StackInterner(max_stacks, max_stack_bytes)
        self._stack_spool: SpoolWriter | None = None
        self._stack_pending = 0
        self._losses: dict[tuple[str, str], int] = {}
        self._failure: RunFailed | None = None
        self._result: Recording | None = None
        self._discarded = False
        self.folder, self._descriptor = place.claim(self.path, self._manifest, overwrite=overwrite)
        self._reserve = self.folder / ".reserve"
        try:
            self._reserve.write_bytes(os.urandom(RESERVE))
            for name in frames:
                self._frame(name)
            self._save()
        except OSError as error:
            self._failed(error, self._reserve)
            assert self._failure is not None
            self.discard()
            raise self._failure from error
        except BaseException:
            self.discard()
            raise

    # -- the sink ---------------------------------------------------------------------------------------------

    def append(self, frame: str, columns: Mapping[str, Any]) -> None:
        """Append rows to `frame`.

        Parameters
        ----------
        frame : str
            Name of a registered schema.
        columns : mapping of str to array or text
            Equally long columns, all recorded columns of the schema; declared ones may be left out. Text may be a
            sequence of str, an array of dtype S (NUL-padded, decoded as UTF-8), U or O, a pyarrow or pandas
            column, or a tuple ``(codes, names)`` of an integer array and a list of str. Arrays may be reused as
            soon as this returns.

        Raises
        ------
        BadSpec
            A column is missing, unknown, of the wrong kind or length, or holds values that do not fit.
        RunFailed
            The disk is full or broken. Raised once; rows appended later are counted as lost.
        """
        with self._lock:
            self._check_open()
            target = self._frame(frame)
            checked = check_columns(frame, target.columns, len(target.recorded), columns)
            rows = len(next(iter(checked.values()))) if checked else 0
            if self._failure:
                self._lose(frame, "disk full", rows)
                return
            if target.block is None:
                target.block = Block(target.columns)
            start = 0
            while start < rows:
                if not target.block.room:
                    self._write_out(target)
                stop = min(rows, start + target.block.room)
                target.block.put(checked, start, stop)
                start = stop

    def intern(self, pids: ArrayLike, addresses: ArrayLike, lengths: ArrayLike) -> NDArray[np.int32]:
        """Stack ids for a batch of stacks; see `Sink.intern`.

        Addresses are call sites, innermost first, kernel before user: the caller has already subtracted 1 from
        return addresses. A stack beyond the bound of the table gets -1 and is counted as lost.

        Raises
        ------
        BadSpec
            The lengths do not add up to the number of addresses.
        """
        with self._lock:
            self._check_open()
            ids = self._stacks.intern(pids, addresses, lengths)
            over = ids == OVERFLOWED
            if over.any():
                self._lose("stacks", "stack table full", int(over.sum()))
                ids[over] = -1
            if len(self._stacks) - self._stack_pending >= STACKS_PER_BATCH:
                self._write_stacks()
            return ids

    def declare(self, frame: str, name: str, dtype: str, unit: str, meaning: str) -> None:
        """Declare an extra column of an open frame. Saying the same again is allowed.

        Raises
        ------
        BadSpec
            The frame takes no extra columns, or the name is taken with another meaning.
        """
        with self._lock:
            self._check_open()
            target = self._frame(frame)
            if not schema(frame).open_columns:
                raise BadSpec(
                    f"frame {frame!r} takes no extra columns",
                    f"frames that do: {', '.join(sorted(s.name for s in SCHEMAS.values() if s.open_columns))}",
                )
            if dtype not in DTYPES or not FRAME_NAME.fullmatch(name.lower()):
                raise BadSpec(
                    f"column {name!r} of dtype {dtype!r} cannot be declared",
                    f"names are letters, digits and _; dtypes: {', '.join(DTYPES)}",
                )
            column = Column(name, dtype, unit, meaning)  # type: ignore[arg-type]
            for other in (*target.columns, *schema(frame).columns):
                if other.name == name:
                    if other.dtype == dtype and other in target.extra:
                        return
                    raise BadSpec(
                        f"frame {frame!r} already has a column {name!r} of dtype {other.dtype}",
                        "use another name",
                    )
            self._new_segment(target)
            target.extra = (*target.extra, column)
            self._save()

    # -- the rest ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand everything appended so far to the operating system: it survives the death of this process.

        Raises
        ------
        RunFailed
            The disk is full or broken.
        """
        with self._lock:
            self._check_open()
            if self._failure:
                return
            self._write_stacks()
            for frame in self._frames.values():
                self._write_out(frame)

    @property
    def rows(self) -> dict[str, int]:
        """Rows appended so far, by frame."""
        return {name: f.rows + (f.block.rows if f.block else 0) for name, f in self._frames.items()}

    @property
    def failure(self) -> RunFailed | None:
        """Why nothing more is written (disk full), or None."""
        return self._failure

    @property
    def finished(self) -> bool:
        """`finish` or `discard` was called."""
        return self._result is not None or self._discarded

    def note(self, **fields: Any) -> None:
        """Set manifest fields (command, pid, seed, reason, options); any other name becomes a note of its own."""
        with self._lock:
            self._check_open()
            known = {name: value for name, value in fields.items() if name in NOTED}
            if "command" in known:
                known["command"] = tuple(known["command"])
            if "options" in known:
                known["options"] = _plain(known["options"])
            notes = self._manifest.notes | _plain({k: v for k, v in fields.items() if k not in NOTED})
            self._manifest = dataclasses.replace(self._manifest, **known, notes=notes)
            self._save()

    def attach_file(self, name: str, data: bytes) -> None:
        """Keep a file in ``files/`` of the recording, such as ``perf-PID.map``; the same name replaces it.

        Raises
        ------
        BadSpec
            The name is more than a plain file name.
        """
        if not FILE_NAME.fullmatch(name):
            raise BadSpec(f"{name!r} cannot be the name of an attached file", "letters, digits and . _ + - only")
        with self._lock:
            self._check_open()
            if self._failure:
                return
            path = self.folder / "files" / name
            part = path.with_name(f".{name}.part")
            try:
                path.parent.mkdir(exist_ok=True)
                part.write_bytes(data)
                part.replace(path)
            except OSError as error:
                part.unlink(missing_ok=True)
                self._failed(error, path)
                raise self._failure from error  # type: ignore[misc]
            info = FileInfo(len(data), hashlib.sha256(data).hexdigest())
            files = self._manifest.files | {name: info}
            self._manifest = dataclasses.replace(self._manifest, files=files)
            self._save()

    def finish(
        self, status: Status = "complete", reason: str = "", progress: Callable[[float, str], None] | None = None
    ) -> Recording:
        """Resolve names, write Parquet, rename to `path` and return the recording. A second call returns it again.

        Parameters
        ----------
        status : {"complete", "interrupted", "failed"}
            How the recording ended; a full disk makes it interrupted.
        reason : str
            Why it is not complete.
        progress : callable, optional
            Called with the done fraction and the frame being written.

        Raises
        ------
        BadSpec
            Another recording took `path` meanwhile; the data is whole in ``PATH.partial`` and loads.
        """
        from workbench.frames.recording import load

        with self._lock:
            if self._result is not None:
                return self._result
            self._check_open()
            try:
                self._close_spools()
                self._seal(status, reason, progress)
                place.publish(self.folder, self.path, overwrite=self._overwrite)
            finally:
                self._release()
            self._result = load(self.path)
            return self._result

    def discard(self) -> None:
        """Delete what was recorded: for a recording that never began."""
        with self._lock:
            if self.finished:
                return
            self._discarded = True
            for frame in self._frames.values():
                if frame.spool:
                    frame.spool.close()
            self._release()
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finished:
            return
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("interrupted", "interrupted by the user")
        else:
            self.finish("failed", f"{type(error).__name__}: {error}".splitlines()[0])

    # -- inside -----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.finished:
            raise BadSpec(f"the recording {self.path} is finished", "make a new RecordingWriter")

    def _frame(self, name: str) -> _Frame:
        known = self._frames.get(name)
        if known is None:
            known = self._frames[name] = _Frame(name, schema(name).recorded)
            if not self._failure:
                self._save()
        return known

    def _save(self) -> None:
        """Write the manifest as it is now: a reader of a dead recorder's folder needs the columns."""
        infos = {f.name: finalize.info_of(f.name, f.columns, f.rows) for f in self._frames.values()}
        self._manifest = dataclasses.replace(self._manifest, frames=infos)
        if self._failure:
            return
        try:
            self._manifest.write(self.folder)
        except OSError as error:
            self._failed(error, self.folder / "manifest.json")
            raise self._failure from error  # type: ignore[misc]

    def _lose(self, frame: str, cause: str, rows: int) -> None:
        if rows:
            self._losses[frame, cause] = self._losses.get((frame, cause), 0) + rows

    def _new_segment(self, frame: _Frame) -> None:
        """Later rows have other columns: begin a new stream."""
        self._write_out(frame)
        if frame.spool:
            frame.spool.close()
            frame.spool = None
            frame.segment += 1
        frame.block = None

    def _write_out(self, frame: _Frame) -> None:
        block = frame.block
        if block is None or not block.rows:
            return
        self._write_stacks()  # a row on disk never names a stack that is not
        path = self.folder / "spool" / frame.name
        try:
            if frame.spool is None:
                name = finalize.segment_name(frame.name, frame.segment)
                frame.spool = SpoolWriter(self.folder / "spool", name, block.schema)
            frame.spool.write(block.batch())
        except OSError as error:
            self._failed(error, path)
            raise self._failure from error  # type: ignore[misc]
        frame.rows += block.rows
        block.clear()

    def _write_stacks(self) -> None:
        if len(self._stacks) == self._stack_pending or self._failure:
            return
        import pyarrow as pa

        new = self._stacks.new()
        offsets = np.zeros(len(new.lengths) + 1, np.int32)
        np.cumsum(new.lengths, out=offsets[1:])
        arrays = [
            pa.array(new.pids),
            pa.array(np.full(len(new.pids), time.monotonic_ns())),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(new.addresses)),
        ]
        batch = pa.RecordBatch.from_arrays(arrays, names=["pid", "time", "addresses"])
        self._stack_pending += len(new.pids)
        try:
            if self._stack_spool is None:
                self._stack_spool = SpoolWriter(self.folder / "spool", RAW_STACKS, batch.schema)
            self._stack_spool.write(batch)
        except OSError as error:
            self._failed(error, self.folder / "spool" / RAW_STACKS)
            raise self._failure from error  # type: ignore[misc]

    def _failed(self, error: OSError, path: Path) -> None:
        """Remember that nothing more can be written, and count what is still in memory as lost."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cause = "disk full" if full else f"write error: {error.strerror}"
        self._reserve.unlink(missing_ok=True)
        for frame in self._frames.values():
            if frame.block:
                self._lose(frame.name, cause, frame.block.rows)
                frame.block.clear()
        kept = sum(frame.rows for frame in self._frames.values())
        self._failure = RunFailed(
            f"recording stopped, {cause} while writing {path}",
            f"{kept} rows are kept and load; free space or record to another disk with -o",
        )
        self._manifest = dataclasses.replace(self._manifest, reason=cause)

    def _close_spools(self) -> None:
        over = [(frame, cause, rows) for (frame, cause), rows in self._losses.items()]
        try:
            for name in ("losses", "overhead"):
                self._frame(name)
            if over and not self._failure:
                self.append(
                    "losses",
                    {
                        "collector": ["recorder"] * len(over),
                        "frame": [frame for frame, _, _ in over],
                        "cause": [cause for _, cause, _ in over],
                        "lost": [rows for _, _, rows in over],
                    },
                )
                self._losses.clear()
            self.flush()
        except RunFailed:
            pass  # the failure is kept and becomes the reason
        for spool in (self._stack_spool, *(frame.spool for frame in self._frames.values())):
            if spool:
                spool.close()

    def _seal(self, status: Status, reason: str, progress: Callable[[float, str], None] | None) -> None:
        """Parquet and the last manifest; with no room for Parquet, the spool stays and the manifest says so."""
        raw = finalize.SpoolFolder(self.folder, {f.name: f.columns for f in self._frames.values()})
        self._reserve.unlink(missing_ok=True)
        end = clock()
        done = dataclasses.replace(
            self._manifest,
            status=status,
            reason=reason or self._manifest.reason,
            end=end,
            duration_ns=end.monotonic_ns - self._manifest.start.monotonic_ns,
            losses=finalize.losses_of(raw.batches("losses")),
            overhead_ns=finalize.overhead_of(raw.batches("overhead")),
        )
        try:
            infos = finalize.write_frames(self.folder, raw, progress)
            done = dataclasses.replace(done, frames=infos, storage="parquet")
        except OSError as error:
            self._failed(error, self.folder)
            for path in self.folder.glob("*.parquet"):
                path.unlink()
        if self._failure:
            own = tuple(Loss("recorder", frame, cause, n) for (frame, cause), n in self._losses.items())
            done = dataclasses.replace(
                done, status="interrupted", reason=self._manifest.reason, losses=done.losses + own
            )
        done.write(self.folder)
        if done.storage == "parquet":
            shutil.rmtree(self.folder / "spool")

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._stacks.close()


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of anything: paths and other objects as text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return plain
