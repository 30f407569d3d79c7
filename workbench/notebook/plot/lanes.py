"""Timelines: what every thread did and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingFrame
from workbench.frames.view import manifest_value, optional_frame, sample_period, spans
from workbench.notebook.plot.style import NEUTRAL, PALETTE, Chart, chart, legend, tidy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("LAYERS", "Layer", "begin_of", "density", "length_of", "thread_order", "timeline")

TIMELINE = (
    "one row per thread, time runs to the right. The blue curve is how busy the thread was: its full height means on "
    "a CPU all the time. Bars below it mark when something lasted ({bars}); ticks mark single events{ticks}. A gap "
    "in all of them means that nothing that was recorded happened there."
)


@dataclass(frozen=True, slots=True)
class Layer:
    """How one frame appears in a timeline."""

    frame: str
    title: str
    color: str
    lasting: bool


LAYERS = (
    Layer("calls", "probed calls", PALETTE[1], True),
    Layer("gpu_calls", "GPU API", PALETTE[2], True),
    Layer("offcpu", "off CPU", PALETTE[3], True),
    Layer("watches", "watchpoint hits", PALETTE[5], False),
    Layer("faults", "page faults", "#777777", False),
)


def begin_of(recording: RecordingView) -> int:
    """Zero of the time axis: start of the recording, or its first event, on CLOCK_MONOTONIC."""
    first = [
        int(table["time"].min())
        for name in ("samples", *(layer.frame for layer in LAYERS))
        if (table := optional_frame(recording, name)) is not None
    ]
    start: Any = manifest_value(recording, "start")
    began = int(getattr(start, "monotonic_ns", 0))
    return min([began, *first]) if began else min(first, default=0)


def thread_order(recording: RecordingView, limit: int) -> list[tuple[int, str]]:
    """Threads as (tid, name): the `limit` with the most samples and events, in order of tid.

    Raises
    ------
    MissingFrame
        No frame with times has any row.
    """
    busy: dict[int, float] = {}
    names: dict[int, str] = {}
    for name in ("samples", *(layer.frame for layer in LAYERS)):
        table = optional_frame(recording, name)
        if table is None:
            continue
        tids, first, count = np.unique(
            table["tid"].to_numpy(), return_index=True, return_counts=True
        )
        comm = table["comm"].iloc[first].astype(str)
        for tid, one, rows in zip(tids.tolist(), comm, count.tolist(), strict=True):
            names.setdefault(tid, one)
            busy[tid] = busy.get(tid, 0.0) + rows
    if not busy:
        raise MissingFrame(
            f"recording {recording.name!r} has no frame with times",
            "`workbench record --collect cpu` records `samples`",
        )
    chosen = sorted(busy, key=lambda tid: -busy[tid])[:limit]
    return [(tid, names[tid]) for tid in sorted(chosen)]


def density(
    time: NDArray[np.float64], period: float, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each bin that samples cover, at most 1."""
    counts, _ = np.histogram(time, edges)
    return np.minimum(counts * period / np.diff(edges), 1.0)


def merged(
    start: NDArray[np.float64], end: NDArray[np.float64], gap: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals joined where less than `gap` lies between: what a picture could not tell apart anyway."""
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    opens = np.r_[True, start[1:] > reach[:-1] + gap]
    closes = np.r_[opens[1:], True]
    return start[opens], reach[closes]


def timeline(
    recording: RecordingView,
    *,
    threads: int = 16,
    title: str | None = None,
    between: tuple[float, float] | None = None,
    explain: bool = True,
) -> Chart:
    """What every thread did over time: CPU use from samples, probed calls, GPU API calls, waits, hits and faults.

    Parameters
    ----------
    threads : int
        Draw the busiest threads, at most so many.
    between : (float, float) or None
        Part of the recording to draw, in seconds from its start; None draws all.

    Returns
    -------
    Chart
        A matplotlib Figure; x axis in seconds from the start of the recording.

    Raises
    ------
    MissingFrame
        No frame with times was recorded.
    """
    chosen = thread_order(recording, threads)
    zero = begin_of(recording)
    found = {
        layer: table
        for layer in LAYERS
        if (table := optional_frame(recording, layer.frame)) is not None
    }
    samples = optional_frame(recording, "samples")
    low, high = between or (0.0, length_of(recording, zero))
    bars = ", ".join(layer.title for layer in found if layer.lasting) or "none recorded"
    points = ", ".join(layer.title for layer in found if not layer.lasting)
    text = TIMELINE.format(bars=bars, ticks=f" ({points})" if points else "")
    row = (0.4 if samples is not None else 0.1) + 0.11 * len(found)
    height = 1.3 + row * len(chosen) + (0.5 if explain else 0)
    figure = chart(
        title or f"{recording.name}: threads over time", text, height=height, explain=explain
    )
    axes = figure.add_subplot()
    handles = _draw(axes, chosen, found, samples, zero, (low, high), sample_period(recording))
    axes.set_xlim(low, high)
    axes.set_ylim(len(chosen) - 0.02, -0.08)
    axes.set_yticks(
        [i + 0.5 for i in range(len(chosen))],
        [f"{name}\n{tid}" for tid, name in chosen],
        parse_math=False,
    )
    axes.set_xlabel("seconds since the start of the recording")
    tidy(axes, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for i in range(1, len(chosen)):
        axes.axhline(i - 0.02, color=NEUTRAL, linewidth=0.8)
    legend(axes, handles)
    return figure


def length_of(recording: RecordingView, zero: int) -> float:
    """Seconds from `zero` to the end of the recording, or to its last event.

    Intervals that began last may end later (waits that outlast the recording); they do not stretch it.
    """
    ends = [int(manifest_value(recording, "duration_ns", default=0))]
    for name in ("samples", *(layer.frame for layer in LAYERS)):
        table = optional_frame(recording, name)
        if table is not None:
            ends.append(int(table["time"].max()) - zero)
    return max(1e-6, max(ends) / 1e9)


def _draw(
    axes: Any,
    chosen: list[tuple[int, str]],
    found: dict[Layer, pd.DataFrame],
    samples: pd.DataFrame | None,
    zero: int,
    window: tuple[float, float],
    period: float,
) -> list[Any]:
    from matplotlib.patches import Patch

    top = (CPU_SHARE if found else 0.92) if samples is not None else 0.04
    thick = (0.94 - top) / max(1, len(found))
    # A pixel of a picture 1500 pixels wide.
    pixel = (window[1] - window[0]) / 1500
    for i, (tid, _) in enumerate(chosen):
        if samples is not None:
            mine = samples["tid"].to_numpy() == tid
            time = (samples["time"].to_numpy()[mine] - zero) / 1e9
            _load(axes, time, period / 1e9, window, (i + top, top - 0.06))
        for rank, (layer, table) in enumerate(found.items()):
            mine = table["tid"].to_numpy() == tid
            start, end, lasts = spans(table)
            y = i + top + 0.02 + rank * thick
            left, right = merged(
                (start[mine & lasts] - zero) / 1e9, (end[mine & lasts] - zero) / 1e9, pixel
            )
            boxes = list(zip(left, np.maximum(right - left, pixel), strict=True))
            # Without snapping to whole pixels, which would drop most bars thinner than one.
            look: dict[str, Any] = {"color": layer.color, "linewidth": 0.3, "snap": False}
            axes.broken_barh(boxes, (y, thick * 0.8), **look)
            # One tick per pixel at most: more could not be seen and make a PDF huge.
            at = np.unique(np.round((start[mine & ~lasts] - zero) / 1e9 / pixel)) * pixel
            axes.vlines(at, y, y + thick * 0.8, color=layer.color, linewidth=0.6)
    handles = [Patch(color=PALETTE[0], label="on CPU")] if samples is not None else []
    return handles + [Patch(color=layer.color, label=layer.title) for layer in found]


def _load(
    axes: Any,
    time: NDArray[np.float64],
    period: float,
    window: tuple[float, float],
    place: tuple[float, float],
) -> None:
    """How busy one thread was. Bins hold ten periods or more: shorter ones would show the sampling clock."""
    bins = int(np.clip((window[1] - window[0]) / (10 * period), 1, 300)) if period else 100
    edges = np.linspace(*window, bins + 1)
    base, height = place
    share = density(time, period, edges)
    axes.stairs(base - share * height, edges, baseline=base, fill=True, color=PALETTE[0])


CPU_SHARE = 0.45
