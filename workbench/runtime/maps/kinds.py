"""Faces of the map types that are no plain mapping: queue, stack, bloom filter, stack traces, task storage."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.runtime.maps.core import map_error
from workbench.runtime.maps.map import FACES, Map

__all__ = ("BloomFilter", "Queue", "StackTraces", "TaskStorage")


class Queue(Map):
    """A queue or stack: `push`, `pop`, `peek`; no keys."""

    def __len__(self) -> int:
        """Elements in it."""
        local, slots = int(self.struct.local), self.max_entries + 1
        while True:
            version = ctypes.c_uint64.from_address(local).value
            state = (ctypes.c_uint32 * 2).from_address(local + 8 + 8 * (version & 1))
            head, tail = state[0], state[1]
            if ctypes.c_uint64.from_address(local).value == version:
                return (head - tail) % slots

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"map {self.name!r} has no keys: use pop() or peek()")


class BloomFilter(Map):
    """A bloom filter: `push(value)`, `value in filter` (False is certain, True is not)."""

    def __contains__(self, value: object) -> bool:
        raw = ctypes.create_string_buffer(self._value(value), self._value_bytes)
        result = self._core.wb_map_peek(self._run, self.handle, raw)
        if result and result != -errno.ENOENT:
            raise map_error(f"peek into map {self.name!r}", result)
        return not result

    def __len__(self) -> int:
        raise TypeError(f"map {self.name!r}: a bloom filter does not know how much is in it")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"map {self.name!r}: a bloom filter does not know what is in it")


class StackTraces(Map):
    """Stacks by the id that bpf_get_stackid returned."""

    def stack(self, number: int) -> NDArray[np.uint64]:
        """Addresses of the stack with this id, innermost first, shape (frames,).

        Raises
        ------
        KeyError
            There is none.
        """
        raw = ctypes.create_string_buffer(self._value_bytes)
        key = number.to_bytes(4, "little")
        result = self._core.wb_map_read(self._run, self.handle, key, raw, 0)
        if result == -errno.ENOENT:
            raise KeyError(number)
        if result:
            raise map_error(f"lookup in map {self.name!r}", result)
        addresses = np.frombuffer(raw.raw, np.uint64)
        used = np.flatnonzero(addresses)
        return addresses[: int(used[-1]) + 1 if len(used) else 0]


class TaskStorage(Map):
    """Task storage: thread id -> value, of the live threads of the namespace that have one."""

    def __len__(self) -> int:
        return len(self.table()[0])


FACES.update({7: StackTraces, 22: Queue, 23: Queue, 29: TaskStorage, 30: BloomFilter})
