"""The C functions and structures of shared maps (native/runtime/maps.h, space.h), by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

from workbench.errors import WorkbenchError
from workbench.native.library import load

__all__ = ("CMap", "CSegment", "CSpace", "MapError", "core", "error_name", "map_error")

_ENOTSUPP = 524  # the kernel's own, not in errno.h


class MapError(WorkbenchError):
    """A map operation was refused. `errno` is what bpf(2) gives for the same call."""

    code = "map-error"

    def __init__(self, message: str, hint: str = "", number: int = 0) -> None:
        super().__init__(message, hint)
        self.errno = number


class CSegment(ctypes.Structure):
    """struct wb_segment."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("cpus", ctypes.c_uint32),
        ("length", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("name", ctypes.c_char * 64),
        ("spin_lock", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    )


class CSpace(ctypes.Structure):
    """struct wb_space."""

    _fields_ = (
        ("participants", ctypes.c_void_p),
        ("epoch", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("length", ctypes.c_uint64),
        ("printk", ctypes.c_void_p),
        ("timers", ctypes.c_void_p),
        ("reserved", ctypes.c_uint64 * 2),
    )


class CMap(ctypes.Structure):
    """struct wb_map."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("segment", ctypes.c_void_p),
        ("length", ctypes.c_uint64),
        ("values", ctypes.c_void_p),
        ("stride", ctypes.c_uint32),
        ("cpu_stride", ctypes.c_uint32),
        ("cpus", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("ops", ctypes.c_void_p),
        ("space", ctypes.c_void_p),
        ("local", ctypes.c_void_p),
        ("reserved", ctypes.c_uint64 * 5),
    )


_POINTER, _INT64, _UINT64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
_ELEMENT = (_POINTER, _POINTER, ctypes.c_char_p)
_PROTOTYPES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "wb_space_format": (_INT64, (_POINTER, _UINT64, ctypes.c_uint32)),
    "wb_space_open": (_INT64, (_POINTER, _POINTER, _UINT64)),
    "wb_run_new": (_POINTER, (_POINTER, _POINTER)),
    "wb_run_free": (_INT64, (_POINTER,)),
    "wb_segment_size": (_INT64, (_POINTER,)),
    "wb_segment_format": (_INT64, (_POINTER, _UINT64, _POINTER)),
    "wb_map_open": (_INT64, (_POINTER, _POINTER, _UINT64, _POINTER)),
    "wb_map_read": (_INT64, (*_ELEMENT, _POINTER, _UINT64)),
    "wb_map_write": (_INT64, (*_ELEMENT, ctypes.c_char_p, _UINT64)),
    "wb_map_erase": (_INT64, _ELEMENT),
    "wb_map_take": (_INT64, (*_ELEMENT, _POINTER)),
    "wb_map_next_key": (_INT64, (*_ELEMENT, _POINTER)),
    "wb_map_push": (_INT64, (*_ELEMENT, _UINT64)),
    "wb_map_pop": (_INT64, (_POINTER, _POINTER, _POINTER)),
    "wb_map_peek": (_INT64, (_POINTER, _POINTER, _POINTER)),
    "wb_map_entries": (
        _INT64,
        (_POINTER, _POINTER, ctypes.c_int, _POINTER, _POINTER, _POINTER, _UINT64, _INT64, _POINTER),
    ),
    "wb_map_write_many": (
        _INT64,
        (_POINTER, _POINTER, _POINTER, _POINTER, _UINT64, _INT64, _UINT64, _POINTER),
    ),
    "wb_map_erase_many": (_INT64, (_POINTER, _POINTER, _POINTER, _INT64, _POINTER)),
}


@cache
def core() -> ctypes.CDLL:
    """The native core with the prototypes of map functions set."""
    library = load()
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def error_name(number: int) -> str:
    """`EEXIST` for 17 (either sign)."""
    number = abs(number)
    return "ENOTSUPP" if number == _ENOTSUPP else errno.errorcode.get(number, f"error {number}")


_HINTS = {
    errno.E2BIG: "the map is full: raise max_entries, delete entries, or use an LRU type",
    errno.EEXIST: "the key exists and BPF_NOEXIST was given: update without the flag",
    errno.EBUSY: "this thread is inside another operation or program (signal handler?), or no per-CPU slot is free",
    errno.ENOMEM: "a stopped thread holds values that were replaced: let it go on, or raise max_entries",
    errno.EOPNOTSUPP: "this type of map does not have the operation",
    _ENOTSUPP: "this type of map does not have the operation",
}


def map_error(what: str, number: int) -> MapError:
    """The exception for a negative errno, with what to do about it."""
    code = abs(number)
    words = "not supported" if code == _ENOTSUPP else os.strerror(code)
    return MapError(f"{what}: {words} ({error_name(code)})", _HINTS.get(code, ""), code)
