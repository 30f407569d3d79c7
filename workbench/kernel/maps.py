"""Kernel maps as Python mappings with bulk numpy reads."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import MissingCapability
from workbench.kernel.libbpf import errno_error, library

__all__ = ("Map", "possible_cpus")

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH = 1, 2, 5, 6, 9, 10
STACK_TRACE = 7
_PER_CPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)
_MMAPABLE = 1 << 10
_BATCH = 65536


def possible_cpus() -> int:
    """Number of possible CPUs: the length of a per-CPU value."""
    return int(library().libbpf_num_possible_cpus())


class Map(MutableMapping[Any, Any]):
    """One kernel map.

    A mapping from keys to values: integers where key or value is a C integer, numpy void scalars for structs, and an
    array of shape (possible CPUs,) for per-CPU values. `table()` reads everything at once.

    Parameters
    ----------
    fd : int
        Map descriptor (not owned).
    key, value : numpy dtype
        Layouts; raw bytes where the object has no BTF for them.
    """

    def __init__(
        self,
        name: str,
        fd: int,
        kind: int,
        key: np.dtype[Any],
        value: np.dtype[Any],
        entries: int,
        flags: int,
    ) -> None:
        self.name, self.fd, self.kind, self.max_entries, self._flags = (
            name,
            fd,
            kind,
            entries,
            flags,
        )
        self.key_dtype, self.value_dtype = key, value
        self._cpus = possible_cpus() if kind in _PER_CPU else 1
        self._slot = (value.itemsize + 7) // 8 * 8 if kind in _PER_CPU else value.itemsize
        self._lib = library()

    def __repr__(self) -> str:
        return (
            f"<Map {self.name}: {self.key_dtype} -> {self.value_dtype}, {self.max_entries} entries>"
        )

    def _key(self, key: Any) -> bytes:
        return np.asarray(key, dtype=self.key_dtype).tobytes()

    def _decode(self, raw: bytes | bytearray) -> Any:
        values = self._values(np.frombuffer(raw, "u1"), 1)[0]
        return values.item() if values.ndim == 0 and not values.dtype.names else values

    def _values(self, raw: NDArray[np.uint8], count: int) -> NDArray[Any]:
        """Raw value bytes as (count,) or, per CPU, (count, CPUs) of the value dtype."""
        if self.kind not in _PER_CPU:
            return np.frombuffer(raw.tobytes(), self.value_dtype, count)
        slots = raw.reshape(count, self._cpus, self._slot)[:, :, : self.value_dtype.itemsize]
        return np.ascontiguousarray(slots).view(self.value_dtype)[:, :, 0]

    def __getitem__(self, key: Any) -> Any:
        return self.lookup(key)

    def lookup(self, key: Any, flags: int = 0) -> Any:
        """The value of `key`; KeyError when it is not there. With BPF_F_LOCK (4) it is read under its own lock.

        Raises
        ------
        MissingCapability, RunFailed
            The kernel's refusal.
        """
        raw = ctypes.create_string_buffer(max(self._slot * self._cpus, 1))
        result = self._lib.bpf_map_lookup_elem_flags(self.fd, self._key(key), raw, flags)
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise errno_error(f"lookup in map {self.name!r}", result)
        return self._decode(raw.raw[: self._slot * self._cpus])

    def stack(self, number: int) -> NDArray[np.uint64]:
        """Addresses of a stack by what `bpf_get_stackid` gave, innermost first; KeyError when it is not there.

        Raises
        ------
        MissingCapability
            The map is no stack trace.
        """
        if self.kind != STACK_TRACE:
            raise MissingCapability(
                f"map {self.name!r} holds no stacks", "declare it BPF_MAP_TYPE_STACK_TRACE"
            )
        raw = ctypes.create_string_buffer(max(self._slot, 8))
        key = int(number).to_bytes(4, "little", signed=number < 0)
        result = self._lib.bpf_map_lookup_elem_flags(self.fd, key, raw, 0)
        if result == -errno.ENOENT:
            raise KeyError(number)
        if result:
            raise errno_error(f"lookup in map {self.name!r}", result)
        found = np.frombuffer(raw.raw[: self._slot // 8 * 8], np.uint64)
        stack: NDArray[np.uint64] = found[found != 0]
        return stack

    def __setitem__(self, key: Any, value: Any) -> None:
        self.update(key, value)

    def update(self, key: Any = (), value: Any = None, flags: int = 0) -> None:  # type: ignore[override]
        """Set one entry with BPF_ANY (0), BPF_NOEXIST (1) or BPF_EXIST (2), | BPF_F_LOCK (4); or all of a mapping."""
        if value is None:
            super().update(key)
            return
        result = self._lib.bpf_map_update_elem(self.fd, self._key(key), self._raw(value), flags)
        if result:
            raise errno_error(f"update of map {self.name!r}", result)

    def _raw(self, value: Any) -> bytes:
        if self.kind in _PER_CPU:
            slots = np.zeros((self._cpus, self._slot), "u1")
            values = np.broadcast_to(np.asarray(value, self.value_dtype), (self._cpus,))
            slots[:, : self.value_dtype.itemsize] = (
                np.ascontiguousarray(values).view("u1").reshape(self._cpus, -1)
            )
            return slots.tobytes()
        return np.asarray(value, dtype=self.value_dtype).tobytes()

    def __delitem__(self, key: Any) -> None:
        result = self._lib.bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            raise KeyError(key)
        if result:
            raise errno_error(f"delete from map {self.name!r}", result)

    def __iter__(self) -> Iterator[Any]:
        for key in self.table()[0]:
            yield key.item() if not key.dtype.names else key

    def __len__(self) -> int:
        return self.max_entries if self.kind in (ARRAY, PERCPU_ARRAY) else len(self.table()[0])

    def table(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Every entry in bulk (LOOKUP_BATCH where the kernel has it, key by key elsewhere).

        Returns
        -------
        keys : array, shape (n,), the key dtype
        values : array, shape (n,) or, per CPU, (n, possible CPUs), the value dtype
        """
        parts = list(self.batches(min(max(self.max_entries, 1), _BATCH)))
        if not parts:
            return np.zeros(0, self.key_dtype), self._values(np.zeros(0, "u1"), 0)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def batches(self, room: int = 4096) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Every entry, up to `room` at a time, more where a bucket has more: (keys, values) as `table()` gives them."""
        key_size, value_size = self.key_dtype.itemsize, self._slot * self._cpus
        position = ctypes.create_string_buffer(max(key_size, 8))
        started = False
        while True:
            key_buffer = ctypes.create_string_buffer(room * key_size)
            value_buffer = ctypes.create_string_buffer(room * value_size)
            count = ctypes.c_uint32(room)
            result = self._lib.bpf_map_lookup_batch(
                self.fd, position if started else None, position, key_buffer, value_buffer,
                ctypes.byref(count), None,
            )  # fmt: skip
            if result == -errno.ENOSPC:  # one hash bucket holds more than the buffer
                room *= 2
                continue
            if result not in (0, -errno.ENOENT):
                if not started and result in (
                    -errno.EINVAL,
                    -errno.ENOTSUPP if hasattr(errno, "ENOTSUPP") else -524,
                ):
                    yield self._table_by_key()
                    return
                raise errno_error(f"batch lookup in map {self.name!r}", result)
            if got := count.value:
                raw = np.frombuffer(value_buffer.raw[: got * value_size], "u1")
                yield (
                    np.frombuffer(key_buffer.raw[: got * key_size], self.key_dtype, got),
                    self._values(raw, got),
                )
            started = True
            if result == -errno.ENOENT:
                return

    def _table_by_key(self) -> tuple[NDArray[Any], NDArray[Any]]:
        keys, values = [], []
        current: Any = None
        following = ctypes.create_string_buffer(self.key_dtype.itemsize)
        while not self._lib.bpf_map_get_next_key(self.fd, current, following):
            current = ctypes.create_string_buffer(following.raw)
            raw = ctypes.create_string_buffer(self._slot * self._cpus)
            if not self._lib.bpf_map_lookup_elem_flags(self.fd, current, raw, 0):
                keys.append(current.raw[: self.key_dtype.itemsize])
                values.append(raw.raw[: self._slot * self._cpus])
        bulk = np.frombuffer(b"".join(values), "u1")
        return np.frombuffer(b"".join(keys), self.key_dtype, len(keys)), self._values(
            bulk, len(keys)
        )

    def update_many(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Set many entries at once (UPDATE_BATCH where the kernel has it)."""
        keys, values = (
            np.ascontiguousarray(keys, self.key_dtype),
            np.ascontiguousarray(values, self.value_dtype),
        )
        count = ctypes.c_uint32(len(keys))
        if self.kind in _PER_CPU or self._lib.bpf_map_update_batch(
            self.fd, keys.ctypes.data, values.ctypes.data, ctypes.byref(count), None
        ):
            for key, value in zip(keys, values, strict=True):
                self[key] = value

    def delete_many(self, keys: Any) -> None:
        """Delete many entries; those before an absent one are deleted (BPF_MAP_DELETE_BATCH)."""
        packed = np.ascontiguousarray(keys, self.key_dtype)
        if not len(packed):
            return
        count = ctypes.c_uint32(len(packed))
        result = self._lib.bpf_map_delete_batch(
            ctypes.c_int(self.fd), ctypes.c_void_p(packed.ctypes.data), ctypes.byref(count), None
        )
        if result == -errno.ENOENT:
            raise KeyError(packed[count.value])
        if result:
            raise errno_error(f"delete {count.value} of {len(packed)} in map {self.name!r}", result)

    def push(self, value: Any) -> None:
        """Add an element to a queue or stack map."""
        size = self.value_dtype.itemsize
        raw = (
            value.to_bytes(size, "little")
            if isinstance(value, int)
            else np.asarray(value, self.value_dtype).tobytes()
        )
        if result := self._lib.bpf_map_update_elem(self.fd, None, raw, 0):
            raise errno_error(f"push to map {self.name!r}", result)

    def view(self, *, writable: bool = False) -> NDArray[Any]:
        """The live values of an mmapable array, shape (max_entries,): no copy, no system call per read.

        Raises
        ------
        MissingCapability
            The map is not an array declared with BPF_F_MMAPABLE.
        """
        if self.kind != ARRAY or not self._flags & _MMAPABLE:
            raise MissingCapability(
                f"map {self.name!r} cannot be mapped into memory",
                "declare it BPF_MAP_TYPE_ARRAY with map_flags BPF_F_MMAPABLE, or use table()",
            )
        stride = (self.value_dtype.itemsize + 7) // 8 * 8
        page = os.sysconf("SC_PAGE_SIZE")
        length = (stride * self.max_entries + page - 1) // page * page
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        area = mmap.mmap(self.fd, length, mmap.MAP_SHARED, protection)
        padded = np.dtype(
            {"names": ["value"], "formats": [self.value_dtype], "offsets": [0], "itemsize": stride}
        )
        values: NDArray[Any] = np.frombuffer(area, padded, self.max_entries)["value"]
        return values
