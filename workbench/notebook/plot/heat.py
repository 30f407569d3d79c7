"""Heat maps: where events fell, over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingFrame
from workbench.frames.view import codes, optional_frame
from workbench.notebook.plot.flame import fit
from workbench.notebook.plot.lanes import begin_of
from workbench.notebook.plot.style import INK, Chart, chart, duration_text, tidy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("Cells", "Heat", "heat", "heatmap")

HEAT = (
    "time runs to the right. The darker a cell, the more {what} fell into that moment and {row}; white is none, and "
    "the bar at the right gives the numbers. A horizontal streak is something that went on, a vertical one a burst, "
    "a sloped one a sweep."
)
FRAMES = ("samples", "faults", "watches", "calls", "offcpu", "gpu_calls")
MAX_REGIONS, MIN_GAP = 8, 32 << 20
NATURAL = {"faults": "address", "offcpu": "duration", "gpu_calls": "duration", "calls": "duration"}
WORDS = {"samples": "samples", "faults": "faults", "watches": "hits", "offcpu": "waits"}


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts per row and time bin; rows have names or limits, never both."""

    counts: NDArray[np.float64]
    names: tuple[str, ...] = ()
    limits: tuple[float, ...] = ()
    logarithmic: bool = False
    regions: tuple[tuple[int, str], ...] = ()
    """First row and label of each part of an address space; `limits` are row numbers then."""
    addresses: tuple[int, ...] = ()
    """First address of each row of an address space."""


@dataclass(frozen=True, slots=True)
class Heat:
    """What a heat map shows.

    Parameters
    ----------
    cells : Cells
        Counts (rows, bins).
    edges : float64 (bins + 1,)
        Limits of the bins in seconds since the start of the recording.
    what, y : str
        What is counted, and the column of the vertical axis.
    row : str
        What a row stands for, in words.
    """

    cells: Cells
    edges: NDArray[np.float64]
    what: str
    y: str
    row: str


def _named(values: pd.Series[Any], column: NDArray[np.int64], bins: int, top: int) -> Cells:
    code, texts = codes(values)
    load = np.bincount(code, minlength=len(texts))
    order = [i for i in np.argsort(-load, kind="stable").tolist() if load[i]]
    rank = np.full(len(texts), min(top, len(order)))
    rank[order[:top]] = np.arange(len(order[:top]))
    rows = min(len(order), top + 1)
    counts = np.zeros((rows, bins))
    np.add.at(counts, (rank[code], column), 1)
    names = [fit(str(texts[i]) or "[unknown]", 44) for i in order[:top]]
    if len(order) > top:
        names.append(f"{len(order) - top} others")
    return Cells(counts, tuple(names))


def _numeric(
    values: NDArray[Any], column: NDArray[np.int64], bins: int, logarithmic: bool
) -> Cells:
    value = np.asarray(values, dtype=np.float64)
    rows = 60
    low, high = float(value.min()), float(value.max())
    if logarithmic:
        limits = np.geomspace(max(low, 1.0), max(high, low + 1, 2.0) * 1.0001, rows + 1)
    else:
        limits = np.linspace(low, high + max(1.0, (high - low) * 1e-6), rows + 1)
    row = np.clip(np.searchsorted(limits, value, side="right") - 1, 0, rows - 1)
    counts = np.zeros((rows, bins))
    np.add.at(counts, (row, column), 1)
    return Cells(counts, (), tuple(limits.tolist()), logarithmic)


def _regions(values: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Parts of the address space in use, as (first, last) address: at most eight, cut at the widest gaps."""
    used = np.unique(values)
    gaps = used[1:] - used[:-1]
    widest = np.sort(gaps)[-MAX_REGIONS] if len(gaps) >= MAX_REGIONS else np.uint64(0)
    cut = np.flatnonzero((gaps > widest) & (gaps > MIN_GAP))
    first, last = used[np.r_[0, cut + 1]], used[np.r_[cut, len(used) - 1]]
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _addresses(values: NDArray[np.uint64], column: NDArray[np.int64], bins: int) -> Cells:
    """Heap, libraries and stack lie terabytes apart: each part gets rows of its own, the gaps get none."""
    regions = _regions(values)
    spans = np.array([high - low + 1 for low, high in regions], dtype=np.float64)
    rows = np.maximum(4, np.rint(spans / spans.sum() * 60)).astype(int)
    row = np.zeros(len(values), dtype=np.int64)
    marks, first, base = [], list[int](), 0
    for (low, high), count in zip(regions, rows.tolist(), strict=True):
        mine = np.flatnonzero((values >= low) & (values <= high))
        inside = (values[mine] - np.uint64(low)).astype(np.float64)
        row[mine] = base + np.minimum(inside / (high - low + 1) * count, count - 1).astype(np.int64)
        marks.append((base, f"{low:#x}, {_size(high - low + 1)}"))
        first += [low + (high - low + 1) * i // count for i in range(count)]
        base += count
    counts = np.zeros((base, bins))
    np.add.at(counts, (row, column), 1)
    limits = tuple(map(float, range(base + 1)))
    return Cells(counts, (), limits, regions=tuple(marks), addresses=tuple(first))


def _column(recording: RecordingView, frame: str, y: str | None) -> tuple[pd.DataFrame, str]:
    table = recording.frame(frame)
    y = y or NATURAL.get(frame, "function")
    if "time" not in table.columns or y not in table.columns:
        missing = y if "time" in table.columns else "time"
        raise MissingFrame(
            f"frame {frame!r} has no column {missing!r}",
            f"its columns: {', '.join(map(str, table.columns))}",
        )
    if y == "duration":
        table = table[table["duration"] >= 0]
    if not len(table):
        raise MissingFrame(f"frame {frame!r} has no rows with {y}", "record longer")
    return table, y


def heat(
    recording: RecordingView,
    frame: str | None = None,
    *,
    y: str | None = None,
    top: int = 20,
    bins: int | None = None,
) -> Heat:
    """Count a frame's rows by time and by another column; parameters and errors as of `heatmap`."""
    frame = frame or next(
        (one for one in FRAMES if optional_frame(recording, one) is not None), FRAMES[0]
    )
    table, y = _column(recording, frame, y)
    bins = bins or int(np.clip(len(table) // 8, 30, 120))
    time = (table["time"].to_numpy(np.int64) - begin_of(recording)) / 1e9
    edges = np.linspace(0, max(float(time.max()), 1e-6) * (1 + 1e-9), bins + 1)
    column = np.clip(np.searchsorted(edges, time, side="right") - 1, 0, bins - 1)
    values = table[y]
    if y in ("address", "ip"):
        cells = _addresses(values.to_numpy(np.uint64), column, bins)
    elif isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        cells = _numeric(values.to_numpy(), column, bins, logarithmic=y == "duration")
    else:
        cells = _named(values, column, bins, top)
    what = WORDS.get(frame, "calls")
    row = f"that {y} (vertical axis)" if cells.limits else f"the {y} named at the left"
    return Heat(cells, edges, what, y, row)


def heatmap(
    recording: RecordingView,
    frame: str | None = None,
    *,
    y: str | None = None,
    top: int = 20,
    bins: int | None = None,
    title: str | None = None,
    explain: bool = True,
) -> Chart:
    """Counts over time, by function (one row each), by address or by latency.

    Parameters
    ----------
    frame : str or None
        A frame with times; None takes the first that exists of samples, faults, watches, calls, offcpu, gpu_calls.
    y : str or None
        Column of the vertical axis: text gives one row per value, numbers are binned. None takes address for faults,
        duration for calls, off-CPU times and GPU calls, else function.
    top : int
        Rows for the most frequent texts; the others share one more row.
    bins : int or None
        Cells over the length of the recording; None takes 30 to 120, more where there are more rows.

    Returns
    -------
    Chart
        A matplotlib Figure; the colour bar counts rows of the frame per cell.

    Raises
    ------
    MissingFrame
        The frame is missing or empty, or lacks the column.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.ticker import MaxNLocator, NullFormatter

    found = heat(recording, frame, y=y, top=top, bins=bins)
    cells, edges, what, y = found.cells, found.edges, found.what, found.y
    height = 4.0 if cells.limits else 1.5 + 0.22 * len(cells.names)
    figure = chart(
        title or f"{recording.name}: {what} by {y} over time",
        HEAT.format(what=what, row=found.row),
        height=height + (0.4 if explain else 0),
        explain=explain,
    )
    axes = figure.add_subplot()
    largest = float(cells.counts.max())
    rows = np.array(cells.limits) if cells.limits else np.arange(len(cells.names) + 1.0)
    mesh = axes.pcolormesh(
        edges,
        rows,
        np.ma.masked_equal(cells.counts, 0),
        # From a blue that stands out against white, so that single events are seen.
        cmap=ListedColormap(colormaps["Blues"](np.linspace(0.22, 1, 256))),
        norm=LogNorm(1, largest) if largest > 50 else None,
        rasterized=True,
    )
    if largest <= 50:
        mesh.set_clim(1, max(2.0, largest))
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.035)
    bar.set_label(f"{what} per {duration_text((edges[1] - edges[0]) * 1e9)} cell", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_formatter("{x:,.0f}")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    if largest <= 50:
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    _rows(axes, cells, y)
    tidy(axes)
    axes.set_xlabel("seconds since the start of the recording")
    return figure


def _rows(axes: Any, cells: Cells, y: str) -> None:
    """Ticks and label of the vertical axis."""
    from matplotlib.ticker import FuncFormatter

    if cells.names:
        axes.set_yticks(np.arange(len(cells.names)) + 0.5, cells.names, parse_math=False)
        axes.invert_yaxis()
        return
    if cells.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration_text(value)))
    elif cells.regions:
        axes.set_yticks([row for row, _ in cells.regions], [label for _, label in cells.regions])
        for row, _ in cells.regions[1:]:
            axes.axhline(row, color=INK, linewidth=0.6)
        axes.set_ylabel(f"{y} (start and size of each part; gaps left out)")
        return
    axes.set_ylabel(y)


def _size(count: int) -> str:
    """Bytes with a binary unit."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >> shift:
            return f"{count / (1 << shift):.4g} {unit}"
    return f"{count} B"
