"""Maps whose values are maps or programs. The segment holds ids; each process knows what it has under an id."""

from __future__ import annotations

import contextlib
import ctypes
import errno
from functools import cache
from typing import TYPE_CHECKING, Any

from workbench.native.library import load
from workbench.runtime.maps.core import map_error
from workbench.runtime.maps.map import FACES, Map

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.objects.linked import LinkedMap

__all__ = ("MapOfMaps", "ProgramArray")


@cache
def _library() -> ctypes.CDLL:
    core = load()
    pointer, word = ctypes.c_void_p, ctypes.c_uint32
    core.wb_nested_offer.restype = ctypes.c_int64
    core.wb_nested_offer.argtypes = (pointer, word, pointer)
    core.wb_nested_shape.restype = ctypes.c_int64
    core.wb_nested_shape.argtypes = (pointer, *(word,) * 5)
    core.wb_prog_array_refresh.restype = ctypes.c_int64
    core.wb_prog_array_refresh.argtypes = (pointer,)
    return core


class _Ids(Map):
    """Values are ids."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.offered: dict[
            int, Any
        ] = {}  # what was offered must live as long as programs may find it
        self.listeners: list[
            Callable[[int], None]
        ] = []  # told of each number before it can be seen

    def offer(self, number: int, address: int, owner: Any = None) -> None:
        """Tell this process what it has under an id: the address of a `struct wb_map` or `struct wb_program`."""
        self.offered[number] = owner
        if error := _library().wb_nested_offer(self.handle, number, address):
            raise map_error(f"map {self.name!r}", error)
        for listener in list(self.listeners):
            listener(number)

    def ids(self) -> dict[Any, int]:
        """Key -> id, of the slots that are set by any process."""
        found: dict[Any, int] = {}
        with contextlib.suppress(KeyError):
            key = self.next_key()
            while True:
                with contextlib.suppress(KeyError):
                    found[key] = int.from_bytes(self._id(key), "little")
                key = self.next_key(key)
        return found

    def _id(self, key: Any) -> bytes:
        raw = ctypes.create_string_buffer(4)
        result = self._core.wb_map_read(self._run, self.handle, self._key(key), raw, 0)
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise map_error(f"lookup in map {self.name!r}", result)
        return raw.raw

    def _set(self, key: Any, number: int) -> None:
        raw = number.to_bytes(4, "little")
        if result := self._core.wb_map_write(self._run, self.handle, self._key(key), raw, 0):
            raise map_error(f"update of map {self.name!r}", result)

    def __len__(self) -> int:
        return len(self.ids())


class ProgramArray(_Ids):
    """A program array, for tail calls. Keys are indexes, values ids of programs that this process offered.

    A loaded program (`workbench.runtime.program.Program`) may be stored as it is.
    """

    def __getitem__(self, key: Any) -> int:
        return int.from_bytes(self._id(key), "little")

    def __setitem__(self, key: Any, value: Any) -> None:
        if hasattr(value, "probe_maps"):
            if value.number not in self.offered:
                self.offer(value.number, value.code.address, value)
            value = value.number
        self._set(key, value)

    def refresh(self) -> int:
        """Take over what other processes stored; how many slots name programs this process does not have."""
        return int(_library().wb_prog_array_refresh(self.handle))


class MapOfMaps(_Ids):
    """An array or hash of maps: keys -> maps of the same namespace.

    `map[key] = inner` stores a map, `map[key]` opens it. `resolve()` before programs run here finds what other
    processes stored: a program sees an inner map that this process has not opened as absent.
    """

    _shape: tuple[int, ...] | None = None

    def set_shape(self, inner: LinkedMap) -> None:
        """What inner maps must look like: type, sizes, flags, and entries of arrays."""
        self._shape = (inner.type, inner.key_size, inner.value_size, inner.max_entries, inner.flags)
        result = _library().wb_nested_shape(self.handle, *self._shape)
        if result and result != -errno.EOPNOTSUPP:
            raise map_error(f"map {self.name!r}", result)

    def _fits(self, inner: Map) -> bool:
        if self._shape is None:
            return True
        kind, key, value, entries, flags = self._shape
        have = (inner.kind, int(inner.struct.key_size), int(inner.struct.value_size), inner.flags)
        return have == (kind, key, value, flags) and (kind != 2 or entries == inner.max_entries)

    def __setitem__(self, key: Any, value: Map) -> None:
        if not self._fits(value):
            raise map_error(f"map {value.name!r} does not fit into {self.name!r}", errno.EINVAL)
        self.offer(int(value.struct.id), value.handle, value)
        self._set(key, int(value.struct.id))

    def __getitem__(self, key: Any) -> Map:
        inner = self._open(int.from_bytes(self._id(key), "little"))
        if inner is None:
            raise KeyError(key)
        return inner

    def _open(self, number: int) -> Map | None:
        if isinstance(self.offered.get(number), Map):
            found: Map = self.offered[number]
            return found
        for name in self.space.names():
            with contextlib.suppress(KeyError, OSError):
                inner = self.space.open(name)
                if int(inner.struct.id) == number:
                    self.offer(number, inner.handle, inner)
                    return inner
        return None

    def resolve(self) -> int:
        """Open every inner map in this process; how many are set but gone."""
        return sum(self._open(number) is None for number in self.ids().values())


FACES.update({3: ProgramArray, 12: MapOfMaps, 13: MapOfMaps})
