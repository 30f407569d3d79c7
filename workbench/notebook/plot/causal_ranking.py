"""Regions in the order of what they promise, beside what an ordinary profiler shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import MissingFrame
from workbench.notebook.plot.style import INK, NEUTRAL, PALETTE, SOFT, Chart, chart, legend, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.frames.view import RecordingView

__all__ = ("causal_ranking",)

RANKING = (
    "each blue bar says how much less time would pass at the progress point at the speed-up in brackets, the one that "
    "promises most; the line is its 95 % interval. The grey bar is the part of the samples in the region, which an "
    "ordinary profiler shows: where it is long and the blue one short, making the region faster is of no use."
)


def causal_ranking(
    recording: RecordingView,
    title: str = "Where a faster region gains most",
    *,
    most: int = 12,
    explain: bool = True,
) -> Chart:
    """Regions by what they promise at best, beside the part of the samples that was in them; a panel per point.

    Parameters
    ----------
    recording : Recording
        With frame `causal_profile`, and `causal_samples` for the samples.
    title : str
    most : int
        Regions to draw.
    explain : bool
        Print the reading instructions below the plot.

    Raises
    ------
    MissingFrame
        The recording has no predictions.
    """
    frame = recording.frame("causal_profile")
    frame = frame[np.isfinite(frame["change"].astype(float)) & (frame["speedup"] > 0)]
    if frame.empty:
        raise MissingFrame(
            "the recording holds no predictions",
            "`workbench causal run` makes them; were there experiments at 0 %?",
        )
    shares: dict[str, float] = {}
    if "causal_samples" in recording.frames:
        samples = recording.frame("causal_samples")
        whole = max(int(samples["count"].sum()), 1)
        counts = zip(samples["location"].astype(str), samples["count"], strict=True)
        shares = {location: 100 * int(count) / whole for location, count in counts}
    points = sorted(frame["point"].astype(str).unique())
    best = frame.loc[frame.groupby(["point", "region"], observed=True)["change"].idxmin()]
    tallest = min(most, int(best.groupby("point", observed=True).size().max()))
    figure = chart(
        title, RANKING, height=1.5 + len(points) * (0.8 + 0.42 * tallest), explain=explain
    )
    for axes, point in zip(
        figure.subplots(len(points), 1, squeeze=False).ravel(), points, strict=True
    ):
        rows = best[best["point"].astype(str) == point].sort_values("change").head(most)
        _bars(axes, rows, point, shares)
    return figure


def _bars(axes: Axes, rows: pd.DataFrame, point: str, shares: dict[str, float]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    at = np.arange(len(rows))
    gain = -rows["change"].to_numpy(float)
    axes.barh(at - 0.18, gain, 0.36, color=PALETTE[0])
    ends = -rows[["high", "low"]].to_numpy(float)
    sure = np.isfinite(ends).all(axis=1)
    axes.hlines(at[sure] - 0.18, ends[sure, 0], ends[sure, 1], colors=INK, linewidth=1.2)
    part = [shares.get(str(region), np.nan) for region in rows["region"]]
    axes.barh(at + 0.2, part, 0.28, color=NEUTRAL)
    names = [
        f"{region} ({speedup:.0%} faster)"
        for region, speedup in zip(rows["region"], rows["speedup"], strict=True)
    ]
    axes.set_yticks(at, names, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel(f"less time per {point} (%); samples (%)", parse_math=False)
    tidy(axes, grid="x")
    handles: list[object] = [Patch(color=PALETTE[0], label="gain at best")]
    if sure.any():
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="95 % interval"))
    if np.isfinite(part).any():
        handles.append(Patch(color=NEUTRAL, label="part of the samples"))
    legend(axes, handles)
