"""Which shared libraries a set of programs and extension modules needs: what the dynamic linker says, asked in bulk."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ("closure", "is_elf", "named")

_FOUND = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_AT_ONCE = 200


def is_elf(path: Path) -> bool:
    """Whether the file begins as an ELF file does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def closure(programs: Iterable[Path], folders: Sequence[Path] = ()) -> set[Path]:
    """Paths of all libraries that the dynamic linker would map for `programs`, their interpreter among them.

    Parameters
    ----------
    programs : iterable of Path
        ELF files; anything else is ignored.
    folders : sequence of Path
        Looked through before the machine's own library folders.
    """
    chosen = [str(path) for path in programs if is_elf(path)]
    environment = dict(os.environ)
    if folders:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, folders))
    found: set[Path] = set()
    for at in range(0, len(chosen), _AT_ONCE):
        run = subprocess.run(
            ["ldd", *chosen[at : at + _AT_ONCE]],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        found |= {Path(path) for path in _FOUND.findall(run.stdout)}
    return found


def named(*names: str) -> list[Path]:
    """Where the linker's cache has libraries of these names (``libbpf.so.1``); those it lacks are left out."""
    environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        run = subprocess.run(
            ["ldconfig", "-p"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    except OSError:
        return []
    places: dict[str, Path] = {}
    for name, path in re.findall(
        r"^\s*(\S+) \(libc6,x86-64.*\) => (/\S+)$", run.stdout, re.MULTILINE
    ):
        places.setdefault(name, Path(path))
    return [places[name] for name in names if name in places]
