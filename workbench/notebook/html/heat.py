"""The interactive heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.notebook.html.page import InteractiveChart
from workbench.notebook.plot.heat import Cells, Heat, heat
from workbench.notebook.plot.style import duration_text

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("interactive_heatmap",)

HELP = (
    "How to read: time runs to the right. The stronger the colour of a cell, the more {what} fell into that moment and "
    "{row}; an empty place is none. A horizontal streak is something that went on, a vertical one a burst, a sloped "
    "one a sweep. Drag across a part to zoom into it, where the cells become finer; double-click or press Escape to "
    "see all; hover for numbers."
)
BINS = 480
SHADES = " .:-=+*#%@"
WIDTH = 60


def _bounds(cells: Cells, y: str) -> list[str]:
    """What every row stands for."""
    if cells.names:
        return list(cells.names)
    if cells.regions:
        return [f"{y} from {first:#x}" for first in cells.addresses]
    show = duration_text if cells.logarithmic else "{:,.4g}".format
    pairs = zip(cells.limits[:-1], cells.limits[1:], strict=True)
    return [f"{y} {show(low)} to {show(high)}" for low, high in pairs]


def _ticks(cells: Cells) -> list[tuple[float, str]]:
    """Rows that get a label at the left."""
    if cells.names:
        return [(float(row), name) for row, name in enumerate(cells.names)]
    if cells.regions:
        return [(float(row), label) for row, label in cells.regions]
    limits = np.array(cells.limits)
    rows = np.arange(len(limits))
    if not cells.logarithmic:
        fifths = np.linspace(0, len(limits) - 1, 5).astype(int).tolist()
        return [(float(row), f"{limits[row]:,.4g}") for row in fifths]
    powers = np.arange(np.ceil(np.log10(limits[0])), np.floor(np.log10(limits[-1])) + 1)
    marks = 10.0**powers if len(powers) > 1 else limits[[0, -1]]
    places = np.interp(np.log(marks), np.log(limits), rows)
    return [(float(row), duration_text(mark)) for row, mark in zip(places, marks, strict=True)]


def _data(found: Heat, title: str) -> dict[str, Any]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    cells = found.cells
    place = np.flatnonzero(cells.counts)
    length = max(1, round(float(found.edges[-1]) * 1e9))
    tick = max(1, length // 10_000_000)
    # From a blue that stands out against the page, so that single events are seen.
    colors = [to_hex(color) for color in colormaps["Blues"](np.linspace(0.22, 1, 32))]
    return {
        "title": title,
        "help": HELP.format(what=found.what, row=found.row),
        "note": "",
        "what": found.what,
        "tick": tick,
        "length": -(-length // tick),
        "bins": cells.counts.shape[1],
        "rows": _bounds(cells, found.y),
        "ticks": _ticks(cells),
        "upward": not cells.names,
        "parted": bool(cells.regions),
        "colors": colors,
        "legend": [],
        "cells": [
            np.diff(place, prepend=0).tolist(),
            cells.counts.ravel()[place].astype(np.int64).tolist(),
        ],
    }


def _text(found: Heat, title: str) -> str:
    """The map in characters: one line per row that holds anything, the fullest cells the densest characters."""
    counts, names = found.cells.counts, _bounds(found.cells, found.y)
    columns = np.add.reduceat(counts, np.arange(0, counts.shape[1], BINS // WIDTH), axis=1)
    level = np.ceil(columns / max(1.0, columns.max()) * (len(SHADES) - 1)).astype(int)
    used = [row for row in range(len(names)) if columns[row].any()]
    if not found.cells.names:
        used.reverse()
    wide = max(len(names[row]) for row in used)
    most = f"the fullest cell: {columns.max():,.0f} {found.what}"
    lines = [f"{title}, {found.edges[-1]:.4g} s from left to right; {most}"]
    lines += [f"{names[row].rjust(wide)} |{''.join(SHADES[one] for one in level[row])}|" for row in used]
    return "\n".join(lines)


def interactive_heatmap(
    recording: RecordingView,
    frame: str | None = None,
    *,
    y: str | None = None,
    top: int = 20,
    title: str | None = None,
) -> InteractiveChart:
    """Counts over time to zoom into in a notebook, by function, address or latency; no network, below 1 MB of HTML.

    Parameters
    ----------
    frame, y, top
        As of `wb.plot.heatmap`.

    Returns
    -------
    InteractiveChart
        Where scripts do not run it is the map in characters.

    Raises
    ------
    MissingFrame
        The frame is missing or empty, or lacks the column.
    """
    found = heat(recording, frame, y=y, top=top, bins=BINS)
    title = title or f"{recording.name}: {found.what} by {found.y} over time"
    return InteractiveChart("heatmap", _data(found, title), _text(found, title))
