"""Predicted gains beside the truth: by program, by who predicted, by boot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingFrame
from workbench.notebook.plot.style import INK, PALETTE, SOFT, Chart, chart, legend, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.frames.view import RecordingView

__all__ = ("causal_gains", "demonstrations")

MANY = 600
"""Predictions from which on they are drawn small, and summed up by quantiles."""
WHO = {
    "scheduler": "by the scheduler",
    "userspace": "by the userspace runtime",
    "simulator": "by the simulated scheduler",
}
HOW = (
    "every dot is one region made faster by one amount. Left: the change of the time of a round as predicted, over "
    "what really shortening the region gives; on the diagonal both agree. Right: predicted minus true; zero is right, "
    "and the grey band is {limit:g} points wide to either side."
)
HOW_NULL = " Hollow dots: nobody waits for the region, its gain is nothing."
HOW_MANY = " A thick bar holds 95 % of a row's predictions, the white mark is their median."
HOW_BOOTS = " Grey crosses: the boot refused itself, nothing of it is used."


def causal_gains(
    recording: RecordingView | pd.DataFrame,
    title: str = "Predicted and true gains",
    *,
    rows: str = "label",
    limit: float = 2.0,
    explain: bool = True,
) -> Chart:
    """Predictions beside the truth: all of them, and the errors by program or by boot.

    Parameters
    ----------
    recording : Recording or DataFrame
        With frame `causal_gains`, as `workbench.runs.known_gains` makes it; or some rows of it.
    title : str
        Heading.
    rows : {"label", "run", "cpus"}
        What the errors are split by: the program; the boot of the guest; the number of CPUs.
    limit : float
        Half the width of the band, points.
    explain : bool
        Print the reading instructions below the plot.

    Raises
    ------
    MissingFrame
        The recording has no predictions.
    """
    from matplotlib.lines import Line2D
    from pandas import DataFrame

    frame = recording if isinstance(recording, DataFrame) else recording.frame("causal_gains")
    frame = frame.astype({"origin": str, "label": str})
    if frame.empty:
        raise MissingFrame("the recording holds no predictions", "see workbench.runs.known_gains")
    values = _order(frame, rows)
    many, refused = len(frame) > MANY, not bool(frame["accepted"].all())
    how = HOW.format(limit=limit) + (HOW_MANY if many else HOW_NULL) + HOW_BOOTS * refused
    height = 1.5 + max(3.2, 0.27 * len(values))
    figure = chart(title, how, height=height, explain=explain)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    origins = [one for one in WHO if one in set(frame["origin"])]
    colours = {one: PALETTE[number] for number, one in enumerate(origins)}
    _diagonal(left, frame, colours, many)
    _errors(right, frame, rows, values, colours, limit, many)
    dots: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 5}
    handles = [Line2D([], [], color=colours[one], label=WHO[one], **dots) for one in origins]
    if len(handles) > 1:
        legend(left, handles, columns=1)
    return figure


def _order(frame: pd.DataFrame, rows: str) -> list[Any]:
    found = list(frame[rows].drop_duplicates())
    return found if rows == "label" else sorted(found)


def _style(colour: str, many: bool) -> dict[str, Any]:
    if many:
        return {"s": 5, "alpha": 0.25, "linewidths": 0, "color": colour, "rasterized": True}
    return {"s": 24, "linewidths": 1.2, "edgecolors": colour}


def _dots(axes: Axes, x: Any, y: Any, frame: pd.DataFrame, colour: str, many: bool) -> None:
    """Filled, or hollow for null regions; crosses where the boot refused itself."""
    good = frame["accepted"].to_numpy(bool)
    if many:
        axes.scatter(x[good], y[good], **_style(colour, many))
    else:
        null = frame["null"].to_numpy(bool)
        for which, face in ((good & ~null, colour), (good & null, "white")):
            axes.scatter(x[which], y[which], facecolors=face, zorder=3, **_style(colour, many))
    axes.scatter(x[~good], y[~good], marker="x", s=14, color=SOFT, alpha=0.6, linewidths=0.8)


def _diagonal(axes: Axes, frame: pd.DataFrame, colours: dict[str, str], many: bool) -> None:
    for origin, colour in colours.items():
        own = frame[frame["origin"] == origin]
        _dots(axes, own["true"].to_numpy(), own["predicted"].to_numpy(), own, colour, many)
    axes.axline((0, 0), slope=1, color=SOFT, linewidth=0.7, zorder=1)
    shown = frame[frame["accepted"].astype(bool)] if frame["accepted"].any() else frame
    both = shown[["true", "predicted"]].to_numpy()
    low, high = min(-5.0, float(both.min())), max(3.0, float(both.max()))
    room = 0.05 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    axes.set_xlabel("true change of the period (%)")
    axes.set_ylabel("predicted (%)", color=INK)
    tidy(axes, grid="both")


def _errors(
    axes: Axes,
    frame: pd.DataFrame,
    rows: str,
    values: list[Any],
    colours: dict[str, str],
    limit: float,
    many: bool,
) -> None:
    error = (frame["predicted"] - frame["true"]).to_numpy()
    axes.axvspan(-limit, limit, color="#EEEEEE", zorder=0)
    axes.axvline(0, color=SOFT, linewidth=0.8, zorder=1)
    shifts = np.linspace(-0.17, 0.17, len(colours)) if len(colours) > 1 else np.zeros(1)
    for place, value in enumerate(values):
        here = (frame[rows] == value).to_numpy()
        for shift, (origin, colour) in zip(shifts, colours.items(), strict=True):
            which = here & (frame["origin"] == origin).to_numpy()
            own, off = frame[which], error[which]
            if not len(own):
                continue
            if many:
                low, middle, high = np.percentile(off, (2.5, 50, 97.5))
                spread = np.linspace(-0.28, 0.28, len(own))
                axes.scatter(off, place + spread, **_style(colour, many))
                axes.plot([low, high], [place] * 2, color=colour, linewidth=5, alpha=0.8)
                axes.plot([middle] * 2, [place - 0.22, place + 0.22], color="white", linewidth=1.5)
            else:
                _dots(axes, off, np.full(len(own), place + shift), own, colour, many)
    shown = error[frame["accepted"].to_numpy(bool)] if frame["accepted"].any() else error
    reach = 1.08 * max(1.6 * limit, float(np.abs(shown).max()))
    axes.set_xlim(-reach, reach)
    names = {"label": "{}", "run": "boot {}", "cpus": "{} CPUs"}[rows]
    axes.set_yticks(range(len(values)), [names.format(one) for one in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel("predicted minus true (points)")
    tidy(axes, grid="x")


HOW_SERVERS = (
    "each row is a program under load with a bottleneck that is known. The dot is how much less time a request is "
    "predicted to take without it, with a 95 % interval; the open diamond is what taking it out really gave. Grey "
    "dots: the other regions that were tried, predicted for the same speed-up."
)


def demonstrations(
    recordings: dict[str, RecordingView],
    title: str = "Real servers: predicted, then really taken out",
    *,
    explain: bool = True,
) -> Chart:
    """Predicted gains of real programs beside what removing the bottleneck gave.

    Parameters
    ----------
    recordings : dict
        By name of the program: a recording with frame `demonstration_gains`.
    title : str
        Heading.
    explain : bool
        Print the reading instructions below the plot.
    """
    from matplotlib.lines import Line2D

    figure = chart(title, HOW_SERVERS, height=1.4 + 0.6 * len(recordings), explain=explain)
    axes = figure.subplots()
    labels = []
    for place, (name, recording) in enumerate(recordings.items()):
        frame = recording.frame("demonstration_gains").astype({"spot": str})
        frame = frame[frame["rank"] > 0]
        others = frame[~frame["bottleneck"].astype(bool)]
        axes.plot(
            others["predicted"], [place] * len(others), "o", color=SOFT, markersize=4, alpha=0.7
        )
        own = frame[frame["bottleneck"].astype(bool)].iloc[0]
        axes.plot(own["predicted"], place, "o", color=PALETTE[0], markersize=7, zorder=3)
        axes.hlines(place, own["low"], own["high"], color=PALETTE[0], linewidth=3, alpha=0.4)
        axes.plot(
            own["measured"], place, "D", markersize=9, zorder=4,
            markerfacecolor="none", markeredgecolor=PALETTE[5], markeredgewidth=1.5,
        )  # fmt: skip
        labels.append(f"{name}: {own['spot']}")
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("change of the time of a request (%)")
    tidy(axes, grid="x")
    dots: dict[str, Any] = {"marker": "o", "linestyle": ""}
    diamond: dict[str, Any] = {"marker": "D", "linestyle": "", "markerfacecolor": "none"}
    legend(
        axes,
        [
            Line2D([], [], color=PALETTE[0], label="predicted for the bottleneck", **dots),
            Line2D([], [], color=PALETTE[5], label="measured", **diamond),
            Line2D([], [], color=SOFT, markersize=4, label="predicted for other regions", **dots),
        ],
    )
    return figure
