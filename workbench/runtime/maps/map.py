"""One map in shared memory as a Python mapping with bulk numpy access: the face of `workbench.kernel.maps.Map`."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import MissingCapability
from workbench.runtime.maps.core import CMap, core, map_error
from workbench.runtime.maps.participants import current_run

if TYPE_CHECKING:
    from workbench.runtime.maps.space import Space

__all__ = ("FACES", "Map")

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH = 1, 2, 5, 6, 9, 10
PER_CPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)
_INDEXED = (ARRAY, 3, 4, PERCPU_ARRAY, 12)  # keys are numbers from 0, whether the object says so or not
ANY, NOEXIST, EXIST, LOCK = 0, 1, 2, 4
_BATCH = 4096


class Map(MutableMapping[Any, Any]):
    """One map of a namespace.

    A mapping from keys to values: integers where key or value is a C integer, numpy void scalars for structs, and an
    array of shape (cpus,) for per-CPU values, where `cpus` is the number of slots of the namespace (at least the
    machine's processors; a thread keeps one slot). `table()` reads everything at once, `view()` copies nothing.

    Attributes
    ----------
    name, kind, max_entries, flags : str, int, int, int
        As declared; `kind` is a number of the kernel's `enum bpf_map_type`.
    handle : int
        Address of `struct wb_map` in this process.
    path : Path
        The segment's file.
    key_dtype, value_dtype : numpy dtype
        Layouts; raw bytes where the object has no BTF for them.
    """

    def __init__(
        self,
        space: Space,
        path: Path,
        name: str,
        memory: Any,
        length: int,
        key: np.dtype[Any],
        value: np.dtype[Any],
    ) -> None:
        self.space, self.path, self.name = space, path, name
        self.key_dtype, self.value_dtype = key, value
        self._memory = memory  # the mapping lives as long as the map does
        self._core = core()
        self.struct = CMap()
        self.handle: int = ctypes.addressof(self.struct)
        address = ctypes.addressof(memory)
        if error := self._core.wb_map_open(self.handle, address, length, space.handle):
            raise map_error(
                f"segment {path} of map {name!r} is damaged or of another version", error
            )
        self.kind, self.max_entries = int(self.struct.type), int(self.struct.max_entries)
        self.flags = int(self.struct.flags)
        self.cpus = int(self.struct.cpus) if self.kind in PER_CPU else 1
        size = int(self.struct.value_size)
        self._key_bytes = int(self.struct.key_size)
        self._slot = (size + 7) // 8 * 8 if self.kind in PER_CPU else size
        self._value_bytes = self._slot * self.cpus
        if key.itemsize != max(self._key_bytes, 1) and self._key_bytes:
            self.key_dtype = np.dtype(f"V{self._key_bytes}")
        if self.kind in _INDEXED and not self.key_dtype.names and self._key_bytes == 4:
            self.key_dtype = np.dtype("u4")
        if value.itemsize != size and size:
            self.value_dtype = np.dtype(f"V{size}")

    def __repr__(self) -> str:
        return (
            f"<Map {self.name}: {self.key_dtype} -> {self.value_dtype}, {self.max_entries} entries>"
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # --- bytes ------------------------------------------------------------------------------------------------------

    @property
    def _run(self) -> int:
        return current_run(self.space)

    def _key(self, key: Any) -> bytes:
        if isinstance(key, bytes) and len(key) == self._key_bytes:
            return key
        return np.asarray(key, dtype=self.key_dtype).tobytes()

    def _value(self, value: Any) -> bytes:
        if isinstance(value, bytes) and len(value) == self._value_bytes:
            return value
        if self.kind not in PER_CPU:
            return np.asarray(value, dtype=self.value_dtype).tobytes()
        slots = np.zeros((self.cpus, self._slot), "u1")
        values = np.broadcast_to(np.asarray(value, self.value_dtype), (self.cpus,))
        slots[:, : self.value_dtype.itemsize] = (
            np.ascontiguousarray(values).view("u1").reshape(self.cpus, -1)
        )
        return slots.tobytes()

    def _values(self, raw: NDArray[np.uint8], count: int) -> NDArray[Any]:
        """Raw value bytes as (count,) or, per CPU, (count, cpus) of the value dtype."""
        if self.kind not in PER_CPU:
            return np.frombuffer(raw.tobytes(), self.value_dtype, count)
        slots = raw.reshape(count, self.cpus, self._slot)[:, :, : self.value_dtype.itemsize]
        return np.ascontiguousarray(slots).view(self.value_dtype)[:, :, 0]

    def _decode(self, raw: bytes) -> Any:
        value = self._values(np.frombuffer(raw, "u1"), 1)[0]
        return value.item() if value.ndim == 0 and not value.dtype.names else value

    # --- bpf(2)'s operations ----------------------------------------------------------------------------------------

    def lookup(self, key: Any, flags: int = 0) -> Any:
        """The value of `key`.

        Raises
        ------
        KeyError
            It is not there.
        MapError
            The kernel's error for the same call.
        """
        raw = ctypes.create_string_buffer(max(self._value_bytes, 1))
        result = self._core.wb_map_read(self._run, self.handle, self._key(key), raw, flags)
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise map_error(f"lookup in map {self.name!r}", result)
        return self._decode(raw.raw[: self._value_bytes])

    def update(self, key: Any = (), value: Any = None, flags: int = ANY) -> None:  # type: ignore[override]
        """Set one entry with BPF_ANY (0), BPF_NOEXIST (1) or BPF_EXIST (2); or every entry of a mapping, as dict does.

        Raises
        ------
        MapError
            The kernel's error for the same call (`errno`: EEXIST, ENOENT, E2BIG, EINVAL ...).
        """
        if value is None:
            super().update(key)
            return
        result = self._core.wb_map_write(
            self._run, self.handle, self._key(key), self._value(value), flags
        )
        if result:
            raise map_error(f"update of map {self.name!r}", result)

    def take(self, key: Any) -> Any:
        """Lookup and delete in one step (BPF_MAP_LOOKUP_AND_DELETE_ELEM); KeyError when it is not there."""
        raw = ctypes.create_string_buffer(max(self._value_bytes, 1))
        result = self._core.wb_map_take(self._run, self.handle, self._key(key), raw)
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise map_error(f"lookup and delete in map {self.name!r}", result)
        return self._decode(raw.raw[: self._value_bytes])

    def next_key(self, key: Any = None) -> Any:
        """The key after `key` (None: the first); KeyError at the end. An absent key gives the first."""
        raw = ctypes.create_string_buffer(max(self._key_bytes, 1))
        given = None if key is None else self._key(key)
        result = self._core.wb_map_next_key(self._run, self.handle, given, raw)
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise map_error(f"next key of map {self.name!r}", result)
        found = np.frombuffer(raw.raw[: self._key_bytes], self.key_dtype, 1)[0]
        return found.item() if not self.key_dtype.names and found.ndim == 0 else found

    def push(self, value: Any, flags: int = 0) -> None:
        """Add an element to a queue, stack or bloom filter."""
        raw = (
            value.to_bytes(self._value_bytes, "little")
            if isinstance(value, int)
            else self._value(value)
        )
        if result := self._core.wb_map_push(self._run, self.handle, raw, flags):
            raise map_error(f"push to map {self.name!r}", result)

    def _out(self, what: str, function: Any) -> Any:
        raw = ctypes.create_string_buffer(max(self._value_bytes, 1))
        result = function(self._run, self.handle, raw)
        if result == -errno.ENOENT:
            raise KeyError(f"map {self.name!r} is empty")
        if result:
            raise map_error(f"{what} map {self.name!r}", result)
        return self._decode(raw.raw[: self._value_bytes])

    def pop(self, *key: Any) -> Any:
        """Take the next element of a queue or stack; with a key, dict's `pop`."""
        return super().pop(*key) if key else self._out("pop from", self._core.wb_map_pop)

    def peek(self) -> Any:
        """The next element of a queue or stack."""
        return self._out("peek into", self._core.wb_map_peek)

    # --- mapping ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        return self.lookup(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.update(key, value)

    def __delitem__(self, key: Any) -> None:
        result = self._core.wb_map_erase(self._run, self.handle, self._key(key))
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise map_error(f"delete from map {self.name!r}", result)

    def __iter__(self) -> Iterator[Any]:
        for key in self.table()[0]:
            yield key.item() if not key.dtype.names else key

    def __len__(self) -> int:
        return self.max_entries if self.kind in (ARRAY, PERCPU_ARRAY) else len(self.table()[0])

    # --- in bulk ----------------------------------------------------------------------------------------------------

    def batches(self, room: int = _BATCH) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Every entry, up to `room` at a time, more where a bucket has more: (keys, values) as `table()` gives them.

        Hash maps go on with the next bucket, as the kernel's batches: entries that stay come once, whatever is deleted
        meanwhile. Other types go on after the last key.
        """
        position = ctypes.create_string_buffer(max(self._key_bytes, 8))
        keys = ctypes.create_string_buffer(max(room * self._key_bytes, 1))
        values = ctypes.create_string_buffer(max(room * self._value_bytes, 1))
        done, started = ctypes.c_int(0), 0
        while not done.value:
            got = self._core.wb_map_entries(
                self._run, self.handle, started, position, keys, values,
                self._value_bytes, room, ctypes.byref(done),
            )  # fmt: skip
            if got == -errno.ENOSPC:  # one hash bucket holds more
                room *= 2
                keys = ctypes.create_string_buffer(room * self._key_bytes)
                values = ctypes.create_string_buffer(room * self._value_bytes)
                continue
            if got < 0:
                raise map_error(f"batch lookup in map {self.name!r}", got)
            started = 1
            if got:
                raw = np.frombuffer(values.raw[: got * self._value_bytes], "u1")
                yield (
                    np.frombuffer(keys.raw[: got * self._key_bytes], self.key_dtype, got),
                    self._values(raw, got),
                )

    def table(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Every entry.

        Returns
        -------
        keys : array, shape (n,), the key dtype
        values : array, shape (n,) or, per CPU, (n, cpus), the value dtype
        """
        parts = list(self.batches())
        if not parts:
            return np.zeros(0, self.key_dtype), self._values(np.zeros(0, "u1"), 0)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def update_many(self, keys: Any, values: Any, flags: int = ANY) -> None:
        """Set many entries; those before the one that is refused are set (BPF_MAP_UPDATE_BATCH)."""
        packed = np.ascontiguousarray(keys, self.key_dtype)
        if self.kind in PER_CPU:
            data = b"".join(map(self._value, values))
        else:
            data = np.ascontiguousarray(values, self.value_dtype).tobytes()
        if len(data) != len(packed) * self._value_bytes:
            raise ValueError(f"{len(packed)} keys but {len(data) / self._value_bytes:g} values")
        done = ctypes.c_int64()
        result = self._core.wb_map_write_many(
            self._run, self.handle, packed.ctypes.data, data, self._value_bytes, len(packed), flags,
            ctypes.byref(done),
        )  # fmt: skip
        if result:
            raise map_error(f"update {done.value} of {len(packed)} in map {self.name!r}", result)

    def delete_many(self, keys: Any) -> None:
        """Delete many entries; those before an absent one are deleted (BPF_MAP_DELETE_BATCH)."""
        packed = np.ascontiguousarray(keys, self.key_dtype)
        done = ctypes.c_int64()
        result = self._core.wb_map_erase_many(
            self._run, self.handle, packed.ctypes.data, len(packed), ctypes.byref(done)
        )
        if result == -errno.ENOENT:
            raise KeyError(packed[done.value])
        if result:
            raise map_error(f"delete {done.value} of {len(packed)} in map {self.name!r}", result)

    def view(self, *, writable: bool = False) -> NDArray[Any]:
        """The live values of an array: no copy, no call per read.

        Returns
        -------
        array, shape (max_entries,) or, per CPU, (max_entries, cpus), the value dtype

        Raises
        ------
        MissingCapability
            The map is not an array.
        """
        if self.kind not in (ARRAY, PERCPU_ARRAY) or not self.struct.values:
            raise MissingCapability(
                f"map {self.name!r} has no fixed places for its values",
                "use table(), which copies, or an array map",
            )
        offset = int(self.struct.values) - ctypes.addressof(self._memory)
        shape: tuple[int, ...] = (self.max_entries,)
        strides: tuple[int, ...] = (int(self.struct.stride),)
        if self.kind == PERCPU_ARRAY:
            shape, strides = (*shape, self.cpus), (*strides, int(self.struct.cpu_stride))
        base, inner = self.value_dtype.subdtype or (self.value_dtype, ())
        steps = np.empty(inner, base).strides
        values: NDArray[Any] = np.ndarray(
            (*shape, *inner), base, self._memory, offset, (*strides, *steps)
        )
        values.flags.writeable = writable
        return values


    def bytes_of_first(self) -> NDArray[np.uint8]:
        """Live bytes of an array's first element, writable: where global variables lie."""
        offset = int(self.struct.values) - ctypes.addressof(self._memory)
        return np.frombuffer(self._memory, np.uint8, int(self.struct.value_size), offset)


FACES: dict[int, type[Map]] = {}
"""Map type -> the subclass of Map that types with operations of their own have."""
