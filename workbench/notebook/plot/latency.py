"""Distributions of latencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingFrame
from workbench.frames.view import codes, optional_frame
from workbench.notebook.plot.flame import fit
from workbench.notebook.plot.style import INK, PALETTE, Chart, chart, duration_text, legend, tidy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("HISTOGRAM", "Histogram", "Latencies", "histogram", "latencies", "latency_histogram")

HISTOGRAM = (
    "each row is one {what}; the latency axis is logarithmic, equal steps multiply the latency. The height of the "
    "shape is how many of its calls took that long, relative to its own highest point. The three marks are the 50th, "
    "95th and 99th percentile: half, 95 % and 99 % of the calls were faster. Two humps mean two ways to do the work."
)
GROUPS = {
    "probe_latencies": "function",
    "calls": "function",
    "gpu_calls": "api",
    "offcpu": "comm",
    "syscalls": "syscall",
}
WHAT = {
    "calls": "function",
    "gpu_calls": "API function",
    "offcpu": "thread name",
    "syscalls": "system call",
    "probe_latencies": "function",
}
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies of one group: weighted intervals of latency.

    Parameters
    ----------
    name : str
        Function, API, thread name or system call.
    low, high : float64 (n,)
        Limits in ns; equal where single latencies were recorded.
    count : int64 (n,)
        Calls in each interval.
    total : float
        Sum of all latencies in ns.
    """

    name: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.int64]
    total: float

    @property
    def calls(self) -> int:
        """All calls of the group."""
        return int(self.count.sum())

    def quantile(self, share: float) -> float:
        """Latency in ns that `share` of the calls did not exceed; inside a bucket by linear interpolation."""
        order = np.argsort(self.low, kind="stable")
        reach = np.cumsum(self.count[order])
        # The smallest value with at least that share at or below it (inverse of the empirical distribution).
        rank = max(1.0, share * reach[-1])
        at = int(np.searchsorted(reach, rank - 1e-9))
        low, high = self.low[order][at], self.high[order][at]
        inside = (rank - (reach[at] - self.count[order][at])) / self.count[order][at]
        return float(low + (high - low) * inside)


def bucketed(name: str, table: pd.DataFrame) -> Latencies:
    """Latencies of one group from rows with bucket_low, bucket_high, count and total."""
    table = table[table["count"] > 0]
    return Latencies(
        name,
        table["bucket_low"].to_numpy(np.float64),
        table["bucket_high"].to_numpy(np.float64),
        table["count"].to_numpy(np.int64),
        float(table["total"].sum()),
    )


def _first(recording: RecordingView) -> str:
    """The first frame with latencies."""
    for name in GROUPS:
        table = optional_frame(recording, name)
        if table is not None and ("bucket_low" in table.columns or (table["duration"] >= 0).any()):
            return name
    return "calls"


def latencies(
    recording: RecordingView, frame: str | None = None, by: str | None = None
) -> list[Latencies]:
    """Latencies of a frame by group, the group with the most time first.

    Parameters
    ----------
    frame : str or None
        probe_latencies, calls, gpu_calls, offcpu or syscalls; None takes the first that has any.
    by : str or None
        Column to group by; None takes function, api, comm or syscall.

    Raises
    ------
    MissingFrame
        No such frame, or none of its rows has a duration.
    """
    frame = frame or _first(recording)
    table = recording.frame(frame)
    buckets = "bucket_low" in table.columns
    if not buckets:
        if "duration" not in table.columns:
            raise MissingFrame(
                f"frame {frame!r} has no durations", f"frames that have: {', '.join(GROUPS)}"
            )
        table = table[table["duration"] >= 0]
    else:
        table = table[table["count"] > 0]
    if not len(table):
        raise MissingFrame(
            f"frame {frame!r} has no row with a duration",
            "record entry and return together (uprobe with latency), sched or syscalls",
        )
    by = by or GROUPS[frame]
    if by not in table.columns:
        raise MissingFrame(
            f"frame {frame!r} has no column {by!r}", f"it has: {', '.join(table.columns)}"
        )
    code, texts = codes(table[by])
    out = []
    for i in np.unique(code).tolist():
        mine, name = table[code == i], str(texts[i])
        if buckets:
            out.append(bucketed(name, mine))
        else:
            length = mine["duration"].to_numpy(np.float64)
            each = np.ones(len(length), dtype=np.int64)
            out.append(Latencies(name, length, length, each, float(length.sum())))
    return sorted(out, key=lambda one: (-one.total, one.name))


def _shape(one: Latencies, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calls per bin; a bucket spreads evenly over the (logarithmic) bins that it covers."""
    scale = np.log(edges)
    low = np.log(np.maximum(one.low, 1.0))
    high = np.maximum(np.log(np.maximum(one.high, 1.0)), low + 1e-9)
    width = high - low
    narrow = width < scale[1] - scale[0]
    shape, _ = np.histogram(
        (low + high)[narrow] / 2, scale, weights=one.count[narrow].astype(float)
    )
    for a, b, count in zip(low[~narrow], high[~narrow], one.count[~narrow], strict=True):
        overlap = np.clip(np.minimum(b, scale[1:]) - np.maximum(a, scale[:-1]), 0, None)
        shape = shape + count * overlap / (b - a)
    return np.asarray(shape, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Histogram:
    """What a latency histogram shows.

    Parameters
    ----------
    groups : tuple of Latencies
        Those with the most time, in that order.
    edges : float64 (97,)
        Limits of the bins in ns, equal steps of the logarithm.
    what : str
        What a group is, in words.
    left_out : int
        Groups beyond those.
    """

    groups: tuple[Latencies, ...]
    edges: NDArray[np.float64]
    what: str
    left_out: int

    def shape(self, one: Latencies) -> NDArray[np.float64]:
        """Calls of a group per bin; a bucket spreads evenly over the (logarithmic) bins that it covers."""
        return _shape(one, self.edges)


def histogram(
    recording: RecordingView, frame: str | None = None, by: str | None = None, top: int = 10
) -> Histogram:
    """Latencies of the `top` groups with common bins; parameters and errors as of `latency_histogram`."""
    frame = frame or _first(recording)
    found = latencies(recording, frame, by)
    groups = found[:top]
    low = min(float(one.low.min()) for one in groups)
    high = max(float(one.high.max()) for one in groups)
    edges = np.geomspace(max(1.0, low * 0.9), max(high, low + 1, 2.0) * 1.1, 97)
    return Histogram(tuple(groups), edges, by or WHAT[frame], len(found) - len(groups))


def latency_histogram(
    recording: RecordingView,
    frame: str | None = None,
    *,
    by: str | None = None,
    top: int = 10,
    title: str | None = None,
    explain: bool = True,
) -> Chart:
    """Latency distributions on a logarithmic axis, one row per group, percentiles marked.

    Parameters
    ----------
    frame : str or None
        probe_latencies, calls, gpu_calls, offcpu or syscalls; None takes the first with latencies.
    by : str or None
        Column to group by; None takes function, api, comm or syscall.
    top : int
        Groups to draw, those with the most time in all.

    Returns
    -------
    Chart
        A matplotlib Figure.

    Raises
    ------
    MissingFrame
        No such frame, or no durations in it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    found = histogram(recording, frame, by, top)
    groups, edges, what = found.groups, found.edges, found.what
    figure = chart(
        title or f"{recording.name}: latency by {what}",
        HISTOGRAM.format(what=what),
        height=1.6 + 0.62 * len(groups) + (0.5 if explain else 0),
        explain=explain,
    )
    axes = figure.add_subplot()
    for i, one in enumerate(groups):
        _row(axes, one, edges, len(groups) - 1 - i)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-0.12, len(groups))
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 3.0) if edges[-1] / edges[0] < 1e4 else (1.0,))
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration_text(value)))
    names = [fit(one.name, 36) for one in reversed(groups)]
    axes.set_yticks(
        np.arange(len(groups)) + 0.3,
        [f"{name}\n{one.calls:,} calls" for name, one in zip(names, reversed(groups), strict=True)],
        parse_math=False,
    )
    axes.set_xlabel("latency (logarithmic)")
    tidy(axes, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend(axes, _handles())
    return figure


MARKS = (("50th percentile", "o", INK), ("95th", "D", PALETTE[1]), ("99th", "s", PALETTE[5]))


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], marker=marker, color=color, linestyle="", markersize=5, label=label)
        for label, marker, color in MARKS
    ]


def _row(axes: Any, one: Latencies, edges: NDArray[np.float64], y: int) -> None:
    shape = _shape(one, edges)
    axes.stairs(y + shape / shape.max() * 0.62, edges, baseline=y, fill=True, color=PALETTE[4])
    axes.axhline(y, color=INK, linewidth=0.5)
    for share, (_, marker, color) in zip(QUANTILES, MARKS, strict=True):
        value = one.quantile(share)
        axes.plot([value], [y], marker=marker, color=color, markersize=5, clip_on=False, zorder=3)
    text = "  ".join(
        f"p{share * 100:.0f} {duration_text(one.quantile(share))}" for share in QUANTILES
    )
    axes.text(
        0.995,
        y + 0.78,
        text,
        transform=axes.get_yaxis_transform(),
        ha="right",
        fontsize=7.5,
        color=INK,
    )
