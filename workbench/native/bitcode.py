"""LLVM bitcode of those runtime functions that compiled programs inline (`workbench.runtime.jit.bitcode`).

Made with clang where it is installed; without it programs call the same functions through their run's table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

__all__ = ("FOLDER", "SOURCES", "build_bitcode", "clang")

RUNTIME = Path(__file__).with_name("runtime")
FOLDER = RUNTIME / "bitcode"
#: Where the functions are; files of `inline/` include what they make functions from.
SOURCES = (
    "inline/hash_4.c",
    "inline/hash_8.c",
    "inline/hash_16.c",
    "inline/ring.c",
    "helpers_control.c",
    "helpers_task.c",
    "helpers_text.c",
)
#: Integer registers only, so that it can be inlined into code that may not touch vector registers.
FLAGS = (
    "-std=c11",
    "-O2",
    "-g0",
    "-emit-llvm",
    "-fPIC",
    "-ffreestanding",
    "-fno-strict-aliasing",
    "-fomit-frame-pointer",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-unroll-loops",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    "-mgeneral-regs-only",
    "-fvisibility=hidden",
)


def clang() -> str:
    """$CLANG, else the oldest clang-N that is installed, else clang; empty without one.

    LLVM reads bitcode of its own version and of older ones.
    """
    if named := os.environ.get("CLANG"):
        return named
    versions: dict[int, str] = {}
    for folder in os.get_exec_path():
        with suppress(OSError):  # a folder on PATH that this user may not read
            for path in Path(folder).glob("clang-*"):
                if (match := re.fullmatch(r"clang-(\d+)", path.name)) and os.access(path, os.X_OK):
                    versions.setdefault(int(match[1]), str(path))
    return versions[min(versions)] if versions else shutil.which("clang") or ""


def build_bitcode(*, force: bool = False) -> bool:
    """Compile what is older than its sources; False when all was up to date or there is no clang."""
    newest = max(
        path.stat().st_mtime
        for pattern in ("*.h", "*.c", "inline/*.[ch]")
        for path in RUNTIME.glob(pattern)
    )
    outputs = {RUNTIME / source: FOLDER / f"{Path(source).stem}.bc" for source in SOURCES}
    stale = {
        source: output
        for source, output in outputs.items()
        if force or not output.exists() or output.stat().st_mtime < newest
    }
    program = clang()
    if not stale or not program:
        return False
    FOLDER.mkdir(exist_ok=True)
    for source, output in stale.items():
        part = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            text = _run(program, *FLAGS, "-S", "-o", "-", str(source))
            _run(program, "-x", "ir", "-emit-llvm", "-c", "-o", str(part), "-", text=_plain(text))
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    return True


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _plain(text: str) -> str:
    """Without the processor that clang compiled for: the code takes on that of what it is inlined into."""
    return re.sub(r' "(target-cpu|target-features|tune-cpu)"="[^"]*"', "", text)
