"""Which processes can be entered, and why the others cannot."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone
from workbench.runtime.attach.stop import state, status_fields, thread_ids

__all__ = ("check_target",)

_ELF_64 = 2


def check_target(pid: int, *, filtered: bool = False) -> None:
    """Refuse what cannot be entered.

    Raises
    ------
    TargetGone
        No such process, or a zombie.
    BadSpec
        A thread, or this very process.
    NotPermitted
        Another user's, or traced already.
    MissingCapability
        32-bit; under a seccomp filter (unless `filtered`); with a shadow stack.
    """
    _check_decoder()
    fields = status_fields(pid) if pid > 0 else {}
    if not fields:
        raise TargetGone(f"there is no process {pid}", "list processes with `ps -e`")
    if fields.get("Tgid", str(pid)) != str(pid):
        raise BadSpec(f"{pid} is a thread of process {fields['Tgid']}", f"use {fields['Tgid']}")
    if fields.get("State", "Z")[0] in "ZX":
        if any(state(pid, one) not in "ZX" for one in thread_ids(pid)):
            raise MissingCapability(
                f"the first thread of process {pid} has ended, and its memory cannot be reached without it",
                "use backend='kernel'",
            )
        raise TargetGone(f"process {pid} has exited already")
    if pid == os.getpid():
        raise BadSpec(
            "a process cannot hold itself still to change its own code",
            "attach from another process",
        )
    if (tracer := fields.get("TracerPid", "0")) != "0":
        raise NotPermitted(
            f"process {pid} is traced already, by process {tracer}",
            "end that debugger or tracer, or detach it",
        )
    try:
        with Path(f"/proc/{pid}/exe").open("rb") as program:
            head = program.read(5)
    except PermissionError:
        raise NotPermitted(
            f"process {pid} of user {fields.get('Uid', '?').split()[0]} may not be entered by user {os.getuid()}",
            "run as its owner or as root",
        ) from None
    except OSError as error:
        raise TargetGone(f"process {pid} has no program: a kernel thread, or gone") from error
    if head[4:] != bytes([_ELF_64]):
        raise MissingCapability(
            f"process {pid} is a 32-bit program: programs are compiled for 64 bits",
            "use backend='kernel'",
        )
    mode = fields.get("Seccomp", "0")
    if mode == "1" or (mode != "0" and not filtered):
        raise MissingCapability(
            f"process {pid} is under seccomp, which may kill it for a system call of the agent",
            "use backend='kernel', or Process(pid, filtered=True) if its filter allows mmap, openat, "
            "get_robust_list and membarrier",
        )
    if "shstk" in fields.get("x86_Thread_features", ""):
        raise MissingCapability(
            f"process {pid} has a shadow stack (CET): return addresses cannot be followed",
            "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        )


def _check_decoder() -> None:
    """Refuse before anything is touched where instructions could not be moved."""
    if platform.machine() != "x86_64":
        return
    try:
        import iced_x86  # noqa: F401
    except ImportError as error:
        raise MissingCapability(
            "iced-x86 is not installed, so no process can be probed in user space",
            "pip install 'bpf-workbench[runtime]'",
        ) from error
