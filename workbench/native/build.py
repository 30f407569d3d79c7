"""Compile every C file of this room into one shared library, when a source is newer than it.

`python -m workbench.native.build [--force]`; the build of the wheel calls `build` as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from workbench.errors import MissingCapability
from workbench.native.library import CORE

__all__ = ("build", "compiler", "sources")

FLAGS = ("-std=c11", "-O2", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")
HERE = Path(__file__).parent


def compiler() -> str:
    """The C compiler to use: $CC, else cc, gcc or clang."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise MissingCapability("no C compiler found", "install one (Debian: apt-get install gcc) or set CC")


def sources() -> list[Path]:
    """C files of the core (those of agents, which are libraries of their own, live in subfolders)."""
    return sorted(HERE.glob("*.c"))


def build(output: Path = CORE, extra: tuple[str, ...] = (), *, force: bool = False) -> bool:
    """Compile the core to `output`; returns False when it was up to date."""
    inputs = [*sources(), *HERE.glob("*.h")]
    if not force and output.exists() and all(p.stat().st_mtime <= output.stat().st_mtime for p in inputs):
        return False
    part = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        subprocess.run(
            [compiler(), *FLAGS, *extra, "-o", str(part), *map(str, sources()), "-lpthread"], check=True
        )
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    print("built" if build(force="--force" in sys.argv) else "up to date", CORE)
