"""Flame graphs as figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.frames.calltree import THREAD, CallTree, call_tree, function_totals
from workbench.frames.view import natural_frame
from workbench.notebook.plot.style import (
    INK,
    KERNEL,
    NEUTRAL,
    Chart,
    chart,
    color_of,
    duration_text,
    legend,
    short_module,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("flamegraph",)

FLAME = (
    "each box is a function; its width is the share of {what} spent in it and in everything it called, which is "
    "drawn {side} it. The {end} edge shows where the {what} was really spent. Left to right has no meaning: it is "
    "not time, siblings are sorted by width. Colours tell libraries apart; grey is the kernel. Boxes narrower than "
    "{cut} are left out."
)
LEVELS = 48
"""Levels of boxes that fit on a page; wide deep stacks may still have more."""
WHAT = {
    "samples": "CPU time",
    "offcpu": "waiting time",
    "calls": "call time",
    "gpu_calls": "GPU API time",
}


def module_order(recording: RecordingView) -> tuple[str, ...]:
    """Modules of a recording, hottest first, without the kernel: the order in which they get their colours.

    Always by the recording's main frame, so that a module has one colour in all its figures.
    """
    table, _ = function_totals(recording, natural_frame(recording), "count")
    user = table[table["space"].isin(["user", "python", "jit"])]
    load: dict[str, tuple[float, float]] = {}
    for module, own, total in zip(user["module"], user["self"], user["total"], strict=True):
        name = short_module(str(module))
        before = load.get(name, (0.0, 0.0))
        load[name] = before[0] + own, max(before[1], total)
    return tuple(sorted(load, key=lambda name: (-load[name][0], -load[name][1], name)))


def label_colors(tree: CallTree, order: tuple[str, ...]) -> list[str]:
    """Colour of every label of the tree."""
    out = []
    for module, space in zip(tree.modules, tree.spaces, strict=True):
        if space == THREAD:
            out.append(NEUTRAL)
        elif space == "kernel":
            out.append(KERNEL)
        else:
            out.append(color_of(short_module(str(module)), order))
    return out


def fit(text: str, width: float) -> str:
    """`text` cut to `width` characters with an ellipsis; empty when fewer than three would remain.

    A function without a symbol (``module:0xaddress``) keeps its address: the colour tells the module.
    """
    if len(text) <= width:
        return text
    module, mark, address = text.rpartition(":0x")
    room = int(width) - len(mark + address) - 2  # digits are wider than the average letter
    if mark and room >= 0:
        return f"{module[:room]}…{mark}{address}"
    return text[: int(width) - 1] + "…" if width >= 4 else ""


def amount(value: float, unit: str) -> str:
    """A weight with its unit."""
    return duration_text(value) if unit == "ns" else f"{value:,.0f} {unit}"


def _ink(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 120 else INK


def _draw(
    axes: Axes, tree: CallTree, left: NDArray[np.float64], colors: list[str], chars: float
) -> None:
    from matplotlib.collections import PolyCollection

    whole = tree.total[0]
    x0, x1 = left / whole, (left + tree.total) / whole
    y = tree.level.astype(float)
    boxes = np.stack([np.c_[x0, y], np.c_[x1, y], np.c_[x1, y + 0.94], np.c_[x0, y + 0.94]], axis=1)
    face = [colors[label] for label in tree.label]
    axes.add_collection(
        PolyCollection(list(boxes), facecolors=face, edgecolors="white", linewidths=0.4)
    )
    for i in range(len(tree)):
        text = fit(str(tree.names[tree.label[i]]), (x1[i] - x0[i]) * chars - 1)
        if text:
            axes.text(
                x0[i] + 0.003,
                y[i] + 0.44,
                text,
                fontsize=7.5,
                color=_ink(face[i]),
                va="center_baseline",
                clip_on=True,
                parse_math=False,
            )


def _pruned(tree: CallTree, minimum: float | None) -> tuple[CallTree, float]:
    """The tree without its narrow boxes, and the share below which they were left out."""
    share = 0.002 if minimum is None else minimum
    kept = tree.pruned(tree.total[0] * share)
    while minimum is None and int(kept.level.max()) >= LEVELS and share < 0.02:
        share *= 1.25
        kept = tree.pruned(tree.total[0] * share)
    return kept, share


def flamegraph(
    recording: RecordingView,
    frame: str | None = None,
    *,
    title: str | None = None,
    by: str | None = None,
    inverted: bool = False,
    minimum: float | None = None,
    explain: bool = True,
) -> Chart:
    """Flame graph of the stacks of a frame.

    Each box is a function; its width is its share of the total weight including its callees.

    Parameters
    ----------
    recording : recording
        Needs frame `stacks` and `frame`.
    frame : str or None
        samples, offcpu, calls, gpu_calls, faults or watches; None takes the first of these that exists.
    title : str or None
        Title; None names the recording, the frame and the total.
    by : "time", "count" or None
        Width of a box. None takes time where the frame has any.
    inverted : bool
        Root at the top (icicle) instead of at the bottom.
    minimum : float or None
        Boxes below this share of the total are left out. None takes 0.2 %, and more where thin towers would make
        the figure higher than a page.
    explain : bool
        Print how to read the figure below it.

    Returns
    -------
    Chart
        A matplotlib Figure.

    Raises
    ------
    MissingFrame
        The frame or its stacks were not recorded.
    """
    from matplotlib.patches import Patch

    frame = frame or natural_frame(recording)
    whole = call_tree(recording, frame, by)
    order = module_order(recording)
    tree, minimum = _pruned(whole, minimum)
    left = tree.layout()
    levels = int(tree.level.max()) + 1
    what = WHAT.get(frame, whole.unit) if whole.unit == "ns" else whole.unit
    text = FLAME.format(
        what=what,
        side="below" if inverted else "above",
        end="bottom" if inverted else "top",
        cut=f"{minimum:.1%} of the whole",
    )
    title = title or f"{recording.name}: {what}, {amount(whole.total[0], whole.unit)} in all"
    height = max(2.2, 0.19 * levels + 1.35 + (0.35 if explain else 0.0))
    figure = chart(title, text, height=height, explain=explain)
    axes = figure.add_subplot()
    axes.set_axis_off()
    colors = label_colors(tree, order)
    _draw(axes, tree, left, colors, chars=158)
    axes.set_xlim(0, 1)
    axes.set_ylim((levels, 0) if inverted else (0, levels))
    shown = {short_module(str(tree.modules[label])) for label in tree.label}
    handles = [
        Patch(color=color_of(module, order), label=module)
        for module in order[:7]
        if module in shown
    ]
    if "kernel" in set(tree.spaces[tree.label]):
        handles.append(Patch(color=KERNEL, label="kernel"))
    legend(axes, handles, 8)
    return figure
