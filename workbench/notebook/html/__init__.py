"""Interactive charts for the notebook: inline HTML that needs no network, with a plain-text fallback.

A chart is data computed here, a text that says the same, and a script `assets/KIND.js` that draws the data; what the
scripts share (themes, tooltips, zooming along time) is `assets/common.js`. To add one, write the three.
"""

from __future__ import annotations

from workbench.notebook.html.flame import interactive_flamegraph
from workbench.notebook.html.heat import interactive_heatmap
from workbench.notebook.html.lanes import interactive_timeline
from workbench.notebook.html.latency import interactive_latency
from workbench.notebook.html.page import InteractiveChart

__all__ = (
    "InteractiveChart",
    "interactive_flamegraph",
    "interactive_heatmap",
    "interactive_latency",
    "interactive_timeline",
)
