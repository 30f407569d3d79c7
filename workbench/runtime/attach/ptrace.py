"""ptrace(2) as this room uses it: seize, interrupt, registers, signal mask, detach.

Every request has to come from the thread that seized (a rule of ptrace). Nothing here ever sets PTRACE_O_EXITKILL:
if the workbench dies, the kernel lets every thread go on from where it is.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

from workbench.errors import MissingCapability, TargetGone

__all__ = (
    "CONT",
    "DETACH",
    "POKE",
    "REGISTERS",
    "SYSCALL",
    "Registers",
    "get_mask",
    "get_registers",
    "interrupt",
    "request",
    "resume",
    "seize",
    "set_mask",
    "set_registers",
)

POKE, CONT, DETACH, SYSCALL = 5, 7, 17, 24
_GETREGS, _SETREGS = 12, 13
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_GETSIGMASK, _SETSIGMASK = 0x420A, 0x420B
_O_TRACESYSGOOD = 1
# struct user_regs_struct, arch/x86/include/asm/user_64.h
REGISTERS = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
    "ip", "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip


class Registers(ctypes.Structure):
    """General registers of a stopped thread; names as in struct pt_regs."""

    _fields_ = [(name, ctypes.c_uint64) for name in REGISTERS]

    def copy(self) -> Registers:
        """An independent copy."""
        return Registers.from_buffer_copy(self)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return libc


def request(kind: int, thread: int, address: int = 0, data: int = 0) -> None:
    """One ptrace request.

    Raises
    ------
    TargetGone
        The thread is gone (or runs: ptrace does not tell these apart).
    PermissionError
        Refused.
    MissingCapability
        Any other failure.
    """
    if _libc().ptrace(kind, thread, address, data) == -1:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise TargetGone(f"thread {thread} is gone")
        if number == errno.EPERM:
            raise PermissionError(number, os.strerror(number))
        raise MissingCapability(
            f"ptrace request {kind:#x} of thread {thread}: {os.strerror(number)}",
            "see `workbench doctor ptrace`; a container may need --cap-add=SYS_PTRACE",
        )


def seize(thread: int) -> None:
    """Become the tracer of a thread without stopping it."""
    request(_SEIZE, thread, 0, _O_TRACESYSGOOD)


def interrupt(thread: int) -> None:
    """Ask a seized thread to stop; a system call that it sleeps in will be restarted by the kernel."""
    request(_INTERRUPT, thread)


def resume(kind: int, thread: int, signal: int = 0) -> None:
    """CONT, SYSCALL or DETACH, delivering `signal` where the thread stopped for one."""
    request(kind, thread, 0, signal)


def get_registers(thread: int) -> Registers:
    """Registers of a stopped thread."""
    registers = Registers()
    request(_GETREGS, thread, 0, ctypes.addressof(registers))
    return registers


def set_registers(thread: int, registers: Registers) -> None:
    """Set all registers of a stopped thread at once."""
    request(_SETREGS, thread, 0, ctypes.addressof(registers))


def get_mask(thread: int) -> int:
    """Blocked signals of a stopped thread, bit n - 1 for signal n."""
    mask = ctypes.c_uint64()
    request(_GETSIGMASK, thread, 8, ctypes.addressof(mask))
    return mask.value


def set_mask(thread: int, mask: int) -> None:
    """Set the blocked signals of a stopped thread."""
    value = ctypes.c_uint64(mask)
    request(_SETSIGMASK, thread, 8, ctypes.addressof(value))
