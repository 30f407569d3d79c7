"""Trials of what user space can do with memory: userfaultfd, write tracking, advice to other processes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import select
import signal
import struct
import threading
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, grant, holding, trial

__all__ = ()

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# include/uapi/linux/userfaultfd.h
_USER_MODE_ONLY = 1
_API_VERSION = 0xAA
_IOC_API, _IOC_REGISTER, _IOC_ZEROPAGE, _IOC_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC020AA04, 0xC018AA06
_REGISTER_MISSING, _REGISTER_WP = 1, 2
_FEATURE_WP_UNPOPULATED, _FEATURE_WP_ASYNC = 1 << 13, 1 << 15
_WRITEPROTECT_ON = 1
_EVENT_PAGEFAULT = 0x12
# include/uapi/linux/fs.h: struct pm_scan_arg is 12 u64
_IOC_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_WRITTEN = 1 << 1
_SCAN_WP_MATCHING, _SCAN_CHECK_WPASYNC = 1, 2

_MADV_COLD = 20
_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "s390x": 355, "ppc64le": 364}
_PROCESS_MADVISE = 440
_REMEDY = "use a kernel built with CONFIG_USERFAULTFD=y (Debian's are)"
_PERMISSION = "allow userfaultfd in the container's seccomp profile"


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _userfaultfd(stack: ExitStack, features: int = 0) -> tuple[int, str]:
    """A userfaultfd and how much it may do: without privilege only faults of user mode."""
    number = _USERFAULTFD.get(platform.machine())
    if number is None:
        raise Absent(f"not tried: system call number unknown on {platform.machine()}")
    scope = "user and kernel faults"
    try:
        fd = _checked(_libc.syscall(ctypes.c_long(number), ctypes.c_int(os.O_CLOEXEC)), "userfaultfd")
    except PermissionError:
        flags = ctypes.c_int(os.O_CLOEXEC | _USER_MODE_ONLY)
        fd = _checked(_libc.syscall(ctypes.c_long(number), flags), "userfaultfd")
        scope = "user faults only"
    holding(stack, fd)
    try:
        fcntl.ioctl(fd, _IOC_API, bytearray(struct.pack("<QQQ", _API_VERSION, features, 0)))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Absent(f"the kernel does not know feature bits {features:#x} of userfaultfd") from None
        raise
    return fd, scope


def _region(stack: ExitStack, pages: int) -> tuple[mmap.mmap, int]:
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    address = ctypes.addressof(view)
    del view
    return memory, address


@trial("userfaultfd", _REMEDY, _PERMISSION)
def _missing_page(stack: ExitStack) -> str:
    page = mmap.PAGESIZE
    fd, scope = _userfaultfd(stack)
    memory, address = _region(stack, 1)
    fcntl.ioctl(fd, _IOC_REGISTER, bytearray(struct.pack("<QQQQ", address, page, _REGISTER_MISSING, 0)))
    # CDLL lets go of the interpreter lock, so this thread can serve the fault that the other one waits in.
    reader = threading.Thread(target=lambda: _libc.strlen(ctypes.c_void_p(address)), daemon=True)
    reader.start()
    if not select.select([fd], [], [], 5)[0]:
        raise Absent("touching a registered page raised no event")
    event, where = struct.unpack_from("<B15xQ", os.read(fd, 32))
    if (event, where & -page) != (_EVENT_PAGEFAULT, address):
        raise Absent(f"unexpected event {event:#x} at {where:#x}")
    fcntl.ioctl(fd, _IOC_ZEROPAGE, bytearray(struct.pack("<QQQq", address, page, 0, 0)))
    reader.join(5)
    if reader.is_alive() or memory[0]:
        raise Absent("the faulting thread did not go on after the page was filled")
    return f"a missing page was filled from user space ({scope})"


def _write_protected(stack: ExitStack, pages: int) -> tuple[mmap.mmap, int]:
    fd, _ = _userfaultfd(stack, _FEATURE_WP_ASYNC | _FEATURE_WP_UNPOPULATED)
    memory, address = _region(stack, pages)
    span = pages * mmap.PAGESIZE
    fcntl.ioctl(fd, _IOC_REGISTER, bytearray(struct.pack("<QQQQ", address, span, _REGISTER_WP, 0)))
    fcntl.ioctl(fd, _IOC_WRITEPROTECT, bytearray(struct.pack("<QQQ", address, span, _WRITEPROTECT_ON)))
    return memory, address


@trial("userfaultfd write-protect async", "needs Linux 6.7 with CONFIG_PTE_MARKER_UFFD_WP=y", _PERMISSION)
def _write_protect_async(stack: ExitStack) -> str:
    memory, address = _write_protected(stack, 8)
    for index in (2, 5):
        memory[index * mmap.PAGESIZE] = 1
    # Bit 57 of a pagemap entry: still write-protected by userfaultfd.
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        entries = struct.unpack("<8Q", pagemap.read(64))
    written = [index for index, entry in enumerate(entries) if not entry >> 57 & 1]
    if written != [2, 5]:
        raise Absent(f"pages 2 and 5 were written, the kernel says {written}")
    return "writes to 2 of 8 protected pages went through without a handler and were told apart"


@trial("PAGEMAP_SCAN", "needs Linux 6.7", _PERMISSION)
def _pagemap_scan(stack: ExitStack) -> str:
    memory, address = _write_protected(stack, 8)
    for index in (1, 6):
        memory[index * mmap.PAGESIZE] = 1
    first = _scan(address, 8)
    memory[3 * mmap.PAGESIZE] = 1
    second = _scan(address, 8)
    if (first, second) != ([1, 6], [3]):
        raise Absent(f"pages 1 and 6, then 3 were written; the scans say {first}, then {second}")
    return "two scans gave exactly the pages written since the one before"


def _scan(address: int, pages: int) -> list[int]:
    regions = (ctypes.c_uint64 * (3 * pages))()
    flags = _SCAN_WP_MATCHING | _SCAN_CHECK_WPASYNC
    end = address + pages * mmap.PAGESIZE
    bits = _PAGE_IS_WRITTEN
    argument = bytearray(
        struct.pack("<12Q", 96, flags, address, end, 0, ctypes.addressof(regions), pages, 0, 0, bits, 0, bits)
    )
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        try:
            found = fcntl.ioctl(pagemap, _IOC_PAGEMAP_SCAN, argument)
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise Absent("the kernel has no PAGEMAP_SCAN") from None
            raise
    return [
        (start - address) // mmap.PAGESIZE
        for i in range(found)
        for start in range(regions[3 * i], regions[3 * i + 1], mmap.PAGESIZE)
    ]


@trial("process_madvise", "needs Linux 5.10 with CONFIG_ADVISE_SYSCALLS=y", grant("sys_nice", "sys_ptrace"))
def _process_madvise(stack: ExitStack) -> str:
    memory, address = _region(stack, 4)
    memory[:] = b"\1" * len(memory)
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    stack.callback(os.waitpid, child, 0)
    stack.callback(os.kill, child, signal.SIGKILL)
    process = holding(stack, os.pidfd_open(child))
    vector = struct.pack("<QQ", address, len(memory))
    advised = _libc.syscall(
        ctypes.c_long(_PROCESS_MADVISE),
        ctypes.c_int(process),
        ctypes.create_string_buffer(vector, len(vector)),
        ctypes.c_ulong(1),
        ctypes.c_int(_MADV_COLD),
        ctypes.c_uint(0),
    )
    if _checked(advised, "process_madvise") != len(memory):
        raise Absent(f"advised {advised} of {len(memory)} bytes of a child process")
    return "pages of a child process were advised cold from outside"
