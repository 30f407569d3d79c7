"""Causal profiles: what each region promises, as curves with intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingFrame
from workbench.notebook.plot.style import INK, PALETTE, SOFT, Chart, chart, legend, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.frames.view import RecordingView

__all__ = ("causal_profile", "draw_profile")

HOW = (
    "each curve says how much less (below zero) or more time would pass between two passes of the progress point, if "
    "the region took as much less time as the horizontal axis says. The bars are 95 % intervals of a bootstrap over "
    "experiments. The dotted line is what a part of the program would gain that takes all of its time; a flat curve "
    "promises nothing, and one that bends says from where on something else is waited for."
)
TRUTH = " Diamonds: what the program gained when the region's work was really that much less."
_DIAMOND: dict[str, Any] = {
    "marker": "D", "markersize": 8, "linestyle": "", "markerfacecolor": "none", "markeredgewidth": 1.3, "zorder": 4,
}  # fmt: skip
MOST = 6
"""Regions in a picture: those that promise most."""


def causal_profile(
    recording: RecordingView,
    title: str = "What faster regions would gain",
    *,
    truth: pd.DataFrame | None = None,
    most: int = MOST,
    explain: bool = True,
) -> Chart:
    """Predicted change of the progress period by how much faster a region were, a panel per progress point.

    Parameters
    ----------
    recording : Recording
        With frame `causal_profile`, as `workbench causal` makes it.
    title : str
        Heading; "(void)" is added if the run's own check says that it cannot be believed.
    truth : DataFrame, optional
        What really shortening the regions gives: columns ``region``, ``speedup`` (fraction), ``true`` (%), as in the
        frame `causal_gains`. Drawn as diamonds beside the curves.
    most : int
        Regions to draw: those that promise most.
    explain : bool
        Print the reading instructions below the plot.

    Raises
    ------
    MissingFrame
        The recording has no predictions.
    """
    frame = recording.frame("causal_profile")
    frame = frame[np.isfinite(frame["change"].astype(float))]
    if frame.empty:
        raise MissingFrame(
            "the recording holds no predictions",
            "`workbench causal run` makes them; were there experiments at 0 %?",
        )
    gate = recording.manifest.notes.get("gate", {})
    heading = title if not isinstance(gate, dict) or gate.get("ok", True) else f"{title} (void)"
    return draw_profile(frame, heading, truth=truth, most=most, explain=explain)


def draw_profile(
    frame: pd.DataFrame,
    title: str,
    *,
    truth: pd.DataFrame | None = None,
    most: int = MOST,
    explain: bool = True,
) -> Chart:
    """The curves of a frame `causal_profile`; see `causal_profile`."""
    frame = frame[np.isfinite(frame["change"].astype(float))]
    points = sorted(frame["point"].astype(str).unique())
    columns = min(len(points), 2)
    rows = math.ceil(len(points) / columns)
    how = HOW if truth is None else HOW + TRUTH
    figure = chart(title, how, height=1.2 + 3.1 * rows, explain=explain)
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes[len(points) :]:
        axes.set_visible(False)
    for axes, point in zip(all_axes, points, strict=False):
        _panel(axes, frame[frame["point"].astype(str) == point], point, most, truth)
    return figure


def _panel(
    axes: Axes, frame: pd.DataFrame, point: str, most: int, truth: pd.DataFrame | None
) -> None:
    from matplotlib.lines import Line2D

    best = frame.groupby(frame["region"].astype(str))["change"].min().sort_values(kind="stable")
    handles = []
    for number, region in enumerate(best.index[:most]):
        rows = frame[frame["region"].astype(str) == region].sort_values("speedup")
        colour = PALETTE[number % len(PALETTE)]
        x = 100 * rows["speedup"].to_numpy(float)
        y, low, high = (rows[name].to_numpy(float) for name in ("change", "low", "high"))
        axes.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.4)
        sure = np.isfinite(low) & np.isfinite(high)
        axes.vlines(x[sure], low[sure], high[sure], colors=colour, linewidth=3, alpha=0.4)
        handles.append(Line2D([], [], color=colour, marker="o", markersize=4, label=str(region)))
        if truth is not None:
            own = truth[truth["region"].astype(str) == region]
            axes.plot(100 * own["speedup"], own["true"], **_DIAMOND, markeredgecolor=colour)
    if truth is not None:
        handles.append(Line2D([], [], **_DIAMOND, markeredgecolor=INK, label="really shortened"))
    lowest = float(np.nanmin([frame["change"].min(), frame["low"].min(), -5]))
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.axline((0, 0), slope=-1, color=SOFT, linewidth=0.6, linestyle=":")
    axes.set_xlim(-3, 103)
    highest = float(np.nanmax([frame["change"].max(), frame["high"].max(), 3]))
    axes.set_ylim(1.12 * lowest, 1.2 * highest)
    axes.set_xlabel("region faster by (%)")
    axes.set_ylabel(f"change of the period of\n{point} (%)", color=INK, parse_math=False)
    tidy(axes, grid="y")
    legend(axes, handles, columns=3)
