"""Recorders show themselves in IPython: `wb.record(...).start()` at the end of a cell is a live view.

Registered by name, so that neither side imports the other: recorders know nothing of notebooks, and an IPython that
never shows a recorder loads none of this.
"""

from __future__ import annotations

from typing import Any

__all__ = ("install",)

RECORDER = ("workbench.collectors.recorder", "Recorder")


def _show(recorder: Any) -> None:
    from workbench.notebook.widget import RecorderView

    RecorderView(recorder).display()


def install(shell: Any) -> None:
    """Make `shell` show recorders; a second call changes nothing."""
    shell.display_formatter.ipython_display_formatter.for_type_by_name(*RECORDER, _show)
