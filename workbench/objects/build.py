"""Build the project's own BPF objects into the package: `python -m workbench.objects.build [--force]`.

Each `bpf/NAME.bpf.c` becomes `workbench/objects/built/NAME.ARCH.bpf.o`; the shared headers are copied beside them,
so that `wb.compile` works from an installed wheel.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from workbench.errors import CompileFailed
from workbench.objects.compile import BUILT, INCLUDE, compile_file, target_arch

__all__ = ("build", "built_object")

SOURCES = Path(__file__).parents[2] / "bpf"


def built_object(name: str) -> Path:
    """Path of the built object of program file `name` for this machine's architecture."""
    return BUILT / f"{name}.{target_arch()}.bpf.o"


def build(*, force: bool = False) -> list[Path]:
    """Compile what is older than its source or a shared header; returns what was compiled.

    Raises
    ------
    CompileFailed
        clang refused some; the others were compiled.
    """
    headers = sorted(SOURCES.glob("*.h"))
    INCLUDE.mkdir(exist_ok=True)
    for header in headers:
        copy = INCLUDE / header.name
        if not copy.exists() or copy.read_bytes() != header.read_bytes():
            shutil.copyfile(header, copy)
    newest = max((h.stat().st_mtime for h in headers), default=0.0)
    made, refused = [], []
    for source in sorted(SOURCES.glob("*.bpf.c")):
        output = built_object(source.name.removesuffix(".bpf.c"))
        fresh = output.exists() and output.stat().st_mtime >= max(newest, source.stat().st_mtime)
        if force or not fresh:
            try:
                print(f"compiling {source.name}", flush=True)
                made.append(compile_file(source, output, strict=True))
            except CompileFailed as error:
                refused.append(error)
    if refused:
        raise CompileFailed("\n".join(error.message for error in refused), refused[0].hint)
    return made


if __name__ == "__main__":
    build(force="--force" in sys.argv)
