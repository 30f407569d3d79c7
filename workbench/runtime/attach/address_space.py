"""Which processes are one address space: what is done to the memory of one is done to all, held or not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
from pathlib import Path

from workbench.runtime.attach.stop import status_fields

__all__ = ("is_shared", "program", "shares_memory")

_KCMP, _KCMP_VM = 312, 1


def _compare(one: int, other: int) -> int:
    """0: they share it; below 0: the kernel does not say, and why."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(_KCMP, one, other, _KCMP_VM, 0, 0))
    return found if found >= 0 else -ctypes.get_errno()


def shares_memory(one: int, other: int) -> bool:
    """Two processes are one address space (vfork, CLONE_VM)."""
    return _compare(one, other) == 0


def program(pid: int) -> tuple[int, int] | None:
    """Device and inode of the program that a process runs; None when that cannot be seen."""
    try:
        found = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_shared(pid: int) -> bool:
    """The parent of a process, or a child of one of its threads, runs in its memory.

    Yes as well if the kernel does not say (no kcmp): processes that share memory run one program.
    """
    own = program(pid)
    relatives = set()
    with contextlib.suppress(ValueError):
        relatives.add(int(status_fields(pid).get("PPid", "0")))
    for folder in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            relatives.update(map(int, (folder / "children").read_text().split()))
    return any(
        program(one) == own and _compare(pid, one) in (0, -errno.ENOSYS, -errno.EPERM)
        for one in relatives - {0}
    )
