"""Maps that are not pinned go with the object that made them, also where its process is killed.

In a named namespace each loaded object leaves a file with the names of its maps and holds a lock on it, which the
kernel gives up with the process, in whatever pid namespace it ran. What nobody holds any more is taken out by the next
that loads into the namespace, and by `workbench bpf gc`. Who has such a map open keeps it, as with bpf(2). Names are
free again as soon as a map is taken out, so the file has the inode of each: a later map of that name is another's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.runtime.maps.space import Space, locked, spaces

if TYPE_CHECKING:
    from workbench.objects.btf import Btf
    from workbench.objects.linked import LinkedMap
    from workbench.runtime.maps.map import Map

__all__ = ("Holding", "sweep", "sweep_all")

_SUFFIX = ".held"
_BY_NAME = 1  # LIBBPF_PIN_BY_NAME


class Holding:
    """Makes the maps of one object; those that are not pinned go with `close`, or with this process."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._maps: list[Map] = []
        self._inodes: dict[str, int] = {}
        self._fd = -1
        self._path = Path()
        self._pid = os.getpid()

    def create(self, shape: LinkedMap, btf: Btf | None = None) -> Map:
        """As `Space.create`; where it fails, nothing stays of those that were made before."""
        try:
            made = self._space.create(shape, btf)
            if shape.pinning != _BY_NAME or self._space.temporary:
                self._maps.append(made)
                if not self._space.temporary:
                    self._note(made.path)
        except BaseException:
            self.close()
            raise
        return made

    def _note(self, path: Path) -> None:
        self._inodes[path.name] = path.stat().st_ino
        if self._fd < 0:
            with locked(self._space.path):  # nobody sweeps between the two steps
                self._fd, name = tempfile.mkstemp(_SUFFIX, f"{os.getpid()}-", self._space.path)
                fcntl.flock(self._fd, fcntl.LOCK_SH)
            self._path = Path(name)
        os.pwrite(self._fd, json.dumps(self._inodes).encode(), 0)

    def close(self) -> None:
        """Take the maps out of the namespace; harmless twice. A child of fork only lets go."""
        maps, self._maps = self._maps, []
        for one in maps:
            self._space.drop(one)
        if self._fd >= 0:
            if os.getpid() == self._pid:
                self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def sweep(folder: Path) -> list[str]:
    """Take the maps of dead processes out of a namespace; their file names."""
    removed: list[str] = []
    with contextlib.suppress(FileNotFoundError), locked(folder):
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            removed += _sweep_one(path)
    return removed


def _sweep_one(path: Path) -> list[str]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return []  # it was closed just now
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return []  # its process lives
    else:
        inodes: object = None
        if os.fstat(fd).st_nlink:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                inodes = json.loads(path.read_bytes())
        removed = []
        for name, inode in inodes.items() if isinstance(inodes, dict) else ():
            with contextlib.suppress(OSError, ValueError):
                if _is_map(name) and (one := path.with_name(name)).lstat().st_ino == inode:
                    one.unlink()
                    one.with_suffix(".json").unlink(missing_ok=True)
                    removed.append(name)
        path.unlink(missing_ok=True)
        return removed
    finally:
        os.close(fd)


def _is_map(name: object) -> bool:
    return isinstance(name, str) and "/" not in name and name.endswith(".map")


def sweep_all() -> dict[str, list[str]]:
    """The same for every named namespace of this user: what was removed, by namespace."""
    found = {one.name: sweep(one.path) for one in spaces() if not one.name.startswith("anonymous-")}
    return {name: removed for name, removed in found.items() if removed}
