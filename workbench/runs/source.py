"""Where a notebook's data comes from: recorded live on this machine, or read from a recording.

The same notebook serves both. Its parameters cell says ``source = "auto"`` and names the recording; `record_or_load`
does the rest, with the word that `workbench run --live` or `--replay` passes on winning over the machine's abilities.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar, cast

from workbench.errors import BadSpec, MissingCapability, NotPermitted

__all__ = ("OUTPUT_VARIABLE", "SOURCES", "SOURCE_VARIABLE", "output_folder", "record_or_load", "resolve", "shortfall")

Source = Literal["live", "replay"]
Recorded = TypeVar("Recorded")

SOURCES = ("auto", "live", "replay")
SOURCE_VARIABLE = "WORKBENCH_SOURCE"
OUTPUT_VARIABLE = "WORKBENCH_OUTPUT"


def shortfall(needs: Sequence[str]) -> str:
    """Why this machine cannot record live: empty if it can, else the first missing capability and its reason."""
    if not needs:
        return ""
    from workbench.host import check

    for name in needs:
        row = check(name)
        if not row.ok:
            return f"{name}: {row.reason}"
    return ""


def resolve(source: str = "auto", needs: Sequence[str] = ()) -> tuple[Source, str]:
    """Decide between live and replay.

    Parameters
    ----------
    source : str
        ``live``, ``replay`` or ``auto``: the environment variable ``WORKBENCH_SOURCE`` if it is set, else live where
        the machine has all of `needs`.
    needs : sequence of str
        Rows of ``workbench doctor`` that live recording takes.

    Returns
    -------
    tuple of str
        ``live`` or ``replay``, and the reason of a replay that nobody asked for (else empty).
    """
    if source == "auto":
        source = os.environ.get(SOURCE_VARIABLE, "") or "auto"
    if source == "live":
        return "live", ""
    if source == "replay":
        return "replay", ""
    if source != "auto":
        raise BadSpec(f"source is {source!r}", f"it is one of {', '.join(SOURCES)}")
    missing = shortfall(needs)
    return ("replay", missing) if missing else ("live", "")


def record_or_load(
    recording: str | os.PathLike[str],
    live: Callable[[], Recorded],
    source: str = "auto",
    needs: Sequence[str] = (),
) -> Recorded:
    """Record live, or load `recording` where that was asked for or the machine cannot record.

    Parameters
    ----------
    recording : path
        The recording to replay; in a notebook usually the parameter that the experiment file fills.
    live : callable
        Records and returns a recording. Called only for a live run.
    source : str
        ``auto``, ``live`` or ``replay``, see `resolve`.
    needs : sequence of str
        Rows of ``workbench doctor`` that `live` takes. What is not listed still counts: with ``auto``, a live run
        that ends in MissingCapability or NotPermitted is replaced by the replay.

    Returns
    -------
    Recording
        What `live` returned, or `wb.load(recording)`.

    Examples
    --------
    >>> def live():
    ...     return wb.record("cpu:999", command=["./server"]).run()
    >>> rec = wb.record_or_load(recording, live, source=source)
    """
    where, why = resolve(source, needs)
    if where == "live":
        try:
            return live()
        except (MissingCapability, NotPermitted) as error:
            asked = source if source != "auto" else os.environ.get(SOURCE_VARIABLE, "") or "auto"
            if asked == "live":
                raise
            why = error.message
    if why:
        print(f"replaying {recording}: this machine cannot record it live ({why})")
    from workbench.frames.recording import load

    return cast("Recorded", load(Path(recording)))


def output_folder() -> Path:
    """Folder for what a notebook writes: the run's own under `workbench run`, else ``./out``; it exists."""
    folder = Path(os.environ.get(OUTPUT_VARIABLE) or "out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()
