"""Load the native core once, on first use."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from workbench.errors import MissingCapability

__all__ = ("CORE", "load")

CORE = Path(__file__).with_name("_core.so")


@cache
def load() -> ctypes.CDLL:
    """The native core as a ctypes library.

    Raises
    ------
    MissingCapability
        The core was not built; the hint says how to build it.
    """
    try:
        return ctypes.CDLL(str(CORE), use_errno=True)
    except OSError as error:
        raise MissingCapability(
            f"the native core cannot be loaded: {error}",
            "build it with `python -m workbench.native.build` (needs a C compiler)",
        ) from error
