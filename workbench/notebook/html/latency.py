"""The interactive latency histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.notebook.html.page import InteractiveChart
from workbench.notebook.plot.latency import HISTOGRAM, MARKS, QUANTILES, Histogram, histogram
from workbench.notebook.plot.style import PALETTE, duration_text

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("interactive_latency",)

HELP = (
    "How to read: {text} Hover for the number of calls and for how many were faster; “Show the tail” makes rare slow "
    "calls visible."
)
NAME_LIMIT = 300
SHADES = " ▁▂▃▄▅▆▇█"


def _text(found: Histogram, title: str) -> str:
    """One line per group: name, calls, percentiles and a small histogram over the common axis."""
    names = [one.name if len(one.name) <= 40 else f"{one.name[:39]}…" for one in found.groups]
    wide = max(map(len, names))
    low, high = duration_text(found.edges[0]), duration_text(found.edges[-1])
    lines = [f"{title}; histograms from {low} to {high}, logarithmic"]
    for name, one in zip(names, found.groups, strict=True):
        shape = found.shape(one).reshape(-1, 4).sum(axis=1)
        level = np.ceil(shape / shape.max() * (len(SHADES) - 1)).astype(int)
        parts = [f"p{share * 100:.0f} {duration_text(one.quantile(share))}".ljust(12) for share in QUANTILES]
        bars = "".join(SHADES[i] for i in level)
        lines.append(f"{name.ljust(wide)}  {one.calls:>11,} calls  {' '.join(parts)} |{bars}|")
    return "\n".join(lines)


def interactive_latency(
    recording: RecordingView,
    frame: str | None = None,
    *,
    by: str | None = None,
    top: int = 100,
    title: str | None = None,
) -> InteractiveChart:
    """Latency distributions to search and to read values from in a notebook; no network, below 1 MB of HTML.

    Parameters
    ----------
    frame, by
        As of `wb.plot.latency_histogram`.
    top : int
        Groups to hold, those with the most time in all.

    Returns
    -------
    InteractiveChart
        Where scripts do not run it is a table with one small histogram per group.

    Raises
    ------
    MissingFrame
        No such frame, or no durations in it.
    """
    found = histogram(recording, frame, by, min(top, 500))
    title = title or f"{recording.name}: latency by {found.what}"
    data = {
        "title": title,
        "help": HELP.format(text=HISTOGRAM.format(what=found.what)),
        "note": f" · {found.left_out:,} with less time left out" if found.left_out else "",
        "what": found.what,
        "edges": np.round(found.edges, 2).tolist(),
        "marks": [[name, color] for name, _, color in MARKS],
        "color": PALETTE[4],
        "groups": [
            {
                "name": one.name[:NAME_LIMIT],
                "calls": one.calls,
                "quantiles": [[f"p{share * 100:.0f}", round(one.quantile(share), 1)] for share in QUANTILES],
                "shape": np.round(found.shape(one), 2).tolist(),
            }
            for one in found.groups
        ],
    }
    return InteractiveChart("latency", data, _text(found, title))
