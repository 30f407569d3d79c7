"""Handlers of memory faults in this process: the second net under programs that read memory which is not there.

The first needs no handler: a page is read only once a system call found it readable (native/runtime/safe_read.c). Pages
that vanish in the milliseconds after that are caught here. Programs are safe without the handlers too, and pay for it
with a system call per page and run.
"""

from __future__ import annotations

import os

from workbench.errors import WorkbenchError
from workbench.runtime.helpers.native import core

__all__ = ("armed", "protect", "unprotect")


def protect() -> None:
    """Install our handlers of SIGSEGV and SIGBUS in front of what is installed, which still gets every other fault.

    Raises
    ------
    WorkbenchError
        The kernel refuses (a filter of system calls).
    """
    error = core().wb_process_start(1)
    if error:
        raise WorkbenchError(
            f"handlers of memory faults cannot be installed: {os.strerror(-error)}",
            "programs run without them; reads of memory then cost a system call per page",
        )


def unprotect() -> bool:
    """Put the previous handlers back; False if somebody else's were installed after ours, which then stay."""
    return bool(core().wb_process_stop())


def armed() -> bool:
    """Whether a fault of the calling thread would reach our handler: installed, not replaced, signals not blocked."""
    return bool(core().wb_process_armed())
