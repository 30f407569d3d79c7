"""Helpers and map operations as LLVM bitcode, so that they become part of the code that calls them.

Made from `workbench/native/runtime` by `python -m workbench.native.build` where clang is there; without it, every call
goes through the run's table.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import workbench.native

__all__ = ("FOLDER", "available", "digest")

FOLDER = Path(workbench.native.__file__ or "").parent / "runtime" / "bitcode"


@cache
def available() -> dict[str, Path]:
    """Bitcode files by the name of their C file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.bc"))}


@cache
def digest() -> bytes:
    """SHA-256 of all bitcode."""
    total = hashlib.sha256()
    for path in available().values():
        total.update(path.read_bytes())
    return total.digest()
