"""Figures of a recording: `wb.plot.flamegraph(recording)` and friends.

Every function takes a recording and returns a matplotlib Figure with a title, units on its axes and a paragraph on
how to read it (``explain=False`` leaves the paragraph out of the picture, for a paper with a caption of its own).
`top` returns the table behind a flame graph.
"""

from __future__ import annotations

from workbench.notebook.plot.causal import causal_profile
from workbench.notebook.plot.causal_ranking import causal_ranking
from workbench.notebook.plot.costs import costs
from workbench.notebook.plot.entries import map_entries
from workbench.notebook.plot.flame import flamegraph
from workbench.notebook.plot.functions import top
from workbench.notebook.plot.gains import causal_gains, demonstrations
from workbench.notebook.plot.heat import heatmap
from workbench.notebook.plot.lanes import timeline
from workbench.notebook.plot.latency import latencies, latency_histogram
from workbench.notebook.plot.schedulers import schedulers
from workbench.notebook.plot.style import PALETTE, Chart

__all__ = (
    "PALETTE",
    "Chart",
    "causal_gains",
    "causal_profile",
    "causal_ranking",
    "costs",
    "demonstrations",
    "flamegraph",
    "heatmap",
    "latencies",
    "latency_histogram",
    "map_entries",
    "schedulers",
    "timeline",
    "top",
)
