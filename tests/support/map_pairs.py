"""The same map in the kernel and in user space: raw operations with the same result type, to be compared."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from workbench.kernel import bpf_syscall
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space, current_run
from workbench.runtime.maps.core import MapError, core

__all__ = ("KernelMap", "Result", "SharedMap", "create_errors")

Result = tuple[int, bytes]
"""(errno or 0, value or key that came back)."""

_ATTR = 144


def _bpf(command: int, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr.ljust(_ATTR, b"\0"), _ATTR)
    libc = bpf_syscall._libc
    number = bpf_syscall._SYSCALLS[os.uname().machine][0]
    result: int = libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(_ATTR)
    )
    return -ctypes.get_errno() if result < 0 else result


def _kernel_create(shape: LinkedMap, inner: int = 0) -> int:
    return _bpf(
        0,
        struct.pack(
            "<IIIIIII16s", shape.type, shape.key_size, shape.value_size, shape.max_entries,
            shape.flags, inner, 0, b"pair",
        ),
    )  # fmt: skip


class KernelMap:
    """A map of the running kernel, by bpf(2)."""

    def __init__(self, shape: LinkedMap, inner: int = 0) -> None:
        self.shape = shape
        self.fd = _kernel_create(shape, inner)
        if self.fd < 0:
            raise OSError(-self.fd, os.strerror(-self.fd))
        self.value_size = shape.value_size

    def close(self) -> None:
        os.close(self.fd)

    def _element(
        self, command: int, key: bytes | None, value: bytes | None, room: int, flags: int = 0
    ) -> Result:
        k = ctypes.create_string_buffer(key, max(len(key), 1)) if key is not None else None
        v = ctypes.create_string_buffer(value or bytes(room), max(len(value or b""), room, 1))
        attr = struct.pack(
            "<IIQQQ", self.fd, 0, ctypes.addressof(k) if k is not None else 0, ctypes.addressof(v), flags
        )
        result = _bpf(command, attr)
        return (-result, b"") if result < 0 else (0, v.raw[:room])

    def lookup(self, key: bytes | None, flags: int = 0, value: bytes | None = None) -> Result:
        return self._element(1, key, value, self.value_size, flags)

    def update(self, key: bytes | None, value: bytes, flags: int = 0) -> Result:
        return self._element(2, key, value, 0, flags)

    def delete(self, key: bytes | None) -> Result:
        k = ctypes.create_string_buffer(key, len(key)) if key is not None else None
        attr = struct.pack("<IIQ", self.fd, 0, ctypes.addressof(k) if k is not None else 0)
        return -min(_bpf(3, attr), 0), b""

    def next_key(self, key: bytes | None) -> Result:
        return self._element(4, key, None, self.shape.key_size)

    def take(self, key: bytes | None) -> Result:
        return self._element(21, key, None, self.value_size)

    def push(self, value: bytes, flags: int = 0) -> Result:
        return self.update(None, value, flags)

    def pop(self) -> Result:
        return self.take(None)

    def peek(self) -> Result:
        return self.lookup(None)


class SharedMap:
    """A map of a namespace, by the C functions."""

    def __init__(self, space: Space, shape: LinkedMap) -> None:
        self.space, self.shape = space, shape
        self.map = space.create(shape)
        self.value_size = shape.value_size
        self._core = core()

    def _out(self, function: str, room: int, *arguments: object, fill: bytes | None = None) -> Result:
        raw = ctypes.create_string_buffer(fill or bytes(max(room, 1)), max(room, 1))
        before = [a for a in arguments if not isinstance(a, int)]
        after = [a for a in arguments if isinstance(a, int)]
        result = getattr(self._core, function)(
            current_run(self.space), self.map.handle, *before, raw, *after
        )
        return (-result, b"") if result < 0 else (0, raw.raw[:room])

    def lookup(self, key: bytes | None, flags: int = 0, value: bytes | None = None) -> Result:
        return self._out("wb_map_read", self.value_size, key, flags, fill=value)

    def update(self, key: bytes | None, value: bytes, flags: int = 0) -> Result:
        result = self._core.wb_map_write(
            current_run(self.space), self.map.handle, key, value, flags
        )
        return -result, b""

    def delete(self, key: bytes | None) -> Result:
        return -self._core.wb_map_erase(current_run(self.space), self.map.handle, key), b""

    def next_key(self, key: bytes | None) -> Result:
        return self._out("wb_map_next_key", self.shape.key_size, key)

    def take(self, key: bytes | None) -> Result:
        return self._out("wb_map_take", self.value_size, key)

    def push(self, value: bytes, flags: int = 0) -> Result:
        result = self._core.wb_map_push(current_run(self.space), self.map.handle, value, flags)
        return -result, b""

    def pop(self) -> Result:
        return self._out("wb_map_pop", self.value_size)

    def peek(self) -> Result:
        return self._out("wb_map_peek", self.value_size)


def create_errors(space: Space, shape: LinkedMap, inner: int = 0) -> tuple[int, int]:
    """(kernel's errno, ours) of creating a map; 0 = it was made."""
    fd = _kernel_create(shape, inner)
    if fd >= 0:
        os.close(fd)
    try:
        space.create(shape)
    except MapError as error:
        return -min(fd, 0), error.errno
    except OSError as error:
        return -min(fd, 0), error.errno or errno.EIO
    return -min(fd, 0), 0
