"""One file holding named numpy arrays, written atomically and mapped on reading.

Layout: magic, u32 length and u32 CRC-32 of a JSON header, the header, then the arrays at 64-byte boundaries. The
header carries dtype, length, position and CRC-32 of each array, and whatever the caller wants to remember.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ("BadArrayFile", "read_arrays", "write_arrays")

MAGIC = b"WBARRAY1"
_ALIGN = 64
_DTYPES = ("|u1", "|i1", "<u4", "<i4", "<u8", "<i8")


class BadArrayFile(Exception):
    """The file is not one of ours, is cut off or was changed; callers rebuild it."""


def write_arrays(path: Path, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays (one-dimensional, integers) to `path` by a rename; raises OSError."""
    entries: dict[str, Any] = {}
    position = 0
    for name, array in arrays.items():
        position = -(-position // _ALIGN) * _ALIGN
        data = np.ascontiguousarray(array)
        entries[name] = [
            data.dtype.str,
            len(data),
            position,
            zlib.crc32(data.data) if len(data) else 0,
        ]
        position += data.nbytes
    head = json.dumps({"meta": dict(meta), "arrays": entries}, sort_keys=True).encode()
    start = -(-(len(MAGIC) + 8 + len(head)) // _ALIGN) * _ALIGN
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with part.open("wb") as file:
            file.write(MAGIC + struct.pack("<II", len(head), zlib.crc32(head)) + head)
            for name, array in arrays.items():
                file.seek(start + entries[name][2])
                file.write(np.ascontiguousarray(array).data if len(array) else b"")
            file.truncate(start + position)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_arrays(
    path: Path, unchecked: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], mmap.mmap, dict[str, int]]:
    """Map a file of `write_arrays`.

    Parameters
    ----------
    path : Path
        The file.
    unchecked : tuple of str
        Arrays whose checksum is not verified, so that their pages are read only when used.

    Returns
    -------
    meta, arrays, mapping, positions
        What the writer remembered; read-only arrays over the mapping; the mapping; byte position of each array.

    Raises
    ------
    BadArrayFile
        The content is not what was written.
    OSError
        The file cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < len(MAGIC) + 8:
            raise BadArrayFile(path)
        mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    try:
        if mapping[: len(MAGIC)] != MAGIC:
            raise BadArrayFile(path)
        length, checksum = struct.unpack_from("<II", mapping, len(MAGIC))
        head = mapping[len(MAGIC) + 8 : len(MAGIC) + 8 + length]
        if len(head) != length or zlib.crc32(head) != checksum:
            raise BadArrayFile(path)
        content = json.loads(head)
        start = -(-(len(MAGIC) + 8 + length) // _ALIGN) * _ALIGN
        arrays: dict[str, NDArray[Any]] = {}
        positions: dict[str, int] = {}
        for name, (dtype, count, position, expected) in content["arrays"].items():
            if dtype not in _DTYPES:
                raise BadArrayFile(path)
            kind = np.dtype(dtype)
            if start + position + count * kind.itemsize > size:
                raise BadArrayFile(path)
            arrays[name] = np.frombuffer(mapping, kind, count, start + position)
            positions[name] = start + position
            if name not in unchecked and count and zlib.crc32(arrays[name].data) != expected:
                raise BadArrayFile(path)
        return content["meta"], arrays, mapping, positions
    except (ValueError, KeyError, TypeError) as error:
        raise BadArrayFile(path) from error
