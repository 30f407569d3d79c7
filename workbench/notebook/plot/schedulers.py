"""What a workload saw under several schedulers: waits of wake-ups, ends of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.notebook.plot.style import PALETTE, Chart, chart, legend, tidy

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("schedulers",)

HOW = (
    "left, every dot is a wake-up of the sleeping process: how long after its time it ran (logarithmic); the bar marks "
    "the median. Right, every dot is a computing process: when its work was done. All times are of the clock that the "
    "workload saw."
)


def schedulers(
    recording: RecordingView, title: str = "Under which scheduler?", *, explain: bool = True
) -> Chart:
    """Waits of wake-ups and ends of work by scheduler.

    Parameters
    ----------
    recording : Recording
        With frames `scheduler_waits` and `scheduler_tasks`, such as `wb.sched.compare()` makes.
    title : str
        Heading.
    explain : bool
        Print the reading instructions below the plot.

    Raises
    ------
    MissingFrame
        The recording lacks a frame.
    """
    from matplotlib.lines import Line2D

    tasks = recording.frame("scheduler_tasks").astype({"scheduler": str, "kind": str})
    waits = recording.frame("scheduler_waits").astype({"scheduler": str})
    labels = list(tasks["scheduler"].drop_duplicates())
    figure = chart(title, HOW, height=1.5 + 0.55 * len(labels), explain=explain)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for row, label in enumerate(labels):
        own = waits[waits["scheduler"] == label]["wait"].to_numpy() / 1e6
        ends = tasks[(tasks["scheduler"] == label) & (tasks["kind"] == "computing")]["end"] / 1e6
        spread = np.linspace(-0.25, 0.25, len(own)) if len(own) > 1 else np.zeros(len(own))
        left.plot(np.maximum(own, 1e-3), row + spread, "o", markersize=3.5, color=PALETTE[0])
        if len(own):
            left.plot([np.median(own)] * 2, [row - 0.36, row + 0.36], color=PALETTE[1], linewidth=2)
        right.plot(ends, [row] * len(ends), "o", markersize=5, color=PALETTE[2])
    left.set_xscale("log")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_xlabel("wait of a wake-up, ms")
    right.set_xlabel("work done after, ms")
    right.set_xlim(0, 1.08 * max(1e-3, float(tasks["end"].max()) / 1e6))
    right.tick_params(axis="y", length=0)
    left.set_yticks(range(len(labels)), labels)
    left.invert_yaxis()
    for axes in (left, right):
        tidy(axes, grid="x")
    dots: dict[str, Any] = {"marker": "o", "linestyle": ""}
    legend(
        left,
        [
            Line2D([], [], color=PALETTE[0], label="wake-up", **dots),
            Line2D([], [], color=PALETTE[1], linewidth=2, label="median"),
        ],
    )
    return figure
