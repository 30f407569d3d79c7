"""Compile CO-RE C to BPF objects with clang.

`wb.compile("x.bpf.c")` compiles one file into the user's cache; `python -m workbench.objects.build` compiles the
project's own programs into the package, where users without clang find them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from workbench.errors import CompileFailed, MissingCapability

__all__ = ("BUILT", "INCLUDE", "clang", "compile_file", "target_arch")

BUILT = Path(__file__).with_name("built")
INCLUDE = Path(__file__).with_name("include")
_SOURCES = Path(__file__).parents[2] / "bpf"


@cache
def clang() -> str:
    """The newest clang that can emit BPF: $CLANG, else the highest clang-N on PATH, else clang.

    Raises
    ------
    MissingCapability
        None is installed.
    """
    if named := os.environ.get("CLANG"):
        return named
    versions: dict[int, str] = {}
    for folder in os.get_exec_path():
        with suppress(OSError):  # a folder on PATH that this user may not read
            for path in Path(folder).glob("clang-*"):
                if (match := re.fullmatch(r"clang-(\d+)", path.name)) and os.access(path, os.X_OK):
                    versions.setdefault(int(match[1]), str(path))
    if versions:
        return versions[max(versions)]
    if plain := shutil.which("clang"):
        return plain
    raise MissingCapability(
        "clang is not installed, so BPF C cannot be compiled",
        "install it (Debian: apt-get install clang-19); the built objects in the package need no clang",
    )


def target_arch(machine: str = "") -> str:
    """The architecture name that bpf_tracing.h expects for this (or the given) machine."""
    machine = machine or platform.machine()
    return {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv"}.get(machine, machine)


def include_folders(machine: str = "") -> list[Path]:
    """Headers of the project, then the kernel's user-space headers for this (or the given) machine."""
    own = [p for p in (_SOURCES, INCLUDE) if p.is_dir()]
    machine = machine or platform.machine()
    multiarch = [p.parent.parent for p in Path("/usr/include").glob("*-linux-*/asm/types.h")]
    cross = [p.parent.parent for p in Path("/usr").glob(f"{machine}-linux-*/include/asm/types.h")]
    fitting = [p for p in multiarch if p.name.startswith(machine)] or cross
    return [*own, *(fitting or multiarch)]


def compile_file(
    source: Path | str,
    output: Path | str | None = None,
    *,
    defines: dict[str, str] | None = None,
    machine: str = "",
    strict: bool = False,
) -> Path:
    """Compile one BPF C file.

    Parameters
    ----------
    source : path
        A C file; `workbench.h` and the other shared headers are on the include path.
    output : path, optional
        Where the object goes; without it, a cache file named by the content.
    defines : dict, optional
        Preprocessor macros.
    machine : str, optional
        For another machine than this one, in the words of `uname -m`; needs its kernel headers (Debian:
        ``linux-libc-dev-arm64-cross``).
    strict : bool
        Warnings are errors. Otherwise clang's warnings go to standard error when the file is compiled, not when the
        cache has its object.

    Raises
    ------
    CompileFailed
        With clang's diagnostics.
    MissingCapability
        Without clang.
    """
    source = Path(source)
    try:
        text = source.read_bytes()
    except OSError as error:
        raise CompileFailed(f"cannot read {source}: {error.strerror}") from error
    flags = [
        "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-fno-ident",
        *(["-Werror"] if strict else []),
        f"-ffile-prefix-map={source.resolve().parent}=.",
        f"-D__TARGET_ARCH_{target_arch(machine)}",
        *(f"-D{name}={value}" for name, value in (defines or {}).items()),
        *(f"-I{folder}" for folder in include_folders(machine)),
    ]  # fmt: skip
    if output is None:
        key = hashlib.sha256(b"\0".join([text, clang().encode(), *(f.encode() for f in flags)]))
        for header in sorted(h for folder in include_folders()[:1] for h in folder.glob("*.h")):
            key.update(header.read_bytes())
        for header in sorted(source.parent.glob("*.h")):
            key.update(header.read_bytes())
        output = (
            cache_folder() / "objects" / f"{source.name.split('.')[0]}-{key.hexdigest()[:16]}.bpf.o"
        )
        if output.exists():
            return output
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}")
    command = [clang(), *flags, "-c", source.name, "-o", str(part.resolve())]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=source.resolve().parent, check=False
        )
        if done.returncode:
            raise CompileFailed(
                f"clang refused {source}:\n{done.stderr.strip()}", _advice(done.stderr, machine)
            )
        if done.stderr.strip():
            print(done.stderr.strip(), file=sys.stderr)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return output


def _advice(diagnostics: str, machine: str) -> str:
    """What clang's own words do not tell."""
    if re.search(r"error: '.*' file not found", diagnostics):
        folders = ", ".join(map(str, include_folders(machine)))
        return f"headers are looked for beside the file, in {folders}, and where clang looks itself"
    if re.search(r"error: (incomplete definition of type|no member named)", diagnostics):
        return (
            "a kernel struct is declared with the members that the program reads, and with "
            "__attribute__((preserve_access_index)): loading finds them in the running kernel's struct"
        )
    return ""


def cache_folder() -> Path:
    """The user's cache folder: $WORKBENCH_CACHE, else $XDG_CACHE_HOME/workbench, else ~/.cache/workbench."""
    if named := os.environ.get("WORKBENCH_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "workbench"
