"""Map a blob so that it can run here: written through one view, executed through another that was never writable."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from workbench.errors import MissingCapability, NotPermitted
from workbench.runtime.jit.blob import Blob

__all__ = ("Code", "load", "map_code")

_FAILED = ctypes.c_void_p(-1).value
_MFD_CLOEXEC, _MFD_EXEC = 1, 0x10  # include/uapi/linux/memfd.h; MFD_EXEC since Linux 6.3


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


@dataclass(slots=True)
class Code:
    """A blob that is mapped read-exec in this process.

    Attributes
    ----------
    blob : Blob
    base : int
        Address of its first byte.
    length : int
        Bytes mapped.
    """

    blob: Blob
    base: int
    length: int

    @property
    def address(self) -> int:
        """Address of `uint64_t program(void *ctx, struct wb_run *run)`."""
        return self.base + self.blob.entry

    def close(self) -> None:
        """Unmap; the caller answers for it that no thread runs it."""
        if self.base:
            _libc().munmap(self.base, self.length)
            self.base = 0


def load(blob: Blob) -> Code:
    """Map `blob` into this process, never writable and executable at once.

    Raises
    ------
    NotPermitted
        The system lets this process have no executable memory.
    MissingCapability
        The blob is for another machine.
    """
    from workbench.runtime.jit.llvm import host

    if blob.machine != host():
        raise MissingCapability(
            f"this code is for {blob.machine}, the machine is {host()}",
            "compile it with machine='' for this one",
        )
    base, length, _ = map_code(blob.code)
    return Code(blob, base, length)


def map_code(code: bytes) -> tuple[int, int, str]:
    """Map machine code read-exec: its address, the bytes mapped, and from what.

    Raises
    ------
    NotPermitted
        The system lets this process have no executable memory.
    """
    length = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
    if base := _from_file(code, length):
        return base, length, "a memory file"
    if base := _from_memory(code, length):
        return base, length, "anonymous memory"
    raise NotPermitted(
        f"this process may not have executable memory: {os.strerror(ctypes.get_errno())}",
        "a security policy (SELinux execmem, systemd MemoryDenyWriteExecute) forbids it: "
        "allow it, or run the program in the interpreter",
    )


def _from_file(code: bytes, length: int) -> int:
    """An anonymous file, written, then mapped read-exec; 0 where memory files may not be executed."""
    fd = -1
    for flags in (_MFD_CLOEXEC | _MFD_EXEC, _MFD_CLOEXEC):
        with suppress(OSError):
            fd = os.memfd_create("workbench-jit", flags)
            break
    if fd < 0:
        return 0
    try:
        os.truncate(fd, length)
        os.pwrite(fd, code, 0)
        base = _libc().mmap(None, length, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
    except OSError:
        return 0
    finally:
        os.close(fd)
    return 0 if base == _FAILED else int(base)


def _from_memory(code: bytes, length: int) -> int:
    """Anonymous memory: written, then made read-exec; 0 where that is forbidden."""
    libc = _libc()
    base = libc.mmap(
        None,
        length,
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        -1,
        0,
    )
    if base == _FAILED:
        return 0
    ctypes.memmove(base, code, len(code))
    if libc.mprotect(base, length, mmap.PROT_READ | mmap.PROT_EXEC):
        libc.munmap(base, length)
        return 0
    return int(base)
