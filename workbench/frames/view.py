"""What analyses ask of a recording, and small helpers that read one.

Exporters, figures and reports work on anything that has this shape, a loaded recording or one still being written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.errors import BadSpec, MissingFrame

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = (
    "RecordingView",
    "codes",
    "first_of",
    "left_out",
    "manifest_value",
    "natural_frame",
    "optional_frame",
    "sample_period",
    "spans",
    "weights",
)

UNTIMED = {"watches": "hits", "faults": "faults", "samples": "samples"}
"""Frames whose rows are points in time, with the word for one row's worth."""

STACKED = ("samples", "offcpu", "calls", "gpu_calls", "faults", "watches")
"""Frames with a stack per row, in the order in which an analysis of stacks prefers them."""


class RecordingView(Protocol):
    """A recording as analyses see it."""

    @property
    def name(self) -> str:
        """Short name, for titles and file names."""

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of the frames that exist."""

    @property
    def manifest(self) -> Any:
        """Facts about the recording: a mapping or an object with attributes."""

    def frame(self, name: str) -> pd.DataFrame:
        """One frame as its schema declares it; `MissingFrame` if it was not recorded."""


def manifest_value(recording: RecordingView, *names: str, default: Any = None) -> Any:
    """The first of `names` that the manifest has (as key or attribute) with a value other than None."""
    manifest = recording.manifest
    for name in names:
        value = (
            manifest.get(name) if isinstance(manifest, Mapping) else getattr(manifest, name, None)
        )
        if value is not None:
            return value
    return default


def left_out(notes: Mapping[str, Any]) -> list[str]:
    """What collectors could not record of what they were asked for, from a manifest's notes."""
    return [
        str(one)
        for note in notes.values()
        if isinstance(note, Mapping)
        for key in ("left_out", "refused")
        for one in note.get(key, ())
    ]


def first_of(found: list[str]) -> str:
    """The first two for a reader, and how many more."""
    more = f"; {len(found) - 2} more in manifest.notes" if len(found) > 2 else ""
    return "; ".join(found[:2]) + more


def optional_frame(recording: RecordingView, name: str) -> pd.DataFrame | None:
    """The frame if it was recorded and has rows, else None."""
    if name not in recording.frames:
        return None
    frame = recording.frame(name)
    return frame if len(frame) else None


def natural_frame(recording: RecordingView) -> str:
    """The first non-empty frame with stacks, CPU samples before all others.

    Raises
    ------
    MissingFrame
        The recording has none; the hint says what records one.
    """
    for name in STACKED:
        if optional_frame(recording, name) is not None:
            return name
    raise MissingFrame(
        f"recording {recording.name!r} has no frame with stacks",
        f"it has: {', '.join(recording.frames) or 'nothing'}; "
        "`workbench record --collect cpu` records `samples`",
    )


def codes(series: pd.Series[Any]) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """A text column as integer codes and the distinct texts; a missing value becomes ``""``.

    Returns
    -------
    (int64 (n,), object (k,))
        Codes index the texts; every text is a str.
    """
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        code = np.asarray(series.cat.codes.to_numpy(), dtype=np.int64)
        texts = [str(text) for text in series.cat.categories]
    else:
        found, unique = pd.factorize(series, use_na_sentinel=True)
        code = np.asarray(found, dtype=np.int64)
        texts = [str(text) for text in unique]
    if (code < 0).any():
        if "" not in texts:
            texts.append("")
        code = np.where(code < 0, np.int64(texts.index("")), code)
    out: NDArray[np.object_] = np.empty(len(texts), dtype=object)
    out[:] = texts
    return code, out


def sample_period(recording: RecordingView) -> float:
    """CPU time that one row of `samples` stands for, in ns.

    From the rate that the cpu collector noted in the manifest (for a cycle counter too: the kernel adapts its period
    to that rate). Without it the most frequent distance of two successive samples of a thread, which is the period
    as long as some thread ran through it without leaving the CPU.
    """
    notes: dict[str, Any] = manifest_value(recording, "notes", default={})
    hertz = notes.get("sampling", {}).get("hz")
    if hertz:
        return 1e9 / float(hertz)
    samples = optional_frame(recording, "samples")
    if samples is None:
        return 0.0
    order = np.lexsort((samples["time"].to_numpy(), samples["tid"].to_numpy()))
    time = samples["time"].to_numpy()[order]
    same = np.diff(samples["tid"].to_numpy()[order]) == 0
    gaps = np.diff(time)[same]
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return 1e6
    # Bins of 5 % width: jitter of the timer stays inside one or two of them.
    bins = np.floor(np.log(gaps) / np.log(1.05)).astype(np.int64)
    values, count = np.unique(bins, return_counts=True)
    near = np.abs(bins - values[np.argmax(count)]) <= 1
    return float(np.median(gaps[near]))


def weights(
    recording: RecordingView, frame: str, by: str | None = None
) -> tuple[NDArray[np.float64], str]:
    """What each row of `frame` weighs in a flame graph or a top list, and the unit of the weight.

    Parameters
    ----------
    by : "time", "count" or None
        None takes time where the frame has any (CPU samples count one sampling period each, calls and off-CPU
        intervals their duration), else counts rows.

    Raises
    ------
    BadSpec
        `by` is neither, or time was asked of a frame that holds points in time.
    """
    table = recording.frame(frame)
    if by not in (None, "time", "count"):
        raise BadSpec(f"by={by!r} is not understood", "use by='time' or by='count'")
    if by is None:
        by = "time" if frame == "samples" or "duration" in table.columns else "count"
    if by == "count":
        return np.ones(len(table)), UNTIMED.get(frame, "events")
    if frame == "samples":
        return np.full(len(table), sample_period(recording)), "ns"
    if "duration" not in table.columns:
        raise BadSpec(f"frame {frame!r} has no durations", "use by='count'")
    return np.maximum(table["duration"].to_numpy(dtype=np.float64), 0.0), "ns"


def spans(table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Begin and end of each row on CLOCK_MONOTONIC, and which rows last at all.

    ``time`` is when an interval began. Rows without a duration (points in time, calls whose return was not seen) end
    when they begin; an interval of 0 ns counts as 1 ns, so that its end comes after its begin.

    Returns
    -------
    (int64 (n,), int64 (n,), bool (n,))
    """
    start = table["time"].to_numpy(dtype=np.int64)
    if "duration" not in table.columns:
        return start, start, np.zeros(len(start), dtype=np.bool_)
    duration = table["duration"].to_numpy(dtype=np.int64)
    lasting = duration >= 0
    return start, start + np.where(lasting, np.maximum(duration, 1), 0), lasting
