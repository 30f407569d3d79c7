"""Protocol-buffer wire format, for single messages and for whole columns at once.

Encoding as in https://protobuf.dev/programming-guides/encoding/. A varint may carry redundant high groups of zeros;
with all varints of a column padded to one width, all messages of a kind are equally long and form a 2-D byte array
that numpy fills column by column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("integer", "message", "packed", "padded", "rows", "text", "varint", "width_for")


def varint(value: int) -> bytes:
    """Shortest varint of an unsigned value, or of a signed one in 64-bit two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """Field `number` with an integer."""
    return varint(number << 3) + varint(value)


def message(number: int, *parts: bytes) -> bytes:
    """Field `number` with bytes, text or an embedded message."""
    body = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(body)) + body


def text(number: int, value: object) -> bytes:
    """Field `number` with text; characters that UTF-8 cannot hold are replaced."""
    return message(number, str(value).encode("utf-8", "replace"))


def packed(number: int, values: list[int]) -> bytes:
    """Field `number` with a packed list of integers."""
    return message(number, *map(varint, values))


def width_for(largest: int) -> int:
    """Bytes of a varint that holds values up to `largest`."""
    return max(1, -(-int(largest).bit_length() // 7))


def padded(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """Varints of equal width.

    Parameters
    ----------
    values : integer (n,)
        Unsigned values below ``2**(7 * width)``; with width 10 any signed 64-bit values.
    width : int
        Bytes per varint, 1 to 10.

    Returns
    -------
    uint8 (n, width)

    Raises
    ------
    ValueError
        A value does not fit.
    """
    value = values.astype(np.int64).view(np.uint64) if width == 10 else values.astype(np.uint64)
    if width < 10 and len(values) and (values.min() < 0 or int(value.max()) >> (7 * width)):
        raise ValueError(f"a value does not fit into a varint of {width} bytes")
    out = np.empty((len(values), width), dtype=np.uint8)
    for i in range(width):
        group = (value >> np.uint64(7 * i)).astype(np.uint8)
        out[:, i] = group | 0x80 if i < width - 1 else group & 0x7F
    return out


def rows(count: int, *parts: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`count` equally long messages: bytes that all share, and columns of ``(count, width)`` bytes.

    Returns
    -------
    uint8 (count, sum of widths)
    """
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    out = np.empty((count, sum(widths)), dtype=np.uint8)
    at = 0
    for part, width in zip(parts, widths, strict=True):
        out[:, at : at + width] = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        at += width
    return out
