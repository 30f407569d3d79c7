"""Typed calls of ring.c."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

from workbench.native.library import load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ("available", "concatenate", "gather", "library")

_P, _U64, _U32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32


@cache
def library() -> ctypes.CDLL:
    """The core with the signatures of ring.c set."""
    core = load()
    core.wb_ring_columns.restype = ctypes.c_int64
    core.wb_ring_columns.argtypes = (_P, _U64, _P, _P, _U32, _U32, _P, _P, _P, _U64, _P)
    core.wb_ring_records.restype = ctypes.c_int64
    core.wb_ring_records.argtypes = (_P, _U64, _P, _P, _P, _U64, _P, _P, _U64)
    core.wb_ring_spans.restype = ctypes.c_int64
    core.wb_ring_spans.argtypes = (_P, _U64, _P, _U64, _U64, _P, _P, _U64)
    core.wb_ring_release.restype = None
    core.wb_ring_release.argtypes = (_P, _U64)
    core.wb_ring_available.restype = _U64
    core.wb_ring_available.argtypes = (_P, _P)
    core.wb_gather.restype = None
    core.wb_gather.argtypes = (_P, _P, _U64, _U32, _P, _P, _P)
    core.wb_concatenate.restype = ctypes.c_int64
    core.wb_concatenate.argtypes = (_P, _U64, _P, _P, _U64, _P, _U64)
    return core


def available(consumer: int, producer: int) -> int:
    """Bytes waiting between two position words given by address."""
    return int(library().wb_ring_available(consumer, producer))


def gather(
    base: NDArray[np.uint8],
    starts: NDArray[np.uint64],
    offsets: NDArray[np.uint32],
    sizes: NDArray[np.uint32],
    columns: NDArray[np.uint64],
) -> None:
    """Cut fields at `offsets` (bytes, `sizes` wide) of the records at `base[starts]` into columns given by address.

    The caller has checked that every record is long enough for every field.
    """
    library().wb_gather(
        base.ctypes.data, starts.ctypes.data, len(starts), len(offsets), offsets.ctypes.data, sizes.ctypes.data,
        columns.ctypes.data,
    )  # fmt: skip


def concatenate(
    base: NDArray[np.uint8],
    starts: NDArray[np.uint64],
    lengths: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> int:
    """Copy `base[starts[i]:][:lengths[i]]` end to end into `out`; the number of bytes.

    Raises
    ------
    ValueError
        A range lies outside `base`, or `out` is too small.
    """
    done = int(
        library().wb_concatenate(
            base.ctypes.data,
            len(base),
            starts.ctypes.data,
            lengths.ctypes.data,
            len(starts),
            out.ctypes.data,
            len(out),
        )
    )
    if done < 0:
        raise ValueError("byte ranges outside the buffers")
    return done
