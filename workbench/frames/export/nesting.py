"""Order begin and end marks of intervals so that a reader which matches them like parentheses gets them right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("Marks", "lanes", "marks")


@dataclass(frozen=True, slots=True)
class Marks:
    """Begin and end marks in the order in which they must be written.

    Parameters
    ----------
    interval : int64 (2n,)
        Which interval the mark belongs to.
    begins : bool (2n,)
        The mark is the beginning.
    """

    interval: NDArray[np.int64]
    begins: NDArray[np.bool_]


def _sorted(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order by `first`, ties by descending `second`. A stable sort alone is linear on what is nearly sorted."""
    order = np.argsort(first, kind="stable")
    ordered = first[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((-second, first))
    return order


def marks(start: NDArray[np.int64], end: NDArray[np.int64]) -> Marks:
    """Marks by time. At one instant ends come before begins, inner ends first, outer begins first.

    Intervals must be at least 1 ns long.
    """
    begin = _sorted(start, end)
    # Reversed twice: of two equal intervals the one that begins last must end first.
    finish = len(end) - 1 - _sorted(end[::-1], start[::-1])
    both = np.concatenate([finish, begin])
    when = np.concatenate([end[finish], start[begin]])
    order = np.argsort(when, kind="stable")
    return Marks(both[order], order >= len(start))


def _crossing(
    start: NDArray[np.int64], end: NDArray[np.int64], track: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Intervals that a parenthesis matcher would give another one's end, because they partly overlap."""
    both = marks(start, end)
    # Tracks, then depths, by stable sorts on small integers (radix sorts in numpy).
    small = track.astype(np.uint16) if track.max(initial=0) < 1 << 16 else track
    order = np.argsort(small[both.interval], kind="stable")
    interval, begins = both.interval[order], both.begins[order]
    depth = np.cumsum(np.where(begins, 1, -1)) + ~begins
    small = depth.astype(np.uint16) if depth.max(initial=0) < 1 << 16 else depth
    level = np.argsort(small, kind="stable")
    pair = interval[level].reshape(-1, 2)
    return np.unique(pair[pair[:, 0] != pair[:, 1]])


def lanes(
    start: NDArray[np.int64], end: NDArray[np.int64], track: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Lane of each interval, so that intervals of one track and lane nest properly.

    Calls of one thread nest, and all stay in lane 0. Where a return was lost or coroutines interleave, intervals that
    cross others move to the next lane.

    Parameters
    ----------
    start, end, track : int64 (n,)
        Track numbers are not negative.

    Returns
    -------
    int64 (n,)
    """
    lane = np.zeros(len(start), dtype=np.int64)
    pending = np.arange(len(start))
    level = 0
    while len(pending):
        kept = pending
        overflow: list[NDArray[np.int64]] = []
        while len(cross := kept[_crossing(start[kept], end[kept], track[kept])]):
            order = cross[np.lexsort((-end[cross], start[cross], track[cross]))]
            # Keep those that begin after all earlier crossing ones of their track have ended.
            same = np.r_[False, track[order][1:] == track[order][:-1]]
            rank = np.cumsum(~same)
            span = int(end[order].max()) + 1 - int(start[order].min())
            shifted = (end[order] - start[order].min()) + rank * span
            before = np.r_[0, np.maximum.accumulate(shifted)[:-1]]
            free = (start[order] - start[order].min()) + rank * span >= before
            moved = order[~free] if not free.all() else order[1:]
            overflow.append(moved)
            kept = np.setdiff1d(kept, moved, assume_unique=True)
        pending = np.sort(np.concatenate(overflow)) if overflow else pending[:0]
        level += 1
        lane[pending] = level
    return lane
