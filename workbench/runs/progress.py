"""What a running notebook reports: one event per cell, and how it reads as a line of a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("CellProgress", "ProgressCallback", "duration_text", "line")


@dataclass(frozen=True, slots=True)
class CellProgress:
    """One change of state of one code cell.

    Parameters
    ----------
    number, total : int
        Which code cell (from 1) of how many.
    status : str
        ``running``, ``completed``, ``failed`` or ``skipped``.
    title : str
        First line of the cell that is not blank.
    seconds : float
        Seconds this cell took so far.
    elapsed : float
        Seconds since the notebook was started.
    left : float | None
        Estimated seconds to the end of the notebook, from the cells that are done; None before the first one.
    """

    number: int
    total: int
    status: str
    title: str
    seconds: float
    elapsed: float
    left: float | None


ProgressCallback = Callable[[CellProgress], None]


def duration_text(seconds: float) -> str:
    """Seconds for a reader: ``3.2 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def line(event: CellProgress) -> str:
    """The event as one line of text, for logs."""
    what = event.status
    if what in ("completed", "failed"):
        what += f" in {duration_text(event.seconds)}"
    times = f"{duration_text(event.elapsed)} elapsed"
    if event.left is not None and event.number < event.total:
        times += f", about {duration_text(event.left)} left"
    return f"cell {event.number}/{event.total} {what} ({times}): {event.title}"
