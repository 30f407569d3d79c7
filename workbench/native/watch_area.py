"""The shared memory through which a watched process hands hits to the recorder (agents/watch_area.h)."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import MissingCapability
from workbench.native.library import load

__all__ = ("PLACES", "RECORD", "Area")

PLACES, FRAMES, CODE, HEADER = 8, 32, 32, 4096
_MAGIC, _VERSION = 0x57424841, 1
_REGISTERS = 21 if platform.machine() == "x86_64" else 34

_PLACE = np.dtype(
    [
        ("address", "<u8"), ("size", "<u8"), ("hits", "<u8"), ("recorded", "<u8"), ("first", "<u8"),
        ("first_pid", "<u4"), ("round", "<u4"),
    ]
)  # fmt: skip
_HEADER = np.dtype(
    [
        ("magic", "<u4"), ("version", "<u4"), ("records", "<u4"), ("record_bytes", "<u4"), ("token", "<u4"),
        ("want_values", "<u4"), ("want_stacks", "<u4"), ("loads", "<u4"), ("budget", "<i8"), ("window", "<i8"),
        ("taken", "<u8"), ("lost_ring_full", "<u8"), ("lost_budget_spent", "<u8"), ("lost_rate_limited", "<u8"),
        ("head", "<u8"), ("tail", "<u8"), ("places", _PLACE, (PLACES,)),
    ]
)  # fmt: skip
RECORD = np.dtype(
    [
        ("sequence", "<u8"), ("time", "<u8"), ("pid", "<u4"), ("tid", "<u4"), ("cpu", "<u4"), ("flags", "<u4"),
        ("address", "<u8"), ("size", "<u8"), ("before", "<u8"), ("after", "<u8"),
        ("registers", "<u8", (_REGISTERS,)), ("code", "u1", (CODE,)), ("comm", "S16"), ("frames", "<u8"),
        ("stack", "<u8", (FRAMES,)),
    ]
)  # fmt: skip


@cache
def _core() -> ctypes.CDLL:
    core = load()
    core.wb_watch_take.restype = ctypes.c_uint32
    header, record = ctypes.c_uint32(), ctypes.c_uint32()
    core.wb_watch_layout(ctypes.byref(header), ctypes.byref(record))
    if (header.value, record.value) != (_HEADER.itemsize, RECORD.itemsize):
        raise MissingCapability(
            "the native core has another record layout than this Python code",
            "rebuild it: python -m workbench.native.build --force",
        )
    return core


class Area:
    """One area, in an anonymous file that vanishes with its last user.

    Parameters
    ----------
    token : int
        Which watch it belongs to: the upper bits of the signal data of its events.
    records : int
        Records of the ring, a power of two.
    values, stacks : bool
        What the agent records besides registers and code.

    `area[name]` reads and writes a field of the header; names as in ``struct watch_header``.
    """

    def __init__(self, token: int, *, records: int = 32768, values: bool, stacks: bool) -> None:
        core = _core()
        self._take = core.wb_watch_take
        self.size = HEADER + records * RECORD.itemsize
        self._fd = os.memfd_create("workbench-watch", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, self.size)
        self._memory = mmap.mmap(self._fd, self.size)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        header = self._header_array()
        header["version"], header["records"] = _VERSION, records
        header["record_bytes"], header["token"] = RECORD.itemsize, token
        header["want_values"], header["want_stacks"] = values, stacks
        header["magic"] = _MAGIC
        self._out = np.zeros(min(records, 4096), RECORD)
        self.unpublished = 0

    def _header_array(self) -> NDArray[Any]:
        return np.frombuffer(self._memory, _HEADER, 1)

    def __getitem__(self, field: str) -> int:
        """A field of the header now."""
        return int(self._header_array()[field][0])

    def __setitem__(self, field: str, value: int) -> None:
        self._header_array()[field][0] = value

    @property
    def places(self) -> NDArray[Any]:
        """Live view of the places, shape (PLACES,)."""
        view: NDArray[Any] = self._header_array()["places"][0]
        return view

    @property
    def path(self) -> str:
        """Where another process of the same user can map it, while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def take(self, *, skip: bool = False) -> NDArray[Any]:
        """Records that are there, of dtype `RECORD`; the array is reused by the next call.

        Parameters
        ----------
        skip : bool
            Pass over records whose writer died while writing; only right when no writer is left.
        """
        skipped = ctypes.c_uint32()
        count = self._take(
            ctypes.c_void_p(self._bytes.ctypes.data), ctypes.c_uint64(self.size),
            ctypes.c_void_p(self._out.ctypes.data), ctypes.c_uint32(len(self._out)), ctypes.c_int(skip),
            ctypes.byref(skipped),
        )  # fmt: skip
        self.unpublished += skipped.value
        return self._out[: int(count)]

    def close(self) -> None:
        """Give up the file; the memory goes with this object. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()
