"""Interactive charts for the notebook: inline HTML that needs no network, with a plain-text fallback."""

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
