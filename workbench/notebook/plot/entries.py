"""Entries of a map, one bar per backend that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import MissingFrame
from workbench.notebook.plot.style import PALETTE, Chart, chart, legend, tidy

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("map_entries",)

HOW = (
    "each group of bars is one entry of the map, one bar for each backend that ran the program; its height is the "
    "entry's value. Bars of one height side by side: both backends found the same."
)
_BACKENDS = ("kernel", "userspace")
_MOST_LABELS = 24


def map_entries(
    recording: RecordingView, name: str, title: str = "", *, explain: bool = True
) -> Chart:
    """Values of a map's entries by backend.

    Parameters
    ----------
    recording : Recording
        With frame `map_entries`, such as `wb.compare_backends()` makes.
    name : str
        The map.
    title : str
        Heading; the map's name by default.
    explain : bool
        Print the reading instructions below the plot.

    Raises
    ------
    MissingFrame
        The recording has no entries of that map.
    """
    from matplotlib.patches import Patch

    frame = recording.frame("map_entries").astype({"backend": str, "map": str, "key": str})
    found = frame[frame["map"] == name]
    if found.empty:
        maps = ", ".join(frame["map"].drop_duplicates()) or "none"
        raise MissingFrame(f"the recording holds no entries of map {name!r}", f"maps: {maps}")
    keys = list(found["key"].drop_duplicates())
    backends = [one for one in _BACKENDS if one in set(found["backend"])]
    figure = chart(title or f"Entries of map {name}", HOW, height=3.4, explain=explain)
    axes = figure.add_subplot()
    at, width = np.arange(len(keys)), 0.84 / len(backends)
    for i, backend in enumerate(backends):
        values = found[found["backend"] == backend].set_index("key")["value"]
        heights = values.reindex(keys, fill_value=0)
        axes.bar(at + (i - (len(backends) - 1) / 2) * width, heights, width, color=PALETTE[i])
    step = -(-len(keys) // _MOST_LABELS)
    axes.set_xticks(at[::step], [_label(key) for key in keys[::step]])
    axes.margins(x=0.01)
    axes.set_xlabel("key")
    axes.set_ylabel("value")
    tidy(axes, grid="y")
    legend(axes, [Patch(color=PALETTE[i], label=one) for i, one in enumerate(backends)])
    return figure


def _label(key: str) -> str:
    base, power, exponent = key.partition("^")
    return f"${base}^{{{exponent}}}$" if power and exponent.isdigit() else key
