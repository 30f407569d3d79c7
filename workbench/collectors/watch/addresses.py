"""What a watch looks at: from the text of a specification, or from a numpy array, to bytes of the target."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.collectors.resolve import resolve_data
from workbench.errors import BadSpec, UnknownSymbol
from workbench.frames.symbols.mappings import parse_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Target

__all__ = ("MOST_BYTES", "Bytes", "locate", "watch_spec_for_array")

MOST_BYTES = 1 << 20
_USER_END = 1 << 56
_NUMBER = r"(?:0x[0-9a-fA-F]+|\d+)"
_RANGE = re.compile(rf"(0x[0-9a-fA-F]+)(?:\.\.(0x[0-9a-fA-F]+)|\+({_NUMBER}))")
_ELEMENT = re.compile(r"(.*[\w$])\[(\d+)\]")
_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Bytes:
    """The watched bytes of a process, and what they are called."""

    name: str
    address: int
    length: int


def locate(target: Target, text: str, size: int = 0) -> Bytes:
    """Where the bytes are that `text` names.

    Parameters
    ----------
    target : Target
        A process (not the machine: an address means nothing without a process).
    text : str
        `SYMBOL`, `LIBRARY:SYMBOL`, `SYMBOL+8`, `ARRAY[3]`, `0xADDRESS`, or a range `0xFROM..0xTO` (the end not
        included) or `0xADDRESS+BYTES`.
    size : int
        Bytes to watch there; 0 takes the size of the object, for a bare address the largest of 8, 4, 2 and 1 that
        its alignment allows.

    Raises
    ------
    BadSpec
        The text or the size makes no sense.
    UnknownSymbol
        There is no such object, or the address is not mapped.
    """
    text = text.strip()
    if not text:
        raise BadSpec(
            "a watch needs something to look at", "for example watch:counter or watch:0x7f00..."
        )
    if target.pid is None:
        raise BadSpec(
            f"{text!r} cannot be watched on the whole machine: an address belongs to one process",
            "name the process with --pid, or start it with -- CMD",
        )
    if match := _RANGE.fullmatch(text):
        address = int(match[1], 16)
        length = int(match[2], 16) - address if match[2] else int(match[3], 0)
        if size:
            raise BadSpec(f"{text!r} is a range: it has its size already", "leave out size=")
        found = Bytes(text, address, length)
    elif re.fullmatch(r"0x[0-9a-fA-F]+", text):
        address = int(text, 16)
        found = Bytes(text, address, size or min(address & -address or 8, 8))
    else:
        found = _object(target, text, size)
    if found.length <= 0:
        raise BadSpec(f"{text!r} is empty", "the end of a range is the byte after the last one")
    if found.length > MOST_BYTES:
        raise BadSpec(
            f"{text!r} has {found.length:,} bytes, more than {MOST_BYTES:,} that take turns on four watchpoints",
            "watch a part of it: NAME[INDEX], NAME+OFFSET with size=, or 0xFROM..0xTO",
        )
    if not 0 < found.address <= _USER_END - found.length:
        raise BadSpec(f"{text!r} is not an address of a process")
    if not target.command:
        _check_mapped(target.pid, found)
    return found


def _object(target: Target, text: str, size: int) -> Bytes:
    try:
        place = resolve_data(target, text)
    except UnknownSymbol:
        # Without debug information the size of an element is not known, unless it was given.
        element = _ELEMENT.fullmatch(text)
        if element is None or not size:
            raise
        place = resolve_data(target, element[1])
        offset = int(element[2]) * size
        if place.size and offset + size > place.size:
            raise BadSpec(
                f"{text!r}: {element[1]} has {place.size} bytes, so {place.size // size} elements of {size}"
            ) from None
        return Bytes(text, place.address + offset, size)
    return Bytes(text, place.address, size or place.size or min(place.address & -place.address, 8))


def _check_mapped(pid: int, found: Bytes) -> None:
    try:
        rows = parse_maps(Path(f"/proc/{pid}/maps").read_bytes(), executable_only=False)
    except OSError:
        return  # attaching will say what is wrong with the process
    if not any(start <= found.address < end for start, end, _, _ in rows):
        raise UnknownSymbol(
            f"{found.address:#x} is not mapped in process {pid}",
            "addresses change with every start of a program; name the symbol, or print the address again",
        )


def watch_spec_for_array(array: NDArray[Any], index: Any = None) -> str:
    """The watched bytes of a numpy array of this process, as the argument and size of a watch specification.

    The caller has to keep the array alive and unresized while it is watched.

    Parameters
    ----------
    array : ndarray
        Any dtype.
    index : optional
        What to watch of it, as in ``array[index]``: an integer, a tuple, a slice of neighbouring elements. Everything
        without.

    Returns
    -------
    str
        ``0xADDRESS,size=N`` for one element of 1, 2, 4 or 8 bytes, else ``0xFROM..0xTO``.

    Raises
    ------
    BadSpec
        Not an array, an empty or non-contiguous part, or one that is a copy.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.zeros(8)
    >>> watch_spec_for_array(a, 3) == f"0x{a.ctypes.data + 24:x},size=8"
    True
    """
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise BadSpec(
            f"a {type(array).__name__} is not a numpy array",
            "give an ndarray; a list holds pointers, not numbers",
        )
    part = array if index is None else _view(array, index)
    if not part.size:
        raise BadSpec("the part of the array to watch is empty")
    if not (part.flags.c_contiguous or part.flags.f_contiguous):
        raise BadSpec(
            f"the part to watch (shape {part.shape}, strides {part.strides}) is not contiguous",
            "watch one element, or a slice of neighbours along the last axis",
        )
    address, length = part.ctypes.data, part.nbytes
    if length in _SIZES and address % length == 0:
        return f"{address:#x},size={length}"
    return f"{address:#x}..{address + length:#x}"


def _view(array: NDArray[Any], index: Any) -> NDArray[Any]:
    """``array[index]`` as a view, also where numpy would give a scalar."""
    import numpy as np

    keys = index if isinstance(index, tuple) else (index,)
    slices: list[Any] = []
    try:
        for axis, key in enumerate(keys):
            if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
                length = array.shape[axis]
                at = int(key) + (length if key < 0 else 0)
                if not 0 <= at < length:
                    raise BadSpec(f"index {key} is outside axis {axis} of length {length}")
                slices.append(slice(at, at + 1))
            else:
                slices.append(key)
        part = array[tuple(slices)]
    except (IndexError, TypeError) as error:
        raise BadSpec(
            f"{index!r} is no index of an array of shape {array.shape}: {error}"
        ) from error
    if not isinstance(part, np.ndarray) or (part.size and not np.may_share_memory(part, array)):
        raise BadSpec(
            f"array[{index!r}] is a copy, not a part of the array", "index with integers and slices"
        )
    return part
