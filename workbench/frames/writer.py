"""Write a recording: the sink of every collector, and of anybody who makes a synthetic recording in Python."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadSpec, RunFailed
from workbench.frames import checkpoint, finalize, place
from workbench.frames.begun import begun, plain
from workbench.frames.live import LiveFrames
from workbench.frames.manifest import FILE_NAME, FileInfo, Loss
from workbench.frames.provenance import clock
from workbench.frames.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike, NDArray

    from workbench.frames.manifest import CollectorInfo, FrameInfo, Status
    from workbench.frames.provenance import Clock
    from workbench.frames.recording import Recording

__all__ = ("RecordingWriter",)

RESERVE = 256 << 10
"""Bytes kept for the last manifest, so that a full disk can still say what happened."""
NOTED = {"command", "pid", "seed", "reason", "options"}


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
        Bound of the stacks remembered at a time: one seen again after many others gets a second id.

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
        max_stacks: int = 1 << 18,
        max_stack_bytes: int = 32 << 20,
    ) -> None:
        self.path = Path(path).absolute()
        if not self.path.name or self.path.name.endswith(place.PARTIAL):
            raise BadSpec(
                f"{path} cannot be the name of a recording",
                "give a name that does not end in .partial",
            )
        self._manifest = begun(command, pid, collectors, options or {}, seed, versions or {})
        self._end: Clock | None = None
        self._overwrite = overwrite
        self._lock = threading.RLock()
        self._cause = ""
        self._failure: RunFailed | None = None
        self._result: Recording | None = None
        self._ended = False
        spool = place.partial_of(self.path) / "spool"
        self._live = LiveFrames(spool, max_stacks, max_stack_bytes)
        self.folder, self._descriptor = place.claim(self.path, self._manifest, overwrite=overwrite)
        self._reserve = self.folder / place.RESERVE
        try:
            with self._writing():
                self._reserve.write_bytes(os.urandom(RESERVE))
            for name in frames:
                if name != "stacks":  # comes with any frame that has a stack column
                    self._live.frame(name)
            self._save()
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
            if frame not in self._live.frames:  # its columns must be on disk before its rows
                self._live.frame(frame)
                self._save()
            with self._writing():
                self._live.append(frame, columns, lose=self._cause)

    def intern(
        self,
        pids: ArrayLike,
        addresses: ArrayLike,
        lengths: ArrayLike,
        times: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int32]:
        """Stack ids for a batch of stacks; see `Sink.intern`.

        Addresses are call sites, innermost first, kernel before user: the caller has already subtracted 1 from
        return addresses. `times` (int64 ns, shape (n,)) say when each was taken, which tells the mappings before
        an exec from those after it; without them, it is now. A stack beyond the bound of the table gets -1 and is
        counted as lost.

        Raises
        ------
        BadSpec
            The lengths do not add up to the number of addresses.
        """
        with self._lock, self._writing():
            self._check_open()
            return self._live.intern(pids, addresses, lengths, times, write=not self._cause)

    def declare(self, frame: str, name: str, dtype: str, unit: str, meaning: str) -> None:
        """Declare an extra column of an open frame. Saying the same again is allowed.

        Raises
        ------
        BadSpec
            The frame takes no extra columns, or the name is taken with another meaning.
        """
        with self._lock:
            self._check_open()
            with self._writing():
                new = self._live.declare(frame, name, dtype, unit, meaning)
            if new:
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
            if not self._failure:
                with self._writing():
                    self._live.flush()

    def checkpoint(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep rows that are only final at the end, as they are now: all that there is if this process dies.

        Parameters
        ----------
        rows : sequence of (frame, columns)
            As for `append`. They replace those of the call before, and are left out of a finished recording.
        """
        with self._lock:
            self._check_open()
            if self._failure:
                return
            new = [name for name, _ in rows if name not in self._live.frames]
            for name in new:
                self._live.frame(name)
            if new:
                self._save()
            with contextlib.suppress(OSError):  # the rows themselves will say that the disk is full
                checkpoint.write(self.folder / "spool", rows, clock().monotonic_ns)

    @property
    def rows(self) -> dict[str, int]:
        """Rows appended so far, by frame."""
        return {frame.name: frame.rows + frame.pending for frame in self._live.frames.values()}

    @property
    def failure(self) -> RunFailed | None:
        """Why nothing more is written (disk full), or None."""
        return self._failure

    @property
    def finished(self) -> bool:
        """`finish` or `discard` was called."""
        return self._ended

    def begin(self, *, save: bool = True) -> Clock:
        """The first event may come now: `start` of the manifest. Without this call, when the writer was made.

        Returns the time. `save=False` leaves the time of the last call on disk for now, and so takes microseconds.
        """
        with self._lock:
            self._check_open()
            now = clock()
            self._manifest = dataclasses.replace(self._manifest, start=now)
            if save:
                self._save()
        return now

    def end(self) -> Clock:
        """No event comes any more: `end` of the manifest. Without this call, when `finish` is called."""
        self._end = clock()
        return self._end

    def note(self, **fields: Any) -> None:
        """Set manifest fields (command, pid, seed, reason, options); any other name becomes a note of its own."""
        with self._lock:
            self._check_open()
            known = {name: value for name, value in fields.items() if name in NOTED}
            if "command" in known:
                known["command"] = tuple(known["command"])
            if "options" in known:
                known["options"] = plain(known["options"])
            notes = self._manifest.notes | plain(
                {k: v for k, v in fields.items() if k not in NOTED}
            )
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
            raise BadSpec(
                f"{name!r} cannot be the name of an attached file",
                "letters, digits and . _ + - only",
            )
        with self._lock:
            self._check_open()
            if self._failure:
                return
            path = self.folder / "files" / name
            part = path.with_name(f".{name}.part")
            with self._writing():
                try:
                    path.parent.mkdir(exist_ok=True)
                    part.write_bytes(data)
                    part.replace(path)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise
            info = FileInfo(len(data), hashlib.sha256(data).hexdigest())
            files = self._manifest.files | {name: info}
            self._manifest = dataclasses.replace(self._manifest, files=files)
            self._save()

    def finish(
        self,
        status: Status = "complete",
        reason: str = "",
        progress: Callable[[float, str], None] | None = None,
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

        if status not in ("complete", "interrupted", "failed"):
            raise BadSpec(
                f"a recording cannot end as {status!r}", "complete, interrupted or failed"
            )
        with self._lock:
            if self._result is not None:
                return self._result
            self._check_open()
            try:
                self._last_rows()
                self._seal(status, reason, progress)
                place.publish(self.folder, self.path, overwrite=self._overwrite)
            finally:
                self._ended = True
                self._release()
            self._result = load(self.path)
            return self._result

    def discard(self) -> None:
        """Delete what was recorded: for a recording that never began."""
        with self._lock:
            if self.finished:
                return
            self._ended = True
            self._release()
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an error of the disk into the recording's one failure."""
        try:
            yield
        except OSError as error:
            raise self._fail(error) from error

    def _fail(self, error: OSError) -> RunFailed:
        """Remember that nothing more can be written, and count what is still in memory as lost."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        self._cause = "disk full" if full else f"write error: {error.strerror}"
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        self._live.drop(self._cause)
        self._failure = RunFailed(
            f"recording stopped, {self._cause} ({error.filename or self.folder})",
            f"{self._live.kept} rows are kept and load; free space or record to another disk with -o",
        )
        return self._failure

    def _save(self) -> None:
        """Write the manifest as it is now: a reader of a dead recorder's folder needs the columns."""
        self._manifest = dataclasses.replace(self._manifest, frames=self._infos())
        if not self._failure:
            with self._writing():
                self._manifest.write(self.folder)

    def _infos(self) -> dict[str, FrameInfo]:
        frames = self._live.frames.values()
        return {one.name: finalize.info_of(one.name, one.columns, one.rows) for one in frames}

    def _last_rows(self) -> None:
        """The writer's own losses, and everything that is still in memory."""
        own = list(self._live.losses.items())
        with contextlib.suppress(RunFailed):  # kept as the failure, and becomes the reason
            for name in ("losses", "overhead"):
                self._live.frame(name)
            if own and not self._failure:
                self.append(
                    "losses",
                    {
                        "collector": ["recorder"] * len(own),
                        "frame": [frame for (frame, _), _ in own],
                        "cause": [cause for (_, cause), _ in own],
                        "lost": [rows for _, rows in own],
                    },
                )
                self._live.losses.clear()
            self.flush()
            checkpoint.drop(self.folder / "spool")
        self._live.close_streams()

    def _seal(
        self, status: Status, reason: str, progress: Callable[[float, str], None] | None
    ) -> None:
        """Parquet and the last manifest; with no room for Parquet, the spool stays and the manifest says so."""
        raw = finalize.SpoolFolder(
            self.folder,
            {f.name: f.columns for f in self._live.frames.values()},
            boot_id=self._manifest.host.boot_id,
            live=True,
        )
        self._reserve.unlink(missing_ok=True)
        end = self._end or clock()
        done = dataclasses.replace(
            self._manifest,
            status=status,
            frames=self._infos(),
            reason=reason or self._manifest.reason,
            end=end,
            duration_ns=end.monotonic_ns - self._manifest.start.monotonic_ns,
            losses=finalize.losses_of(raw.batches("losses")),
            overhead_ns=finalize.overhead_of(raw.batches("overhead")),
        )
        resolver = Resolver(raw, progress)
        try:
            infos = finalize.write_frames(self.folder, raw, resolver, progress)
            done = dataclasses.replace(done, frames=infos, storage="parquet")
        except OSError as error:
            self._fail(error)
            for path in self.folder.glob("*.parquet"):
                path.unlink()
        if self._failure:
            own = tuple(
                Loss("recorder", frame, cause, rows)
                for (frame, cause), rows in self._live.losses.items()
            )
            done = dataclasses.replace(
                done, status="interrupted", reason=self._cause, losses=done.losses + own
            )
        done.write(self.folder, durable=True)
        if done.storage == "parquet":
            shutil.rmtree(self.folder / "spool")

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._live.close()
