"""Deliberate errors in a notebook: what went wrong, where in the cell, and what to do, without a wall of traceback.

The cell fails all the same: papermill and nbconvert see the error, its name and its text. `%wb_debug on` brings the
whole traceback back.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("install", "remove", "shorten")

HOOK = "_render_traceback_"  # the method by which IPython lets an exception draw itself
RED, END = "\x1b[31m", "\x1b[0m"


def install(shell: Any) -> None:
    """Show `WorkbenchError` shortly in this shell."""

    def render(error: WorkbenchError) -> list[str]:
        return _lines(shell, error)

    setattr(WorkbenchError, HOOK, render)


def remove() -> None:
    """Show every error with its traceback again."""
    if hasattr(WorkbenchError, HOOK):
        delattr(WorkbenchError, HOOK)


def shorten(error: BaseException, text: str) -> None:
    """Show this one exception as a line: its name and `text`."""
    lines = [f"{RED}{type(error).__name__}{END}: {text}"]
    setattr(error, HOOK, lambda: lines)


def _lines(shell: Any, error: WorkbenchError) -> list[str]:
    lines = [f"{RED}{type(error).__name__}{END}: {error.message}"]
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    place = _place(shell, error.__traceback__)
    if place:
        lines.append(f"  at {place}")
    return lines


def _place(shell: Any, trace: TracebackType | None) -> str:
    """The innermost line of a notebook cell that led to the error."""
    names = getattr(shell.compile, "_filename_map", {})
    for frame in reversed(traceback.extract_tb(trace)):
        if frame.filename in names or frame.filename.startswith("<ipython-input"):
            number = names.get(frame.filename)
            cell = f"cell {number}, " if number is not None else ""
            # IPython's own spelling of a magic is no line that the user wrote.
            line = "" if "get_ipython().run_" in (frame.line or "") else f": {frame.line}"
            return f"{cell}line {frame.lineno}{line}"
    return ""
