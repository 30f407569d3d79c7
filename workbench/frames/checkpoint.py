"""Rows that would only be known at the end of a recording, kept from time to time: what a killed recorder leaves.

Counts live in maps, and the maps die with the recorder. A checkpoint holds them as of one moment in
``spool/checkpoint.N/``, with streams as those of the spool; the file ``spool/checkpoint`` says which one counts and
its time, and is replaced once the streams are whole. A recording that is finished has none.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ("drop", "find", "write")

_NAME = "checkpoint"


def find(spool: Path) -> tuple[Path, int] | None:
    """Folder of the checkpoint that counts and its time (ns of CLOCK_MONOTONIC), if there is one."""
    try:
        number, time = map(int, (spool / _NAME).read_text().split())
    except (OSError, ValueError):
        return None
    folder = spool / f"{_NAME}.{number}"
    return (folder, time) if number >= 0 and folder.is_dir() else None


def write(spool: Path, rows: Sequence[tuple[str, Mapping[str, Any]]], time: int) -> None:
    """Replace the checkpoint. The one before stays on disk until the next: somebody may be reading it.

    Parameters
    ----------
    spool : Path
    rows : sequence of (frame, columns)
        As for `RecordingWriter.append`.
    time : int

    Raises
    ------
    OSError
        The disk does not take it; the one before still counts.
    """
    from workbench.frames.live import LiveFrames

    known = find(spool)
    number = int(known[0].suffix[1:]) + 1 if known else 0
    folder = spool / f"{_NAME}.{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    frames = LiveFrames(folder, 1, 1 << 10)
    try:
        for frame, columns in rows:
            frames.append(frame, columns)
        frames.flush()
    finally:
        frames.close()
    part = spool / f".{_NAME}.part"
    part.write_text(f"{number} {time}\n")
    part.replace(spool / _NAME)
    shutil.rmtree(spool / f"{_NAME}.{number - 2}", ignore_errors=True)


def drop(spool: Path) -> None:
    """The rows themselves are in the spool now."""
    with contextlib.suppress(OSError):
        (spool / _NAME).unlink(missing_ok=True)
