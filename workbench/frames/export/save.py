"""`wb.export`: a recording as a file of another tool."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import BadSpec, NotPermitted
from workbench.frames.export.base import exporter

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("export",)


def export(
    recording: RecordingView | str | Path,
    format: str,
    output: str | Path,
    *,
    frame: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a recording in the format of another tool, as `workbench export` does.

    Parameters
    ----------
    recording : Recording or path
        What `wb.load` or a recorder gave, or the folder of a recording.
    format : str
        ``"perfetto"``, ``"speedscope"``, ``"pprof"`` or ``"folded"``.
    output : path
        The file. It is written under a temporary name and renamed: no half-written export is ever seen.
    frame : str, optional
        Export this frame alone; by default those that the format is made for.
    overwrite : bool
        Replace the file if it exists.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    BadSpec
        There is no such format, or the file exists already.
    MissingFrame
        There is nothing to export; the hint says what would record it.
    NotPermitted
        The file cannot be written.

    Examples
    --------
    >>> wb.export(recording, "perfetto", "run.pftrace")
    """
    made = exporter(format)
    path = Path(output)
    if path.exists() and not overwrite:
        raise BadSpec(f"{path} exists", "say --overwrite (overwrite=True) to replace it")
    if isinstance(recording, (str, Path)):
        from workbench.frames.recording import load

        recording = load(recording)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as sink:
            made.write(recording, sink, frame=frame)
        part.replace(path)
    except OSError as error:
        raise NotPermitted(
            f"cannot write {path}: {error.strerror}", "choose another file with -o (output=)"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path
