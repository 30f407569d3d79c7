"""Read a recording. Needs no privilege, no BPF and no collector."""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import DamagedRecording, MissingFrame, NotPermitted
from workbench.frames import checkpoint, finalize, place
from workbench.frames.columns import arrow_schema
from workbench.frames.manifest import Manifest
from workbench.frames.resolve import Resolver, all_columns, frame_names
from workbench.frames.schema import SCHEMAS, Schema
from workbench.frames.view import first_of, left_out

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ("Recording", "load")

UNVERIFIED = "restore it from its source, or wb.load(path, verify=False) to read what can be read"


class _NoSuchFrame(MissingFrame, AttributeError):
    """So that `hasattr(recording, "samples")` answers instead of raising."""


class Recording:
    """A recording on disk; frames are read when first used and kept.

    Attributes
    ----------
    path : Path
        The folder read: PATH, or PATH.partial of a recorder that is running or died.
    name : str
    manifest : Manifest
    status : str
        complete, interrupted, failed, or recording while a live recorder writes it.

    Each frame is an attribute: ``recording.samples``. A frame's ``attrs`` hold ``schema`` (dtype, unit and meaning
    by column), ``recording`` (the path) and ``lost`` (events lost).
    """

    def __init__(
        self, folder: Path, manifest: Manifest, status: str, *, verify: bool = True
    ) -> None:
        self.path = folder
        self.name = folder.name.removesuffix(place.PARTIAL)
        self.manifest = manifest
        self.status = status
        self._verify = verify
        self._loaded: dict[str, pd.DataFrame] = {}

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of the frames there."""
        return tuple(self.manifest.frames) if self._finished else frame_names(self._raw)

    @property
    def lost(self) -> dict[str, int]:
        """Events lost, by frame; empty if none was."""
        if self._finished or self.manifest.losses or "losses" not in self.manifest.frames:
            return self.manifest.lost
        totals: dict[str, int] = {}
        for loss in finalize.losses_of(self._raw.batches("losses")):
            totals[loss.frame] = totals.get(loss.frame, 0) + loss.lost
        return totals

    @property
    def rows(self) -> dict[str, int]:
        """Rows by frame, without reading them (frame `stacks` of an unfinished recording is left out)."""
        if self._finished:
            return {name: info.rows for name, info in self.manifest.frames.items()}
        return {name: self._raw.rows(name) for name in self.manifest.frames}

    def schema(self, name: str) -> Schema:
        """The schema of a frame as this recording has it, with the columns it declared itself."""
        self.require(name)
        if self._finished:
            return self.manifest.frames[name].schema(name)
        return finalize.info_of(name, all_columns(self._raw, name)).schema(name)

    def require(self, *names: str) -> None:
        """Check that frames are there.

        Raises
        ------
        MissingFrame
            Lists what is missing, what is there, and which collector records the missing ones.
        """
        missing = [name for name in names if name not in self.frames]
        if not missing:
            return
        by = [
            f"{name} is recorded by {SCHEMAS[name].recorded_by}"
            if name in SCHEMAS
            else f"{name} is no known frame"
            for name in missing
        ]
        raise _NoSuchFrame(
            f"recording {self.name!r} has no frame {', '.join(map(repr, missing))}; "
            f"it has {', '.join(self.frames) or 'none'}",
            "; ".join(by),
        )

    def frame(self, name: str) -> pd.DataFrame:
        """A frame, read on first use; later calls return the same object.

        Raises
        ------
        MissingFrame
            The recording does not have it.
        DamagedRecording
            Its file is missing, truncated or was changed.
        """
        self.require(name)
        if name not in self._loaded:
            table = self._parquet(name) if self._finished else self._spooled(name)
            if any(column.null_count for column in table.columns):  # we write none
                raise DamagedRecording(
                    f"frame {name} of {self.path} has rows without a value",
                    "restore it from its source",
                )
            frame = finalize.compact(table).to_pandas(split_blocks=True, self_destruct=True)
            frame.attrs = {
                "schema": {
                    column.name: {
                        "dtype": column.dtype,
                        "unit": column.unit,
                        "meaning": column.meaning,
                    }
                    for column in self.schema(name).columns
                },
                "recording": str(self.path),
                "lost": self.lost.get(name, 0),
            }
            self._loaded[name] = frame
        return self._loaded[name]

    @property
    def overhead(self) -> pd.DataFrame:
        """What recording cost the target, one row per probe (frame `overhead`)."""
        return self.frame("overhead")

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in SCHEMAS or name in self.frames:
            return self.frame(name)
        raise _NoSuchFrame(
            f"recording {self.name!r} has no frame or attribute {name!r}",
            f"frames: {', '.join(self.frames)}",
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.frames})

    def file(self, name: str) -> bytes:
        """Content of an attached file (``manifest.files`` lists them)."""
        if name not in self.manifest.files:
            raise MissingFrame(
                f"recording {self.name!r} has no file {name!r}",
                f"files: {', '.join(self.manifest.files) or 'none'}",
            )
        path = place.inside(self.path, self.path / "files" / name)
        info = self.manifest.files[name]
        if self._verify and finalize.digest(path) != info.sha256:
            raise DamagedRecording(f"{path} was changed: its checksum does not match", UNVERIFIED)
        return path.read_bytes()

    @property
    def _finished(self) -> bool:
        return self.manifest.storage == "parquet"

    @cached_property
    def _raw(self) -> finalize.SpoolFolder:
        columns = {
            name: tuple(column for column in info.columns if not column.resolve)
            for name, info in self.manifest.frames.items()
        }
        return finalize.SpoolFolder(
            self.path, columns, boot_id=self.manifest.host.boot_id, verify=self._verify
        )

    @cached_property
    def _resolver(self) -> Resolver:
        return Resolver(self._raw)

    def _spooled(self, name: str) -> pa.Table:
        import pyarrow as pa

        schema = arrow_schema(self._resolver.columns(name))
        return pa.Table.from_batches(self._resolver.batches(name), schema)

    def _parquet(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        info = self.manifest.frames[name]
        path = place.inside(self.path, self.path / f"{name}.parquet")
        if self._verify and finalize.digest(path) != info.sha256:
            raise DamagedRecording(f"{path} was changed: its checksum does not match", UNVERIFIED)
        try:
            table = pq.read_table(path, partitioning=None)
            table.validate(full=True)
        except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
            raise DamagedRecording(
                f"{path} cannot be read: {error}", "restore it from its source"
            ) from error
        wanted = arrow_schema(info.columns)
        if not table.schema.equals(wanted):
            raise DamagedRecording(
                f"{path} does not have the columns that the manifest declares",
                "restore it from its source",
            )
        return table

    def __repr__(self) -> str:
        facts = self._facts()
        width = max(len(key) for key, _ in facts)
        return "\n".join(f"{key.ljust(width)}  {value}" for key, value in facts)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self._facts()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        m = self.manifest
        what = " ".join(m.command) or (f"pid {m.pid}" if m.pid is not None else "the whole machine")
        seconds = f", {m.duration_ns / 1e9:.1f} s" if m.end else ""
        frames = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        try:
            lost = ", ".join(
                f"{name} {count:,}{self._main_cause(name)}" for name, count in self.lost.items() if count
            )
        except DamagedRecording:
            lost = "not known, frame losses is damaged"
        missing = first_of(left_out(m.notes))
        return [
            ("recording", self.name),
            ("of", what),
            ("collectors", ", ".join(one.name for one in m.collectors) or "none"),
            ("when", m.start.wall + seconds),
            (
                "host",
                f"{m.host.hostname}, {m.host.system} {m.host.kernel}, {m.host.cpus} x {m.host.cpu}",
            ),
            ("frames", f"{frames} (rows)" if frames else "none"),
            *([("left out", missing)] if missing else []),
            *(("note", str(one)) for one in m.notes.get("warnings", ())),
            *([("counts", self.counts_as_of)] if self.counts_as_of else []),
            ("lost", lost or "nothing"),
            ("status", f"{self.status}: {m.reason}" if m.reason else self.status),
        ]

    @property
    def counts_as_of(self) -> str:
        """What a recorder that died, or still records, has kept of what is counted in maps; empty when it is all."""
        of = ", ".join(map(str, self.manifest.notes.get("counted_in_maps", ())))
        if self._finished or not of:
            return ""
        kept = checkpoint.find(self.path / "spool")
        if kept is None:
            return f"none of {of}: they were in maps, which end with the recorder"
        after = (kept[1] - self.manifest.start.monotonic_ns) / 1e9
        return f"of {of} as of {after:.1f} s after the start; later ones were in maps, which end with the recorder"

    def _main_cause(self, frame: str) -> str:
        """Why most of a frame's lost events were lost, as far as the manifest knows."""
        causes = [one for one in self.manifest.losses if one.frame == frame and one.lost]
        if not causes:
            return ""
        first = max(causes, key=lambda one: one.lost)
        return f" ({'mostly: ' if len(causes) > 1 else ''}{first.cause})"


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Every file of a finished recording is there and has its size; contents are checked when read."""
    sizes = {folder / "files" / name: info.bytes for name, info in manifest.files.items()}
    if manifest.storage == "parquet":
        sizes |= {folder / f"{name}.parquet": info.bytes for name, info in manifest.frames.items()}
    for path, size in sizes.items():
        actual = place.inside(folder, path).stat().st_size
        if actual != size:
            raise DamagedRecording(
                f"{path} has {actual} bytes instead of {size}: it is truncated or changed",
                UNVERIFIED,
            )


def load(path: str | Path, *, verify: bool = True) -> Recording:
    """Open the recording at `path`, or at ``PATH.partial`` what a running or dead recorder has written so far.

    Parameters
    ----------
    path : str or Path
        The folder.
    verify : bool
        Check sizes now and checksums when a frame is read. False reads a recording that was edited by hand.

    Raises
    ------
    DamagedRecording
        Not a recording, or damaged; the message names the file.
    NewerRecording
        Written by a newer workbench.
    NotPermitted
        The place may not be looked at.
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            partial = place.partial_of(folder) if folder.name else folder
            if not partial.is_dir():
                raise DamagedRecording(
                    f"there is no recording at {folder}",
                    "give the folder that `workbench record -o` wrote",
                )
            folder = partial
    except OSError as error:
        raise NotPermitted(
            f"{folder} cannot be opened: {error.strerror}",
            "run as its owner, or copy the recording to where you may read it",
        ) from error
    manifest = Manifest.read(folder, verify=verify)
    status: str = manifest.status
    if status == "recording" and not place.is_live(folder):
        status = "interrupted"
    if verify:
        _check_files(folder, manifest)
    return Recording(folder, manifest, status, verify=verify)
