"""A kernel BPF ring buffer, mapped into this process; `workbench.native.ring_reader` reads it into numpy columns.

The kernel maps the data area twice in a row, so a record never wraps; the consumer position is ours to write, the
producer position the kernel's.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.native import ring as native
from workbench.native.ring_reader import ColumnReader, RecordReader, Records, SpanReader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ("ColumnReader", "RecordReader", "Records", "Ring", "SpanReader")


class Ring:
    """A ring buffer map of a loaded object, mapped into this process.

    Parameters
    ----------
    fd : int
        Map descriptor (not owned); epoll and `asyncio` report it readable when records wait.
    size : int
        Bytes of the data area: the map's max_entries, a power of two.
    """

    def __init__(self, fd: int, size: int) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        self.fd, self.size = fd, size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(
            fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._views = [np.frombuffer(self._consumer, "u1"), np.frombuffer(self._producer, "u1")]
        self.consumer: int = self._views[0].ctypes.data
        self.producer: int = self._views[1].ctypes.data
        self.data: int = self.producer + page
        self.mask = size - 1

    def fileno(self) -> int:
        """The map's descriptor."""
        return self.fd

    @property
    def waiting(self) -> int:
        """Bytes of records not read yet."""
        return native.available(self.consumer, self.producer)

    @property
    def position(self) -> int:
        """Bytes of records read since the ring was made.

        A reader that ends at the `position + waiting` of its beginning cannot be held by a producer that is as fast.
        """
        return int(ctypes.c_uint64.from_address(self.consumer).value)

    def data_view(self) -> NDArray[np.uint8]:
        """The data area as bytes, shape (2 * size,): mapped twice, so a span never wraps. For measurements."""
        return self._views[1][self.data - self.producer :]

    def watch(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], Any]
    ) -> Callable[[], None]:
        """Call `callback` from an asyncio loop whenever records wait; returns a function that stops it."""
        loop.add_reader(self.fd, callback)
        return lambda: (loop.remove_reader(self.fd), None)[1]

    def close(self) -> None:
        """Unmap."""
        self._views.clear()
        for area in (self._consumer, self._producer):
            with contextlib.suppress(BufferError):  # an exception still holds a batch: unmapped with it
                area.close()
