"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ("die_with_parent",)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Have the operating system kill this process when its parent dies (Linux; elsewhere this does nothing).

    Parameters
    ----------
    parent : int
        Process id of the parent as the parent itself wrote it down; 0 if unknown. A parent that died before this
        call is noticed by comparing, and ends this process at once.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)
