"""Read a BPF ring buffer that is mapped into this process into reused numpy columns.

The data area is mapped twice in a row, so a record never wraps; the consumer position is ours to write, the producer
position the producers'. All reads of shared words are in the native core with acquire order. Nothing is allocated while
draining: columns are made once and overwritten by the next call.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.native import ring as native

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ("ColumnReader", "MappedRing", "RecordReader", "Records", "SpanReader")


class MappedRing(Protocol):
    """A ring in the kernel's layout, of the kernel or of user space.

    Attributes
    ----------
    consumer, producer : int
        Addresses of the two position words (uint64).
    data : int
        Address of the data area, mapped twice in a row.
    mask : int
        Bytes of the data area - 1.
    """

    consumer: int
    producer: int
    data: int
    mask: int

    @property
    def waiting(self) -> int:
        """Bytes of records not read yet."""

    @property
    def position(self) -> int:
        """Bytes of records read since the ring was made."""

    def data_view(self) -> NDArray[np.uint8]:
        """The data area as bytes, shape (2 * size,)."""


def _columns(
    dtype: np.dtype[Any], capacity: int
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint64]]:
    names = dtype.names or ()
    arrays = {name: np.zeros(capacity, dtype[name]) for name in names}
    pointers = np.array([a.ctypes.data for a in arrays.values()], np.uint64)
    return arrays, pointers


def _layout(dtype: np.dtype[Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    table: Any = dtype.fields or {}
    fields = [table[name] for name in dtype.names or ()]
    offsets = np.array([f[1] for f in fields], np.uint32)
    sizes = np.array([f[0].itemsize for f in fields], np.uint32)
    return offsets, sizes


class ColumnReader:
    """Fixed-size records of one layout, cut into columns (the fast path).

    Parameters
    ----------
    ring : MappedRing
    dtype : numpy dtype
        Record layout (`BpfObject.record_dtype`).
    capacity : int
        Rows per drain; 16,384 rows of 48 bytes stay in the second-level cache.

    Attributes
    ----------
    columns : dict of str to ndarray, shape (capacity,)
        Overwritten by every `drain`; only the first `rows` of it are valid.
    other : int
        Records of another length that were passed over (a programming error of the BPF side; counted, never silent).
    """

    def __init__(self, ring: MappedRing, dtype: np.dtype[Any], capacity: int = 16384) -> None:
        self.ring, self.dtype, self.capacity = ring, dtype, capacity
        self.columns, self._pointers = _columns(dtype, capacity)
        self._offsets, self._sizes = _layout(dtype)
        self._other = ctypes.c_uint64()
        self._call = native.library().wb_ring_columns

    @property
    def other(self) -> int:
        return int(self._other.value)

    def drain(self) -> int:
        """Fill the columns with what waits, up to `capacity` rows; the number of rows."""
        ring = self.ring
        return int(
            self._call(
                ring.data,
                ring.mask,
                ring.consumer,
                ring.producer,
                self.dtype.itemsize,
                len(self._sizes),
                self._offsets.ctypes.data,
                self._sizes.ctypes.data,
                self._pointers.ctypes.data,
                self.capacity,
                ctypes.byref(self._other),
            )
        )

    def take(self, rows: int) -> dict[str, NDArray[Any]]:
        """The first `rows` of every column, as views."""
        return {name: column[:rows] for name, column in self.columns.items()}


@dataclass(slots=True)
class Records:
    """A batch of variable-length records. All arrays are reused by the next drain.

    Attributes
    ----------
    buffer : uint8
        Record i is `buffer[starts[i] : starts[i] + lengths[i]]`; starts are multiples of 8.
    starts : uint64, shape (n,)
    lengths : uint32, shape (n,)
    """

    buffer: NDArray[np.uint8]
    starts: NDArray[np.uint64]
    lengths: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.starts)

    def of_length(self, at_least: int, at_most: int | None = None) -> Records:
        """The records whose length lies in the range."""
        keep = self.lengths >= at_least
        if at_most is not None:
            keep &= self.lengths <= at_most
        return self if keep.all() else Records(self.buffer, self.starts[keep], self.lengths[keep])

    def head(self, dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
        """Columns of the struct at the start of every record (new arrays).

        Raises
        ------
        ValueError
            A record is shorter than the struct.
        """
        if len(self.lengths) and int(self.lengths.min()) < dtype.itemsize:
            raise ValueError(f"a record is shorter than its header of {dtype.itemsize} bytes")
        columns, pointers = _columns(dtype, len(self))
        native.gather(self.buffer, self.starts, *_layout(dtype), pointers)
        return columns

    def join(self, starts: NDArray[np.uint64], lengths: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Bytes of a range of every record, end to end; `starts` are positions in `buffer`."""
        out = np.empty(int(lengths.sum()), np.uint8)
        native.concatenate(
            self.buffer,
            np.ascontiguousarray(starts, np.uint64),
            np.ascontiguousarray(lengths, np.uint64),
            out,
        )
        return out


class RecordReader:
    """Records of mixed or variable length, copied out by the C walker.

    Parameters
    ----------
    ring : MappedRing
    buffer_bytes, capacity : int
        Most bytes and most records of one drain.
    """

    def __init__(self, ring: MappedRing, buffer_bytes: int = 4 << 20, capacity: int = 16384) -> None:
        self.ring = ring
        self._buffer = np.zeros(buffer_bytes, np.uint8)
        self._starts = np.zeros(capacity, np.uint64)
        self._lengths = np.zeros(capacity, np.uint32)
        self._call = native.library().wb_ring_records

    def drain(self) -> Records:
        """What waits, as far as it fits; call again while it returns records."""
        ring = self.ring
        rows = int(
            self._call(
                ring.data,
                ring.mask,
                ring.consumer,
                ring.producer,
                self._buffer.ctypes.data,
                len(self._buffer),
                self._starts.ctypes.data,
                self._lengths.ctypes.data,
                len(self._starts),
            )
        )
        return Records(self._buffer, self._starts[:rows], self._lengths[:rows])


class SpanReader:
    """Records of any length, read where they lie in the ring: nothing is copied.

    Parameters
    ----------
    ring : MappedRing
    batch_bytes : int
        About how much of the ring a batch holds. Its space is the producer's again when the next one is asked for.
    capacity : int
        Most records of a batch.
    """

    def __init__(self, ring: MappedRing, batch_bytes: int = 4 << 20, capacity: int = 16384) -> None:
        self.ring, self.batch_bytes = ring, batch_bytes
        self._starts = np.zeros(capacity, np.uint64)
        self._lengths = np.zeros(capacity, np.uint32)
        self._library = native.library()

    def batches(self) -> Iterator[Records]:
        """What waits now, batch by batch, but not what arrives meanwhile: a producer that is faster than its reader
        cannot hold it here. A batch is valid until the next one is asked for."""
        ring, library = self.ring, self._library
        position = ring.position
        end = position + ring.waiting
        at = ctypes.c_uint64(position)
        data = ring.data_view()
        while at.value < end:
            before = at.value
            rows = int(
                library.wb_ring_spans(
                    ring.data,
                    ring.mask,
                    ctypes.byref(at),
                    end,
                    self.batch_bytes,
                    self._starts.ctypes.data,
                    self._lengths.ctypes.data,
                    len(self._starts),
                )
            )
            try:
                if rows:
                    yield Records(data, self._starts[:rows], self._lengths[:rows])
            finally:
                library.wb_ring_release(ring.consumer, at.value)
            if at.value == before:  # a record that is still being written
                return
