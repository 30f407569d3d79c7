"""Costs of probes, with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import MissingFrame
from workbench.notebook.plot.style import INK, PALETTE, Chart, chart, duration_text, legend, tidy

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("costs",)

HOW = (
    "each row is one kind of probe on the machine that recorded. The dot is the median cost of one hit, the line the "
    "range that holds 95 % of the measured batches. The axis is logarithmic: equal steps multiply the cost. Colour is "
    "the class of the probed function's first instruction, which decides how the kernel gets control."
)
CLASSES = ("nop5", "emulated", "single-step", "not applicable")


def costs(
    recording: RecordingView, title: str = "What one hit costs", *, explain: bool = True
) -> Chart:
    """Cost of one hit per probe and instruction class.

    Parameters
    ----------
    recording : Recording
        With frame `overhead`, such as `wb.calibrate()` makes.
    title : str
        Heading.
    explain : bool
        Print the reading instructions below the plot.

    Raises
    ------
    MissingFrame
        The recording has no costs.
    """
    from matplotlib.lines import Line2D

    frame = recording.frame("overhead")
    frame = frame[frame["cost"] > 0].reset_index(drop=True)
    if frame.empty:
        raise MissingFrame(
            "the recording holds no probe costs", "wb.calibrate() measures them on this machine"
        )
    figure = chart(title, HOW, height=1.9 + 0.27 * len(frame), explain=explain)
    axes = figure.add_subplot()
    rows = np.arange(len(frame))[::-1]
    colours = [
        PALETTE[CLASSES.index(c) % len(PALETTE)] if c in CLASSES else INK
        for c in frame["instruction_class"]
    ]
    low, high = frame["cost_low"].clip(lower=1), frame["cost_high"].clip(lower=1)
    axes.hlines(rows, low, high, colors=colours, linewidth=3, alpha=0.45)
    axes.scatter(frame["cost"], rows, c=colours, s=34, zorder=3)
    for row, cost, right in zip(rows, frame["cost"], high, strict=True):
        axes.annotate(
            duration_text(float(cost)), (max(float(right), float(cost)), row), xytext=(7, 0),
            textcoords="offset points", va="center", fontsize=8, color=INK,
        )  # fmt: skip
    labels = [f"{one.collector}: {one.probe}" for one in frame.itertuples()]
    axes.set_yticks(rows, labels)
    axes.set_xscale("log")
    axes.set_xlabel("cost of one hit (ns)")
    axes.set_xlim(right=float(high.max()) * 3)
    axes.set_ylim(-0.7, len(frame) - 0.3)
    tidy(axes, grid="x")
    present = [c for c in CLASSES if c in set(frame["instruction_class"])]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=PALETTE[CLASSES.index(c)], label=c)
        for c in present
    ]
    legend(axes, handles)
    return figure
