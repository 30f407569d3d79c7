"""Maps written for reading: the model that real maps are compared with, and what runs without a native core.

Semantics and errors are the kernel's (kernel/bpf/arraymap.c, hashtab.c, queue_stack_maps.c, ringbuf.c). A per-CPU map
has one CPU: a run does not migrate. An element that is deleted stays readable until the map goes.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from workbench.errors import MissingCapability
from workbench.runtime.interpreter.memory import Allocation

if TYPE_CHECKING:
    from workbench.objects.linked import LinkedMap
    from workbench.runtime.interpreter.machine import Interpreter

__all__ = ("ReferenceMap",)

HASH, ARRAY, PROG_ARRAY, PERCPU_HASH, PERCPU_ARRAY = 1, 2, 3, 5, 6
QUEUE, STACK, RINGBUF = 22, 23, 27
NOEXIST, EXIST = 1, 2
_ARRAYS, _HASHES, _LISTS = (ARRAY, PERCPU_ARRAY), (HASH, PERCPU_HASH), (QUEUE, STACK)


class ReferenceMap:
    """One map in this process's memory.

    Parameters
    ----------
    shape : LinkedMap
    programs : mapping of str to Interpreter
        Program arrays: what the names in `shape.values` stand for.

    Raises
    ------
    MissingCapability
        A type that the reference does not have.
    """

    def __init__(self, shape: LinkedMap, programs: Mapping[str, Interpreter] | None = None) -> None:
        if shape.type not in (*_ARRAYS, *_HASHES, *_LISTS, RINGBUF, PROG_ARRAY):
            raise MissingCapability(
                f"map {shape.name}: the reference interpreter has no maps of type {shape.type}",
                "run the program with the native core's maps",
            )
        self.shape = shape
        self.name, self.type = shape.name, shape.type
        self.key_size, self.value_size = shape.key_size, shape.value_size
        self.max_entries = shape.max_entries
        self.stride = self.value_size + 7 & ~7
        self._held: list[Any] = []  # whatever programs may still point to
        self._array = Allocation(self.stride * self.max_entries) if self.type in _ARRAYS else None
        self._hash: dict[bytes, Allocation] = {}
        self._list: list[bytes] = []
        self.records: list[bytes] = []
        self.reserved: dict[int, Allocation] = {}
        self.programs: dict[int, Interpreter] = {
            index: programs[name] for index, name in shape.values if programs and name in programs
        }
        if self._array is not None and shape.initial:
            self._array = Allocation(self.stride * self.max_entries, shape.initial)
        self._held.append(Allocation(64))
        self.handle = self._held[-1].address

    @property
    def writable(self) -> bool:
        """Programs may write values."""
        return not self.shape.read_only

    def values(self) -> tuple[int, int]:
        """Address and length of the first element's value."""
        if self._array is None:
            return 0, 0
        return self._array.address, self.value_size

    def lookup(self, key: bytes) -> int:
        """Address of the value, 0 = there is none."""
        if self._array is not None:
            index = int.from_bytes(key[:4], "little")
            return self._array.address + index * self.stride if index < self.max_entries else 0
        found = self._hash.get(key)
        return found.address if found else 0

    def update(self, key: bytes, value: bytes, flags: int) -> int:
        """bpf_map_update_elem: 0 or a negative errno."""
        if flags > EXIST:
            return -errno.EINVAL
        place = self.lookup(key)
        if self._array is not None:
            if not place:
                return -errno.E2BIG
            if flags == NOEXIST:
                return -errno.EEXIST
        elif self.type in _HASHES:
            if place and flags == NOEXIST:
                return -errno.EEXIST
            if not place and flags == EXIST:
                return -errno.ENOENT
            if not place and len(self._hash) >= self.max_entries:
                return -errno.E2BIG
            if (
                place and self.type == HASH
            ):  # a new element replaces it; programs may hold the old one
                self._held.append(self._hash[key])
                place = 0
            if not place:
                self._hash[key] = Allocation(self.stride, value)
                return 0
        else:
            return -errno.EINVAL
        ctypes.memmove(place, value, self.value_size)
        return 0

    def delete(self, key: bytes) -> int:
        """bpf_map_delete_elem."""
        if self.type not in _HASHES:
            return -errno.EINVAL
        if key not in self._hash:
            return -errno.ENOENT
        self._held.append(self._hash.pop(key))
        return 0

    def push(self, value: bytes, flags: int) -> int:
        """bpf_map_push_elem of queues and stacks."""
        if flags & NOEXIST or flags > EXIST:
            return -errno.EINVAL
        if len(self._list) >= self.max_entries:
            if not flags & EXIST:
                return -errno.E2BIG
            del self._list[0]
        self._list.append(value)
        return 0

    def take(self, *, remove: bool) -> bytes | None:
        """The next value of a queue or stack; None = empty."""
        if not self._list:
            return None
        at = 0 if self.type == QUEUE else -1
        return self._list.pop(at) if remove else self._list[at]

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Key and address of the value of each element."""
        if self._array is not None:
            for index in range(self.max_entries):
                yield index.to_bytes(4, "little"), self._array.address + index * self.stride
        else:
            for key, place in list(self._hash.items()):
                yield key, place.address

    @property
    def content(self) -> dict[bytes, bytes]:
        """A copy: key -> value."""
        return {key: ctypes.string_at(at, self.value_size) for key, at in self.elements()}
