"""`manifest.json`: what a recording is, how and where it was made, and which files belong to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import DamagedRecording, NewerRecording
from workbench.frames.provenance import Clock, Git, Host
from workbench.frames.schema import Column, Schema

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("CollectorInfo", "FileInfo", "FrameInfo", "Loss", "Manifest", "Status")

FORMAT = "workbench-recording"
VERSION = 1
NAME = "manifest.json"
FRAME_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
MANIFEST_LIMIT = 64 << 20

Status = Literal["recording", "complete", "interrupted", "failed"]
Storage = Literal["spool", "parquet"]


@dataclass(frozen=True, slots=True)
class CollectorInfo:
    """A collector as it was asked for; ``options`` are JSON values."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in ``files/``."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """A frame of the recording. Its declaration travels along, so that a reader needs no collector.

    Attributes
    ----------
    bytes, sha256 : int, str
        Of ``NAME.parquet``; 0 and empty while the frame is still in the spool.
    columns : tuple of Column
        All columns, in order.
    extra : tuple of str
        Those that this recording declared beyond the schema.
    """

    rows: int
    bytes: int
    sha256: str
    meaning: str
    recorded_by: str
    columns: tuple[Column, ...]
    extra: tuple[str, ...] = ()

    def schema(self, name: str) -> Schema:
        """The frame's declaration as this recording has it."""
        return Schema(
            name, self.meaning, self.columns, self.recorded_by, open_columns=bool(self.extra)
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """Events of one frame that were lost for one cause."""

    collector: str
    frame: str
    cause: str
    lost: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a recording says about itself.

    Attributes
    ----------
    status : str
        recording, complete, interrupted or failed; ``reason`` says why it is not complete.
    command, pid : tuple of str, int or None
        What was observed.
    recorder : tuple of str
        Command line that recorded; ``directory`` is where it ran.
    start, end : Clock
        ``end`` is None while recording and after the recorder's death.
    duration_ns : int
        From start to end.
    storage : str
        ``parquet`` once finished, ``spool`` before.
    losses : tuple of Loss
        Totals by collector, frame and cause.
    overhead_ns : dict of str to float
        Estimated cost to the target, by collector.
    notes : dict
        Free JSON values of whoever recorded.
    """

    status: Status = "recording"
    reason: str = ""
    command: tuple[str, ...] = ()
    pid: int | None = None
    recorder: tuple[str, ...] = ()
    directory: str = ""
    recorder_pid: int = 0
    collectors: tuple[CollectorInfo, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    start: Clock = field(default_factory=Clock)
    end: Clock | None = None
    duration_ns: int = 0
    host: Host = field(default_factory=Host)
    versions: dict[str, str] = field(default_factory=dict)
    git: Git | None = None
    storage: Storage = "spool"
    frames: dict[str, FrameInfo] = field(default_factory=dict)
    files: dict[str, FileInfo] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()
    overhead_ns: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> dict[str, int]:
        """Lost events by frame."""
        totals: dict[str, int] = {}
        for loss in self.losses:
            totals[loss.frame] = totals.get(loss.frame, 0) + loss.lost
        return totals

    def write(self, folder: Path, *, durable: bool = False) -> None:
        """Replace ``manifest.json`` in `folder`; a reader sees the old or the new one, never a part.

        With `durable` it also survives the death of the machine from here on.
        """
        path = folder / NAME
        part = folder / f".{NAME}.part"
        try:
            with part.open("w", encoding="utf-8") as stream:
                stream.write(encode(self))
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, folder: Path, *, verify: bool = True) -> Manifest:
        """The manifest in `folder`.

        Raises
        ------
        DamagedRecording
            There is none, it is no JSON, a value has the wrong type, or (unless ``verify=False``) it was changed
            after it was written.
        NewerRecording
            It was written by a later version of the format.
        """
        path = folder / NAME
        try:
            if path.stat().st_size > MANIFEST_LIMIT:
                raise DamagedRecording(
                    f"{path} is larger than any manifest", "restore the file from its source"
                )
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise DamagedRecording(
                f"{folder} is not a recording: it has no {NAME}",
                "give the folder that `workbench record -o` wrote",
            ) from None
        except UnicodeDecodeError as error:
            raise DamagedRecording(
                f"{path} is not text: {error}", "restore the file from its source"
            ) from None
        except OSError as error:
            raise DamagedRecording(
                f"{path} cannot be read: {error.strerror}", "check the file"
            ) from error
        return decode(text, str(path), verify=verify)


def _digest(fields: dict[str, Any]) -> str:
    plain = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def encode(manifest: Manifest) -> str:
    """JSON text of a manifest, with its own checksum."""
    fields = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(manifest)}
    fields = json.loads(json.dumps(fields))  # tuples to lists, as a reader will see them
    fields["checksum"] = _digest(fields)
    return json.dumps(fields, indent=1, ensure_ascii=True) + "\n"


def decode(text: str, where: str, *, verify: bool = True) -> Manifest:
    """The manifest in JSON `text`; see `Manifest.read` for what is raised."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedRecording(
            f"{where} is not JSON: {error}", "restore the file from its source"
        ) from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise DamagedRecording(
            f'{where} is not the manifest of a recording: no "format": "{FORMAT}"',
            "give the folder that `workbench record -o` wrote",
        )
    version = fields.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DamagedRecording(
            f"{where}: version is {version!r}", "restore the file from its source"
        )
    if version > VERSION:
        by = fields.get("versions")
        by = by.get("workbench", "") if isinstance(by, dict) else ""
        raise NewerRecording(
            f"{where} has format version {version}; this workbench reads up to {VERSION}",
            f"upgrade: pip install --upgrade 'bpf-workbench{f'>={by}' if by else ''}'",
        )
    checksum = fields.pop("checksum", None)
    if verify and checksum != _digest(fields):
        raise DamagedRecording(
            f"{where} was changed after it was written: its checksum does not match",
            "restore it, or wb.load(path, verify=False) to read it as it is",
        )
    manifest = _value(Manifest, fields, where)
    assert isinstance(manifest, Manifest)
    _check_names(manifest, where)
    return manifest


def _check_names(manifest: Manifest, where: str) -> None:
    bad = [name for name in manifest.frames if not FRAME_NAME.fullmatch(name)]
    bad += [name for name in manifest.files if not FILE_NAME.fullmatch(name)]
    for info in manifest.frames.values():
        names = [column.name for column in info.columns]
        bad += [name for name in names if not name or names.count(name) > 1]
    if bad:
        raise DamagedRecording(
            f"{where} has the name {bad[0]!r}, which is no name of a frame, column or file",
            "this file was not written by the workbench; do not trust it",
        )


def _wrong(where: str, expected: str, got: Any) -> DamagedRecording:
    shown = repr(got)
    shown = shown if len(shown) < 60 else shown[:57] + "..."
    return DamagedRecording(
        f"{where} is not {expected}: {shown}", "restore the file from its source"
    )


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as type `kind`: dataclasses, tuples, dicts, unions with None, literals and plain values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(where, f"one of {', '.join(arguments)}", value)
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return tuple(_value(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _value(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(
            where, {"str": "text", "int": "a whole number"}.get(kind.__name__, kind.__name__), value
        )
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints = _hints(kind)
    known = {}
    for one in dataclasses.fields(kind):
        if one.name in value:
            known[one.name] = _value(hints[one.name], value[one.name], f"{where}: {one.name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise DamagedRecording(
                f"{where} lacks {one.name!r}", "restore the file from its source"
            )
    return kind(**known)
