"""Ids of stacks while they are recorded, in bounded memory: a full table is written out and begun anew.

A stack that is seen again after that gets a second id; nothing is lost, and a recording of days holds memory flat.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from workbench.native.stacks import OVERFLOWED, StackInterner

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import ArrayLike, NDArray

__all__ = ("StackTable",)


class StackTable:
    """Stack ids 0, 1, ... and what they stand for.

    Parameters
    ----------
    max_stacks, max_bytes : int
        Bound of what is remembered at a time.
    """

    def __init__(self, max_stacks: int, max_bytes: int) -> None:
        self._bounds = max_stacks, max_bytes
        self._interner = StackInterner(*self._bounds)
        self._base = 0
        self._times: list[NDArray[np.int64]] = []
        self._taken = 0
        self._full: list[pa.RecordBatch] = []

    def __len__(self) -> int:
        """Ids given out."""
        return self._base + len(self._interner)

    @property
    def waiting(self) -> int:
        """Stacks that `take` would give."""
        return len(self) - self._taken

    def intern(
        self,
        pids: ArrayLike,
        addresses: ArrayLike,
        lengths: ArrayLike,
        times: NDArray[np.int64] | None,
        *,
        keep: bool,
    ) -> NDArray[np.int32]:
        """Ids of a batch of stacks, -1 for an empty one, -2 for one larger than the whole table.

        Parameters
        ----------
        pids, addresses, lengths, times
            As for `Sink.intern`.
        keep : bool
            Keep what is not taken yet when the table is full; False when nobody will take it.
        """
        ids = self._some(pids, addresses, lengths, times)
        left = np.flatnonzero(ids == OVERFLOWED)
        while len(left):
            self._renew(keep)
            frames = np.asarray(lengths, np.int64)
            begin = np.cumsum(frames) - frames
            chosen = np.concatenate(
                [np.arange(begin[i], begin[i] + frames[i]) for i in left.tolist()]
            )
            again = self._some(
                np.asarray(pids)[left],
                np.asarray(addresses)[chosen],
                np.asarray(lengths)[left],
                None if times is None else np.asarray(times)[left],
            )
            ids[left] = again
            still = left[again == OVERFLOWED]
            if len(still) == len(left):
                break
            left = still
        return ids

    def _some(
        self,
        pids: ArrayLike,
        addresses: ArrayLike,
        lengths: ArrayLike,
        times: NDArray[np.int64] | None,
    ) -> NDArray[np.int32]:
        before = len(self._interner)
        ids = self._interner.intern(pids, addresses, lengths)
        count = len(self._interner) - before
        if count:  # when each new stack was first seen
            if times is None:
                first = np.full(count, time.monotonic_ns())
            else:
                first = np.full(count, np.iinfo(np.int64).max)
                fresh = ids >= before
                np.minimum.at(first, ids[fresh] - before, np.asarray(times, np.int64)[fresh])
            self._times.append(first)
        ids[ids >= 0] += self._base
        return ids

    def _renew(self, keep: bool) -> None:
        if self._times:
            if keep:
                self._full.append(self._batch())
            self._times.clear()
        self._base += len(self._interner)
        self._interner.close()
        self._interner = StackInterner(*self._bounds)

    def _batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        new = self._interner.new()
        offsets = np.zeros(len(new.lengths) + 1, np.int32)
        np.cumsum(new.lengths, out=offsets[1:])
        arrays = [
            pa.array(new.pids),
            pa.array(np.concatenate(self._times)),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(new.addresses)),
        ]
        return pa.RecordBatch.from_arrays(arrays, names=["pid", "time", "addresses"])

    def take(self) -> list[pa.RecordBatch]:
        """The stacks not taken yet, in the order of their ids: columns pid, time, addresses."""
        found, self._full = self._full, []
        if self._times:
            found.append(self._batch())
            self._times.clear()
        self._taken = len(self)
        return found

    def close(self) -> None:
        """Free the memory; safe to call twice."""
        self._interner.close()
