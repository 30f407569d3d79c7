"""Trials of what user space can do with processes: notified system calls, ptrace, Python stacks, guests."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, grant, holding, trial

__all__ = ()

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

# (seccomp, getppid) by machine; include/uapi/linux/seccomp.h
_NUMBERS = {"x86_64": (317, 110), "aarch64": (277, 173), "riscv64": (277, 173)}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_RET_USER_NOTIF, _RET_ALLOW = 0x7FC00000, 0x7FFF0000
_NOTIF_RECV, _NOTIF_SEND = 0xC0502100, 0xC0182101

_PTRACE_PEEKDATA, _PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 2, 17, 0x4206, 0x4207


@trial(
    "seccomp user notification",
    "use a kernel built with CONFIG_SECCOMP_FILTER=y (Debian's are)",
    "allow seccomp in the container's own profile",
)
def _seccomp(stack: ExitStack) -> str:
    try:
        seccomp, getppid = _NUMBERS[platform.machine()]
    except KeyError:
        raise Absent(f"not tried: system call numbers unknown on {platform.machine()}") from None
    listening: list[int] = []
    answers: list[int] = []
    ready = threading.Event()

    def filtered() -> None:  # the filter binds this thread only, and ends with it
        program = b"".join(
            struct.pack("<HBBI", *insn)
            for insn in (
                (0x20, 0, 0, 0),  # load the system call number
                (0x15, 0, 1, getppid),
                (0x06, 0, 0, _RET_USER_NOTIF),
                (0x06, 0, 0, _RET_ALLOW),
            )
        )
        code = ctypes.create_string_buffer(program, len(program))
        length = len(program) // 8
        prog = ctypes.create_string_buffer(struct.pack("@HP", length, ctypes.addressof(code)))
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        fd = _libc.syscall(
            ctypes.c_long(seccomp), ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_NEW_LISTENER), prog
        )
        listening.append(fd if fd >= 0 else -ctypes.get_errno())
        ready.set()
        if fd >= 0:
            answers.append(_libc.syscall(ctypes.c_long(getppid)))

    thread = threading.Thread(target=filtered, daemon=True)
    thread.start()
    ready.wait(5)
    listener = listening[0]
    if listener < 0:
        raise OSError(-listener, os.strerror(-listener))
    holding(stack, listener)
    if not select.select([listener], [], [], 5)[0]:
        raise Absent("the filtered call raised no notification")
    request = bytearray(80)
    fcntl.ioctl(listener, _NOTIF_RECV, request)
    (cookie,) = struct.unpack_from("<Q", request)
    fcntl.ioctl(listener, _NOTIF_SEND, bytearray(struct.pack("<QqiI", cookie, 4242, 0, 0)))
    thread.join(5)
    if answers != [4242]:
        raise Absent(f"the filtered call returned {answers}, the supervisor had answered 4242")
    return "a system call of one thread was answered by another"


@trial("ptrace", "use a kernel that allows ptrace", grant("sys_ptrace") + "; or sysctl kernel.yama.ptrace_scope=1")
def _ptrace(stack: ExitStack) -> str:
    word = ctypes.c_long(0x5742)
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    stack.callback(os.waitpid, child, 0)
    stack.callback(os.kill, child, signal.SIGKILL)

    def ptrace(request: int, address: int = 0) -> int:
        ctypes.set_errno(0)
        result: int = _libc.ptrace(request, child, address, None)
        if result < 0 and (code := ctypes.get_errno()):
            raise OSError(code, os.strerror(code))
        return result

    ptrace(_PTRACE_SEIZE)
    ptrace(_PTRACE_INTERRUPT)
    _, status = os.waitpid(child, 0)
    value = ptrace(_PTRACE_PEEKDATA, ctypes.addressof(word)) if os.WIFSTOPPED(status) else 0
    ptrace(_PTRACE_DETACH)
    if value != word.value:
        raise Absent("memory of the stopped child was not readable")
    return f"a child process was stopped, read and let go; {_yama()}"


def _yama() -> str:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        return "no Yama: every process of the same user can be attached"
    return {
        0: "Yama scope 0: every process of the same user can be attached",
        1: "Yama scope 1: only children, unless privileged",
        2: "Yama scope 2: only with CAP_SYS_PTRACE",
    }.get(scope, f"Yama scope {scope}")


_TRAMPOLINE = """
import sys
sys.activate_stack_trampoline("perf")
def probed():
    return sys.is_stack_trampoline_active()
print(probed())
"""


@trial("python perf trampolines", "Python frames in stacks need an observed Python of 3.12 or newer (python -X perf)")
def _trampolines(stack: ExitStack) -> str:
    if not hasattr(sys, "activate_stack_trampoline"):
        raise Absent(f"this Python {platform.python_version()} has none")
    # In a process of its own: trampolines cannot be told to leave no trace.
    with subprocess.Popen(
        [sys.executable, "-c", _TRAMPOLINE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        stack.callback(Path(f"/tmp/perf-{child.pid}.map").unlink, missing_ok=True)
        out, err = child.communicate(timeout=5)
        if out.strip() != "True":
            raise Absent((err.strip().splitlines() or ["the trampoline stayed inactive"])[-1])
        if "py::probed:" not in Path(f"/tmp/perf-{child.pid}.map").read_text():
            raise Absent("a Python function that ran is not in the perf map")
    return "a Python function that ran was named in the interpreter's perf map"


@trial(
    "kallsyms",
    "use a kernel built with CONFIG_KALLSYMS=y",
    "as root: sysctl kernel.kptr_restrict=0; without root also kernel.perf_event_paranoid=1, or cap_syslog",
)
def _kallsyms(stack: ExitStack) -> str:
    total = named = 0
    with Path("/proc/kallsyms").open("rb") as symbols:
        for line in symbols:
            total += 1
            named += not line.startswith(b"0000000000000000")
    if not named:
        raise PermissionError(errno.EPERM, f"all {total} addresses are hidden as zero", "/proc/kallsyms")
    return f"{named} of {total} kernel symbols have an address"


@trial(
    "KVM",
    "enable virtualisation in the firmware or the hypervisor; guests run emulated without it",
    "add the user to group kvm: sudo adduser $USER kvm",
)
def _kvm(stack: ExitStack) -> str:
    device = holding(stack, os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    version = fcntl.ioctl(device, 0xAE00)
    holding(stack, fcntl.ioctl(device, 0xAE01, 0))
    return f"an empty virtual machine was created (KVM API {version})"
