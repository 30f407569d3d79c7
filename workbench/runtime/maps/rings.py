"""Ring buffers in shared memory: read by `workbench.native.ring_reader` exactly as the kernel's are.

`RingBuffer` is what programs write and we read; `UserRing` what we write and programs drain; `PerfEventArray` a ring
for every index. A record whose producer died before it was submitted is given up by whoever waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
import time
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.native import ring as native
from workbench.native.library import load
from workbench.runtime.maps.core import map_error
from workbench.runtime.maps.map import FACES, Map
from workbench.runtime.maps.participants import current_run

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ("PerfEventArray", "RingBuffer", "RingView", "UserRing")

NO_WAKEUP, FORCE_WAKEUP = 1, 2  # BPF_RB_*
_DROPPED, _ABANDONED = 40, 56  # struct wb_ring_producer
_ENABLED = 72  # struct wb_ring_consumer
_SLICE = 0.05  # seconds between two looks at whether to stop
_POLL = 0.002  # seconds between two looks at whether a reader has drained


@cache
def _library() -> ctypes.CDLL:
    core = load()
    pointer, number, word = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
    for name, result, arguments in (
        ("wb_ring_part", pointer, (pointer, word, word)),
        ("wb_ring_sweep", ctypes.c_int64, (pointer, pointer, word)),
        ("wb_ring_wait", ctypes.c_int64, (pointer, pointer, word, number)),
        ("wb_ring_output", ctypes.c_int64, (pointer, pointer, ctypes.c_char_p, number, number)),
        ("wb_ring_reserve", pointer, (pointer, pointer, number, number)),
        ("wb_ring_commit", None, (pointer, pointer, number)),
        ("wb_user_ring_space", word, (pointer,)),
        ("wb_user_ring_wait", ctypes.c_int64, (pointer, word, number)),
    ):
        function = getattr(core, name)
        function.restype, function.argtypes = result, arguments
    return core


def _unmap(address: int, length: int) -> None:
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.munmap(address, length)


class RingView:
    """One ring of a map, by addresses: what the readers of `workbench.native.ring_reader` take.

    Attributes
    ----------
    consumer, producer, data : int
        Addresses of the position words and of the data area, which is mapped twice in a row.
    size, mask : int
        Bytes of the data area; the same - 1.
    """

    def __init__(self, owner: Map, index: int = 0) -> None:
        self._owner, self.index = owner, index
        library = _library()
        self.consumer, self.producer, self.data = (
            int(library.wb_ring_part(owner.handle, index, part)) for part in range(3)
        )
        self.mask = int(owner.struct.mask)
        self.size = self.mask + 1
        self._waiter: _Waiter | None = None

    @property
    def waiting(self) -> int:
        """Bytes of records not read yet."""
        return native.available(self.consumer, self.producer)

    @property
    def position(self) -> int:
        """Bytes of records read since the ring was made."""
        return int(ctypes.c_uint64.from_address(self.consumer).value)

    @property
    def dropped(self) -> int:
        """Records that producers could not reserve, because the ring was full or they were too large."""
        return int(ctypes.c_uint64.from_address(self.producer + _DROPPED).value)

    @property
    def abandoned(self) -> int:
        """Records given up because their producer died between reserve and submit."""
        return int(ctypes.c_uint64.from_address(self.producer + _ABANDONED).value)

    def data_view(self) -> NDArray[np.uint8]:
        """The data area as bytes, shape (2 * size,): mapped twice, so a span never wraps."""
        area: Any = (ctypes.c_uint8 * (2 * self.size)).from_address(self.data)
        area._owner = self._owner  # the mapping lives as long as a view of it
        view: NDArray[np.uint8] = np.frombuffer(area, np.uint8)
        return view

    def sweep(self) -> int:
        """Give up records of dead producers that are next to be read; how many."""
        return int(
            _library().wb_ring_sweep(
                current_run(self._owner.space), self._owner.handle, self.index
            )
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until a record can be read; False after `timeout` seconds without one."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE if end is None else max(0.0, min(_SLICE, end - time.monotonic()))
            if self._wait(left):
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def _wait(self, seconds: float) -> bool:
        run = current_run(self._owner.space)
        return bool(
            _library().wb_ring_wait(run, self._owner.handle, self.index, int(seconds * 1e9))
        )

    def fileno(self) -> int:
        """A descriptor for select, poll, epoll and asyncio: readable when records wait.

        A thread of this process waits for the ring and sets it; it stops with `close()`.
        """
        if self._waiter is None:
            self._waiter = _Waiter(self)
        return self._waiter.fd

    def watch(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], Any]
    ) -> Callable[[], None]:
        """Call `callback` from an asyncio loop whenever records wait; returns a function that stops it."""
        descriptor = self.fileno()
        loop.add_reader(descriptor, callback)
        return lambda: (loop.remove_reader(descriptor), None)[1]

    def close(self) -> None:
        """Stop waiting for records; the map itself stays open."""
        if self._waiter is not None:
            self._waiter.stop()
            self._waiter = None


class _Waiter:
    """Turns the ring's futex into a descriptor of this process that is readable while records wait."""

    def __init__(self, ring: RingView) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ring,), daemon=True)
        self._thread.start()

    def _run(self, ring: RingView) -> None:
        while not self._stop.is_set():
            if not ring._wait(_SLICE):
                continue
            os.eventfd_write(self.fd, 1)
            while ring._wait(0) and not self._stop.wait(_POLL):
                pass
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self.fd)


class _MappedTwice(Map):
    """A map whose rings are mapped twice in a row; unmapped when nobody holds the map or a view of it any more."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        address, length = self.struct.local, int(self.struct.reserved[0])
        weakref.finalize(self, _unmap, address, length).atexit = False


class RingBuffer(_MappedTwice, RingView):
    """A ring buffer: many producers in many processes, one reader at a time.

    `ColumnReader(ring, dtype)`, `RecordReader(ring)` and `SpanReader(ring)` read it as they read the kernel's.
    """

    def __init__(self, *arguments: Any) -> None:
        _MappedTwice.__init__(self, *arguments)
        RingView.__init__(self, self)

    def output(self, data: bytes, flags: int = 0) -> None:
        """Add one record, as bpf_ringbuf_output does.

        Raises
        ------
        MapError
            EAGAIN: the ring is full, counted in `dropped`; EINVAL: an unknown flag.
        """
        if error := _library().wb_ring_output(self._run, self.handle, data, len(data), flags):
            raise map_error(f"output to ring {self.name!r}", error)

    def reserve(self, size: int) -> int | None:
        """Address of `size` bytes for a record, as bpf_ringbuf_reserve gives; None when the ring is full.

        Give it to `submit` when it is filled in.
        """
        address: int | None = _library().wb_ring_reserve(self._run, self.handle, size, 0)
        return address

    def submit(self, record: int, flags: int = 0) -> None:
        """Let the reader see a record that `reserve` gave."""
        _library().wb_ring_commit(self._run, record, flags)

    def __len__(self) -> int:
        return self.waiting


class UserRing(RingBuffer):
    """A user ring: this side puts records, a program drains them with bpf_user_ringbuf_drain."""

    def put(self, data: bytes, timeout: float | None = 0) -> None:
        """Add one record, waiting up to `timeout` seconds (None: for ever) for room.

        Raises
        ------
        MapError
            EAGAIN: still no room; E2BIG: larger than the ring.
        """
        library = _library()
        if len(data) + 8 > self.size:
            raise map_error(f"put into user ring {self.name!r}", errno.E2BIG)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = library.wb_user_ring_space(self.handle)
            if not library.wb_ring_output(self._run, self.handle, data, len(data), 0):
                return
            left = _SLICE if end is None else min(_SLICE, end - time.monotonic())
            if left <= 0:
                raise map_error(f"put into user ring {self.name!r}", errno.EAGAIN)
            library.wb_user_ring_wait(self.handle, seen, int(left * 1e9))


class PerfEventArray(_MappedTwice):
    """A perf event array: a ring of 256 KiB for every index; programs write to that of their thread's slot.

    Attributes
    ----------
    rings : tuple of RingView
        Readable by `RecordReader`; records are what the program gave to bpf_perf_event_output.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rings = tuple(RingView(self, index) for index in range(self.max_entries))

    def enable(self, on: bool = True) -> None:
        """Let every index take records, or none; a program that writes to one that does not gets ENOENT."""
        for ring in self.rings:
            ctypes.c_uint32.from_address(ring.consumer + _ENABLED).value = int(on)

    @property
    def dropped(self) -> int:
        """Records lost because their ring was full."""
        return sum(ring.dropped for ring in self.rings)

    def __len__(self) -> int:
        return self.max_entries


FACES.update({4: PerfEventArray, 27: RingBuffer, 31: UserRing})
