"""The memory that a program may touch: real addresses, in regions."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from workbench.runtime.interpreter.fault import Misuse

__all__ = ("Allocation", "Memory", "Region")


class Allocation:
    """Zeroed bytes of this process at a fixed, aligned address, for as long as the object lives."""

    def __init__(self, length: int, content: bytes = b"") -> None:
        self._buffer = ctypes.create_string_buffer(length + 64)
        self.address = ctypes.addressof(self._buffer) + 63 & ~63
        self.length = length
        if content:
            ctypes.memmove(self.address, content, min(length, len(content)))

    @property
    def content(self) -> bytes:
        """A copy of the bytes."""
        return ctypes.string_at(self.address, self.length)


@dataclass(frozen=True, slots=True)
class Region:
    """`length` bytes from address `start`.

    Attributes
    ----------
    name : str
        For messages: "stack of frame 0", "context", "value of counts".
    writable : bool
    aligned : bool
        Accesses must be at a multiple of their size, as the kernel demands of stack and context.
    view : memoryview
        The bytes.
    owner : object
        Kept alive with the region.
    """

    start: int
    length: int
    name: str
    writable: bool
    aligned: bool
    view: memoryview
    owner: Any = None


class Memory:
    """Regions by address; they do not overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []

    def add(
        self,
        start: int,
        length: int,
        name: str,
        *,
        writable: bool = True,
        aligned: bool = False,
        owner: Any = None,
    ) -> Region:
        """Allow accesses to `length` bytes of this process from `start`; the longer of two at one start remains."""
        at = bisect_right(self._starts, start)
        if at and self._starts[at - 1] == start:
            if self._regions[at - 1].length >= length:
                return self._regions[at - 1]
            at -= 1
            del self._starts[at], self._regions[at]
        view = memoryview((ctypes.c_ubyte * length).from_address(start)).cast("B")
        region = Region(start, length, name, writable, aligned, view, owner)
        self._starts.insert(at, start)
        self._regions.insert(at, region)
        return region

    def remove(self, start: int) -> None:
        """Forbid accesses to the region that begins at `start`."""
        at = bisect_right(self._starts, start) - 1
        if at >= 0 and self._starts[at] == start:
            del self._starts[at], self._regions[at]

    def find(self, address: int, size: int, *, write: bool = False) -> tuple[Region, int]:
        """The region of an access and the offset in it.

        Raises
        ------
        Misuse
            The access is not wholly inside one region, or writes where reading only is allowed.
        """
        at = bisect_right(self._starts, address) - 1
        doing = f"{'writes' if write else 'reads'} {size} bytes at {address:#x}"
        if at < 0 or address + size > self._starts[at] + self._regions[at].length:
            raise Misuse(f"{doing}, {self._nearest(at, address)}")
        region = self._regions[at]
        if write and not region.writable:
            raise Misuse(f"{doing} in {region.name}, which is read-only")
        return region, address - region.start

    def _nearest(self, at: int, address: int) -> str:
        if address < 4096:
            return "a null pointer"
        if at < 0:
            return "outside all of its memory"
        before = self._regions[at]
        inside = address - before.start
        if inside >= before.length + 4096:
            return "outside all of its memory"
        return f"offset {inside} of {before.name}, which has {before.length} bytes"

    def load(self, address: int, size: int, *, strict: bool = False) -> int:
        """Unsigned little-endian number of `size` bytes."""
        region, offset = self.find(address, size)
        if (strict or region.aligned) and address % size:
            raise Misuse(f"misaligned access of {size} bytes at offset {offset} of {region.name}")
        return int.from_bytes(region.view[offset : offset + size], "little")

    def store(self, address: int, size: int, value: int, *, strict: bool = False) -> None:
        """Write the low `size` bytes of `value`, little-endian."""
        region, offset = self.find(address, size, write=True)
        if (strict or region.aligned) and address % size:
            raise Misuse(f"misaligned access of {size} bytes at offset {offset} of {region.name}")
        region.view[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(
            size, "little"
        )

    def read(self, address: int, size: int) -> bytes:
        """Bytes that a helper reads for the program."""
        if size == 0:
            return b""
        region, offset = self.find(address, size)
        return bytes(region.view[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        """Bytes that a helper writes for the program."""
        if data:
            region, offset = self.find(address, len(data), write=True)
            region.view[offset : offset + len(data)] = data
