"""The kernel's vdso: an ELF image that exists only in memory, the same in every 64-bit process of a boot."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from workbench.frames.symbols.elffile import BadElf, ElfFile

__all__ = ("vdso_build_id", "vdso_image")

_MAX = 1 << 20


@cache
def vdso_image() -> bytes:
    """The vdso of this process as ELF bytes; empty where there is none or it cannot be read."""
    try:
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            if line.endswith("[vdso]"):
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                with Path("/proc/self/mem").open("rb", buffering=0) as memory:
                    memory.seek(start)
                    return memory.read(min(end - start, _MAX))
    except (OSError, ValueError):
        pass
    return b""


@cache
def vdso_build_id() -> str:
    """Build id of this machine's vdso in hex, or empty."""
    image = vdso_image()
    if not image:
        return ""
    try:
        with ElfFile(image, "[vdso]") as elf:
            return elf.build_id()
    except BadElf:
        return ""
