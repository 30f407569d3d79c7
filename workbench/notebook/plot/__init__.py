"""Figures of a recording: `wb.plot.flamegraph(recording)` and friends.

Every function takes a recording and returns a matplotlib Figure with a title, units on its axes and a paragraph on
how to read it (``explain=False`` leaves the paragraph out of the picture, for a paper with a caption of its own).
"""

from __future__ import annotations

from workbench.notebook.plot.flame import flamegraph
from workbench.notebook.plot.style import PALETTE, Chart

__all__ = ("PALETTE", "Chart", "flamegraph")
