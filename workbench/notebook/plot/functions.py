"""Tables of the hottest functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.frames.calltree import function_totals
from workbench.frames.view import natural_frame
from workbench.notebook.plot.flame import fit
from workbench.notebook.plot.style import short_module

if TYPE_CHECKING:
    import pandas as pd

    from workbench.frames.view import RecordingView

__all__ = ("top", "top_text")


def top(
    recording: RecordingView, frame: str | None = None, *, by: str | None = None, rows: int = 20
) -> pd.DataFrame:
    """The functions with the most self weight.

    Parameters
    ----------
    frame : str or None
        A frame with stacks; None takes samples if there are any.
    by : "time", "count" or None
        None takes counts for samples, time for calls and waits.
    rows : int
        Functions to list.

    Returns
    -------
    DataFrame
        Columns: function (str), module (str, file name), self, total (float64; samples, or ns for durations), self %
        and total % (of all rows of the frame). ``attrs["unit"]`` names the unit of self and total. Recursion counts
        once per stack.

    Raises
    ------
    MissingFrame
        The frame or its stacks were not recorded.
    """
    frame = frame or natural_frame(recording)
    by = by or ("count" if frame == "samples" else None)
    table, unit = function_totals(recording, frame, by)
    whole = float(table["self"].sum())
    table = table.head(rows).drop(columns="space")
    table["module"] = [short_module(str(module)) if module else "" for module in table["module"]]
    table["self %"] = 100 * table["self"] / whole
    table["total %"] = 100 * table["total"] / whole
    table.attrs["unit"] = unit
    return table


def top_text(
    recording: RecordingView, frame: str | None = None, *, by: str | None = None, rows: int = 15
) -> str:
    """The same as plain text, for terminals and logs."""
    table = top(recording, frame, by=by, rows=rows)
    unit = table.attrs["unit"]
    scale, unit = (1e6, "ms") if unit == "ns" else (1.0, unit)
    lines = [f"{'self %':>7} {'total %':>8} {'self ' + unit:>13}  function"]
    for row in table.to_dict("records"):
        own = row["self"] / scale
        value = f"{own:,.1f}" if scale > 1 else f"{own:,.0f}"
        name = f"{fit(str(row['function']), 70)}  {row['module']}".rstrip()
        lines.append(f"{row['self %']:7.1f} {row['total %']:8.1f} {value:>13}  {name}")
    return "\n".join(lines)
