"""What waits in a ring as a frame: for notebooks. Collectors read rings in batches of columns instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.native.ring_reader import RecordReader

if TYPE_CHECKING:
    import pandas as pd

__all__ = ("ring_frame",)


def ring_frame(ring: Any, dtype: np.dtype[Any]) -> pd.DataFrame:
    """Take every record that waits in a ring now.

    Parameters
    ----------
    ring : Ring
        Of either backend.
    dtype : numpy dtype
        Layout of the struct at the start of each record.

    Returns
    -------
    DataFrame
        A row per record, a column per field of the struct; texts (char arrays) as str, other arrays as lists. The
        records are gone from the ring.

    Raises
    ------
    ValueError
        A record is shorter than the struct.
    """
    import pandas as pd

    reader = RecordReader(ring)
    names = dtype.names or ()
    parts: dict[str, list[Any]] = {name: [] for name in names}
    end = ring.position + ring.waiting  # a producer that is as fast would hold us for ever
    while ring.position < end and len(records := reader.drain()):
        for name, column in records.head(dtype).items():
            parts[name].append(column)
    return pd.DataFrame(
        {
            name: _plain(np.concatenate(parts[name]) if parts[name] else np.zeros(0, dtype[name]))
            for name in names
        }
    )


def _plain(column: np.ndarray[Any, Any]) -> Any:
    if column.dtype.kind == "S":
        return [one.decode(errors="replace") for one in column.tolist()]
    return column.tolist() if column.ndim > 1 or column.dtype.names else column
