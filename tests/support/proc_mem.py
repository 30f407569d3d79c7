"""Kernels that restrict writes through /proc/PID/mem to pages that the process may not write itself, played here.

fs/proc/base.c, proc_mem_foll_force: with proc_mem.force_override=ptrace only the thread that traces the process's first
thread may; with `never` nobody. A write is done page by page; EIO only where not even the first page is taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.runtime.attach.memory import PAGE, mappings
from workbench.runtime.attach.stop import status_fields

__all__ = ("only_tracers", "restricted")


def restricted(override: str, refused: list[int], pwrite: Callable[..., int]) -> Callable[..., int]:
    """What takes the place of os.pwrite(): `pwrite` under this `proc_mem.force_override`.

    Parameters
    ----------
    override : {"ptrace", "never"}
    refused : list of int
        Takes the address of each page that is not written.
    pwrite : callable
        The system's.
    """

    def write(fd: int, data: Any, at: int) -> int:
        found = re.fullmatch(r"/proc/(\d+)/mem", str(Path(f"/proc/self/fd/{fd}").readlink()))
        if found is None:
            return pwrite(fd, data, at)
        pid = int(found[1])
        tracer = status_fields(pid).get("TracerPid", "0")
        if override == "ptrace" and tracer == str(threading.get_native_id()):
            return pwrite(fd, data, at)
        maps = mappings(pid)
        data, page = memoryview(data), at
        while page < at + len(data):
            if any(one.start <= page < one.end and "w" not in one.mode for one in maps):
                refused.append(page)
                data = data[: page - at]
                break
            page = (page + PAGE) & -PAGE
        if not data:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwrite(fd, data, at)

    return write


def only_tracers() -> bool:
    """This kernel refuses such writes to whoever is no tracer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, *[ctypes.c_size_t] + [ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    at = libc.mmap(None, PAGE, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    fd = os.open(f"/proc/{os.getpid()}/mem", os.O_RDWR)
    try:
        with contextlib.suppress(OSError):
            return not os.pwrite(fd, b"x", at)
        return True
    finally:
        os.close(fd)
        libc.munmap(at, PAGE)
