"""Compile the C files of this room into one shared library and every agent into its own, when a source is newer.

`python -m workbench.native.build [--force]`; the build of the wheel calls `build` as well.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from workbench.errors import MissingCapability
from workbench.native.bitcode import build_bitcode
from workbench.native.library import CORE

__all__ = ("agent", "build", "compiler", "demonstration", "runtime_sources", "sources", "workload")

FLAGS = ("-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")
LIBRARY = ("-fPIC", "-shared", "-fvisibility=hidden")
HERE = Path(__file__).parent
# The agent of the userspace runtime is put into processes of any C library, or of none, so it needs none: no undefined
# symbol, no relocation but relative ones, no vector register (its callers' are alive), no stack protector (no TLS).
FREESTANDING = (
    "-ffreestanding",
    "-nostdlib",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-mgeneral-regs-only",
    "-Wl,-s,-Bsymbolic,-z,defs,-z,norelro,-z,separate-code,--hash-style=sysv,--build-id=none",
)
# Workloads run in guests whatever their C library: static. Into the one for Coz a library is preloaded, which reads no
# newer DWARF (version 0.2) and follows frame pointers.
PROGRAM = ("-static",)
PROGRAMS = {
    "causal_shapes_coz": ("-no-pie", "-gdwarf-3", "-gstrict-dwarf", "-fno-omit-frame-pointer")
}
RUNTIME_AGENT_MACHINES = ("x86_64",)


def compiler() -> str:
    """The C compiler to use: $CC, else cc, gcc or clang."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise MissingCapability(
        "no C compiler found", "install one (Debian: apt-get install gcc) or set CC"
    )


def sources() -> list[Path]:
    """C files of the core (those of agents, which are libraries of their own, live in subfolders)."""
    return sorted([*HERE.glob("*.c"), *HERE.glob("runtime/*.c")])


def runtime_sources() -> list[Path]:
    """C files of the userspace runtime's agent: its own and the freestanding ones that it shares with the core."""
    return sorted([*HERE.glob("agents/runtime/*.c"), *HERE.glob("runtime/*.c")])


def agent(name: str) -> Path:
    """Path of an agent: a small library that is loaded into an observed process."""
    return HERE / "agents" / f"{name}.so"


def workload(name: str) -> Path:
    """Path of a workload: a program of known behaviour that experiments observe."""
    return HERE / "workloads" / name


def demonstration(name: str) -> Path:
    """Path of a library that puts a known fault into a real program."""
    return HERE / "demonstrations" / f"{name}.so"


def build(output: Path = CORE, extra: tuple[str, ...] = (), *, force: bool = False) -> bool:
    """Compile the core to `output` and, with it, the agents; returns False when all was up to date."""
    headers = [*HERE.rglob("*.h"), *(HERE.parents[1] / "bpf").glob("*.h")]
    made = _compile(output, sources(), headers, (*LIBRARY, *extra), force)
    if output == CORE:
        for source in sorted(HERE.glob("agents/*.c")):
            made |= _compile(
                source.with_suffix(".so"), [source], headers, (*LIBRARY, *extra), force
            )
        if platform.machine() in RUNTIME_AGENT_MACHINES:
            made |= _compile(
                agent("runtime"), runtime_sources(), headers, (*LIBRARY, *FREESTANDING), force
            )
        workloads = sorted(HERE.glob("workloads/*.c"))
        for source in workloads:
            flags = PROGRAMS.get(source.stem, PROGRAM)
            made |= _compile(source.with_suffix(""), [source], workloads, flags, force)
        for source in sorted(HERE.glob("demonstrations/*.c")):
            made |= _compile(source.with_suffix(".so"), [source], headers, LIBRARY, force)
        made |= build_bitcode(force=force)
    return made


def _compile(
    output: Path, inputs: list[Path], headers: list[Path], flags: tuple[str, ...], force: bool
) -> bool:
    newest = max(path.stat().st_mtime for path in [*inputs, *headers])
    if not force and output.exists() and newest <= output.stat().st_mtime:
        return False
    part = output.with_name(f".{output.name}.{os.getpid()}")
    print(f"compiling {output.name}", flush=True)
    try:
        subprocess.run(
            [compiler(), *FLAGS, *flags, "-o", str(part), *map(str, inputs)],
            check=True,
        )
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    print("built" if build(force="--force" in sys.argv) else "up to date", CORE)
