"""perf_event_open(2) and bpf(2) as typed calls: sampling events, breakpoints, tracepoints, side-band rings."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.errors import MissingCapability, NotPermitted, OutOfSlots, TargetGone, WorkbenchError

__all__ = (
    "EventAttributes",
    "bpf",
    "bpf_raw",
    "close",
    "disable",
    "enable",
    "modify_breakpoint",
    "open_event",
    "open_tracepoint",
    "open_uprobe",
    "tracefs",
)

HARDWARE, SOFTWARE, TRACEPOINT, BREAKPOINT = 0, 1, 2, 5
CPU_CYCLES, CPU_CLOCK, DUMMY = 0, 0, 9
CLOCK_MONOTONIC = 1
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_DISABLE, _IOC_MODIFY = 0x2400, 0x2401, 0x4008240B
_SYSCALLS = {"x86_64": (298, 321), "aarch64": (241, 280), "riscv64": (241, 280)}
_FLAG_NAMES = """
disabled inherit pinned exclusive exclude_user exclude_kernel exclude_hv
exclude_idle mmap comm freq inherit_stat enable_on_exec task watermark
precise_ip_low precise_ip_high mmap_data sample_id_all exclude_host exclude_guest
exclude_callchain_kernel exclude_callchain_user mmap2 comm_exec use_clockid
context_switch write_backward namespaces ksymbol bpf_event aux_output cgroup
text_poke build_id inherit_thread remove_on_exec sigtrap
"""
_BITS = {name: 1 << bit for bit, name in enumerate(_FLAG_NAMES.split())}


@dataclass(frozen=True, slots=True)
class EventAttributes:
    """struct perf_event_attr (include/uapi/linux/perf_event.h), with its flag bits by name.

    `sample` is a period, or a frequency in Hz when "freq" is among the flags. `config1` and `config2` are the
    breakpoint address and length for breakpoints.
    """

    type: int
    config: int = 0
    sample: int = 0
    sample_type: int = 0
    flags: tuple[str, ...] = ()
    wakeup: int = 0
    breakpoint_type: int = 0
    config1: int = 0
    config2: int = 0
    signal_data: int = 0

    def pack(self) -> bytes:
        """The attribute as the kernel reads it (PERF_ATTR_SIZE_VER7, 128 bytes)."""
        bits = 0
        for flag in self.flags:
            bits |= _BITS[flag]
        head = struct.pack(
            "<IIQQQQQIIQQ", self.type, 128, self.config, self.sample, self.sample_type, 0, bits,
            self.wakeup, self.breakpoint_type, self.config1, self.config2,
        )  # fmt: skip
        clock = CLOCK_MONOTONIC if "use_clockid" in self.flags else 0
        middle = struct.pack("<QQIiQIHHII", 0, 0, 0, clock, 0, 0, 0, 0, 0, 0)
        return (head + middle + struct.pack("<Q", self.signal_data)).ljust(128, b"\0")


@cache
def _syscall() -> tuple[ctypes.CDLL, int, int]:
    try:
        perf_number, bpf_number = _SYSCALLS[platform.machine()]
    except KeyError:
        raise MissingCapability(
            f"no system call numbers are known for {platform.machine()}"
        ) from None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc, perf_number, bpf_number


def bpf_raw(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2) on a buffer that the kernel may write to; negative errno on failure."""
    libc, _, number = _syscall()
    result = libc.syscall(
        ctypes.c_long(number), ctypes.c_long(command), ctypes.byref(attr), ctypes.c_long(len(attr))
    )
    return int(result) if result >= 0 else -ctypes.get_errno()


def bpf(command: int, attr: bytes) -> int:
    """bpf(2); a descriptor or 0, negative errno on failure."""
    return bpf_raw(command, ctypes.create_string_buffer(attr, len(attr)))


def open_event(
    attributes: EventAttributes, *, pid: int = -1, cpu: int = -1, group: int = -1
) -> int:
    """perf_event_open(2).

    Raises
    ------
    NotPermitted, TargetGone, OutOfSlots, MissingCapability
        By the errno, each with what to do next.
    """
    libc, number, _ = _syscall()
    attr = ctypes.create_string_buffer(attributes.pack(), 128)
    fd = libc.syscall(
        ctypes.c_long(number), attr, ctypes.c_long(pid), ctypes.c_long(cpu), ctypes.c_long(group),
        ctypes.c_long(_FLAG_FD_CLOEXEC),
    )  # fmt: skip
    if fd >= 0:
        return int(fd)
    raise _open_error(attributes, pid, ctypes.get_errno())


def _open_error(attributes: EventAttributes, pid: int, number: int) -> WorkbenchError:
    if number == errno.ESRCH:
        return TargetGone(f"no process or thread {pid}", "it may have exited; check the pid")
    if number in (errno.EACCES, errno.EPERM):
        level = Path("/proc/sys/kernel/perf_event_paranoid")
        paranoid = level.read_text().strip() if level.exists() else "unknown"
        whose = f"process {pid}" if pid > 0 else "the whole machine"
        return NotPermitted(
            f"perf events on {whose} are not permitted (perf_event_paranoid is {paranoid})",
            "run as root or as the process's owner, give the interpreter CAP_PERFMON, or lower the sysctl",
        )
    if number == errno.ENOSPC and attributes.type == BREAKPOINT:
        return OutOfSlots("all hardware watchpoint slots of a thread are taken")
    if number == errno.EMFILE:
        return MissingCapability(
            "too many open files for one perf event per thread", "raise `ulimit -n`"
        )
    return MissingCapability(f"perf_event_open: {os.strerror(number)}", "see `workbench doctor`")


def open_uprobe(
    path: str, offset: int, *, pid: int | None = None, on_return: bool = False, semaphore: int = 0
) -> int:
    """A disabled perf event on one instruction of a file: of process `pid` (all its threads), or of every process.

    `semaphore` is the file offset of a USDT semaphore, which the kernel counts up while the event is open.

    Raises
    ------
    NotPermitted, TargetGone, MissingCapability
        By the errno, each with what to do next.
    """
    folder = Path("/sys/bus/event_source/devices/uprobe")
    try:
        number = int((folder / "type").read_text())
        bit = int((folder / "format" / "retprobe").read_text().partition(":")[2])
    except (OSError, ValueError):
        raise MissingCapability(
            "this kernel has no uprobe events", "see row `uprobe` of `workbench doctor`"
        ) from None
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = EventAttributes(
        number,
        on_return << bit | semaphore << 32,
        flags=("disabled",),
        config1=ctypes.addressof(name),
        config2=offset,
    )
    if pid is None:
        return open_event(attributes, pid=-1, cpu=0)
    return open_event(attributes, pid=pid)


def enable(fd: int) -> None:
    """Start a perf event."""
    fcntl.ioctl(fd, _IOC_ENABLE, 0)


def disable(fd: int) -> None:
    """Pause a perf event."""
    fcntl.ioctl(fd, _IOC_DISABLE, 0)


def modify_breakpoint(fd: int, attributes: EventAttributes) -> None:
    """Re-aim a breakpoint without reopening it (PERF_EVENT_IOC_MODIFY_ATTRIBUTES, Linux >= 4.17)."""
    fcntl.ioctl(fd, _IOC_MODIFY, attributes.pack())


def close(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    with contextlib.suppress(OSError):
        os.close(fd)


def tracefs() -> Path:
    """Where tracefs is mounted.

    Raises
    ------
    MissingCapability
        It is not.
    """
    for place in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        with contextlib.suppress(PermissionError):
            if (Path(place) / "events").is_dir():
                return Path(place)
    raise MissingCapability(
        "tracefs is not mounted or not readable",
        "as root: mount -t tracefs tracefs /sys/kernel/tracing",
    )


def open_tracepoint(category: str, name: str) -> int:
    """A disabled perf event on a tracepoint, all tasks of CPU 0: the event a BPF program attaches to.

    A program on a tracepoint event runs on every CPU whatever CPU the event is on (kernel/trace/bpf_trace.c).
    """
    path = tracefs() / "events" / category / name / "id"
    try:
        number = int(path.read_text())
    except FileNotFoundError:
        raise MissingCapability(
            f"this kernel has no tracepoint {category}:{name}",
            f"those it has: ls {tracefs()}/events/{category}",
        ) from None
    except PermissionError:
        raise NotPermitted(f"tracepoint {category}:{name} is not readable", "run as root") from None
    return open_event(
        EventAttributes(TRACEPOINT, number, sample=1, flags=("disabled",)), pid=-1, cpu=0
    )
