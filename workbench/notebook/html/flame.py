"""The interactive flame graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.calltree import CallTree, call_tree
from workbench.frames.view import natural_frame
from workbench.notebook.html.page import LIMIT, InteractiveChart, safe_json
from workbench.notebook.plot.flame import WHAT, amount, label_colors, module_order
from workbench.notebook.plot.functions import top_text
from workbench.notebook.plot.style import KERNEL, color_of, short_module

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("interactive_flamegraph",)

HELP = (
    "How to read: each box is a function; its width is the share of {what} spent in it and in everything it called, "
    "which is drawn below it. Left to right is not time. Click a box to zoom into it, Escape or the button to return; "
    "arrow keys walk through the boxes."
)
NAME_LIMIT = 300
NODE_BYTES = 30
BUDGET = LIMIT - 60_000
"""Bytes for data; style, script and the text fallback need the rest."""


def _prune(tree: CallTree, nodes: int) -> CallTree:
    """At most `nodes` nodes, the heaviest. A parent is never lighter than its children, so the tree stays whole."""
    if len(tree) <= nodes:
        return tree
    limit = np.partition(tree.total, len(tree) - nodes)[len(tree) - nodes]
    kept = tree.pruned(float(limit))
    return kept if len(kept) <= nodes else tree.pruned(float(np.nextafter(limit, np.inf)))


def _payload(tree: CallTree, order: tuple[str, ...]) -> dict[str, Any]:
    used, label = np.unique(tree.label, return_inverse=True)
    colors = label_colors(tree, order)
    names = [str(tree.names[i]) for i in used]
    names = [name if len(name) <= NAME_LIMIT else f"{name[: NAME_LIMIT - 1]}…" for name in names]
    shown = {short_module(str(tree.modules[i])) for i in used}
    legend = [[module, color_of(module, order)] for module in order[:7] if module in shown]
    if "kernel" in set(tree.spaces[used]):
        legend.append(["kernel", KERNEL])
    whole = np.rint(tree.total).astype(np.int64)
    return {
        "names": names,
        "modules": [str(tree.modules[i])[-NAME_LIMIT:] for i in used],
        "colors": [colors[i] for i in used],
        "legend": legend,
        "nodes": {
            "parent": tree.parent.tolist(),
            "level": tree.level.tolist(),
            "name": label.tolist(),
            "left": np.rint(tree.layout()).astype(np.int64).tolist(),
            "total": whole.tolist(),
            "own": np.rint(tree.own).astype(np.int64).tolist(),
        },
    }


def interactive_flamegraph(
    recording: RecordingView,
    frame: str | None = None,
    *,
    by: str | None = None,
    title: str | None = None,
) -> InteractiveChart:
    """Flame graph to zoom, search and walk through in a notebook; no network, at most about 1 MB of HTML.

    Parameters
    ----------
    frame : str or None
        samples, offcpu, calls, gpu_calls, faults or watches; None takes the first of these that exists.
    by : "time", "count" or None
        Width of a box; None takes counts for samples, time for durations.

    Returns
    -------
    InteractiveChart
        Shows itself; `to_page()` is a whole HTML document. Where scripts do not run it is the table of the top
        functions.

    Raises
    ------
    MissingFrame
        The frame or its stacks were not recorded.
    """
    frame = frame or natural_frame(recording)
    by = by or ("count" if frame == "samples" else None)
    tree = call_tree(recording, frame, by)
    order = module_order(recording)
    what = WHAT.get(frame, tree.unit) if tree.unit == "ns" else tree.unit
    head = "CPU" if frame == "samples" and by == "count" else what
    title = title or f"{recording.name}: {head}, {amount(tree.total[0], tree.unit)} in all"
    nodes = min(len(tree), BUDGET // NODE_BYTES)
    while True:
        kept = _prune(tree, nodes)
        note = ""
        if len(kept) < len(tree):
            rarest = float(kept.total.min()) / max(float(tree.total[0]), 1e-9)
            note = f" · {len(tree) - len(kept):,} boxes below {rarest:.2g} of the whole left out"
        data = {
            "title": title,
            "unit": tree.unit,
            "help": HELP.format(what=what),
            "note": note,
            **_payload(kept, order),
        }
        if len(kept) <= 2 or len(safe_json(data).encode()) <= BUDGET:
            break
        nodes = len(kept) * 3 // 4
    return InteractiveChart("flamegraph", data, f"{title}\n{top_text(recording, frame, by=by)}")
