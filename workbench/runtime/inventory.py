"""Which programs are loaded in user space, by which process: a file for each in its namespace's folder.

There is no kernel that knows them all, so every loader leaves a note and takes it away; notes of dead loaders are
passed over, and `workbench bpf gc` removes them with the namespace.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runtime.attach.records import start_time
from workbench.runtime.maps import Space, spaces

if TYPE_CHECKING:
    from workbench.objects.linked import LinkedProgram
    from workbench.runtime.maps import Map

__all__ = ("Note", "ProgramInfo", "announce", "programs", "tag")

_SUFFIX = ".program"


def tag(program: LinkedProgram) -> str:
    """16 hexadecimal digits that name the code, as the kernel's tag does (maps by index, not by descriptor)."""
    return hashlib.sha1(program.code, usedforsecurity=False).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A loaded program, with the names that `bpftool prog show --json` uses.

    Attributes
    ----------
    id : int
        Number within its namespace.
    type, name, tag, section, object : str
    gpl_compatible : bool
    loaded_at : int
        Seconds since the epoch.
    uid : int
    bytes_xlated : int
        Bytes of BPF code.
    map_ids : tuple of int
    pid : int
        The process that loaded it.
    namespace : str
    tiers : dict of str to str
        Which code runs where: process id -> `quick` or `optimised`. Nothing where it was neither attached nor run yet.
    """

    id: int
    type: str
    name: str
    tag: str
    section: str
    object: str
    gpl_compatible: bool
    loaded_at: int
    uid: int
    bytes_xlated: int
    map_ids: tuple[int, ...]
    pid: int
    namespace: str
    tiers: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For `workbench bpf progs --json`."""
        return asdict(self)


class Note:
    """The file that tells of a program, until `close`; made by `announce`.

    Attributes
    ----------
    number : int
        The program's id.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.number = int(path.stem)
        self._path, self._content = path, content
        self._lock = threading.Lock()
        self._closed = False

    def write(self, tiers: dict[int, str]) -> None:
        """Which code runs where, from now on; from any thread."""
        with self._lock, contextlib.suppress(OSError):
            if self._closed or os.getpid() != self._content["pid"]:
                return
            self._content["tiers"] = {str(pid): tier for pid, tier in sorted(tiers.items())}
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self._content), encoding="utf-8")
            part.replace(self._path)

    def close(self) -> None:
        """Take the note away; harmless twice, and in the child of a fork, where it is the parent's."""
        if os.getpid() != self._content["pid"]:
            return
        with self._lock:
            self._closed = True
            self._path.unlink(missing_ok=True)


def announce(
    space: Space, name: str, license: str, program: LinkedProgram, maps: Sequence[Map]
) -> Note:
    """Leave a note of a program that this process has loaded."""
    number = 1
    while True:
        path = space.path / f"{number}{_SUFFIX}"
        try:
            file = path.open("x", encoding="utf-8")
            break
        except FileExistsError:
            number += 1
    info = ProgramInfo(
        number, program.type, program.name, tag(program), program.section, name,
        license.startswith(("GPL", "Dual")), int(time.time()), os.getuid(), len(program.code),
        tuple(int(one.struct.id) for one in maps), os.getpid(), space.name,
    )  # fmt: skip
    content = {**info.to_json(), "start": start_time(os.getpid())}
    with file:
        json.dump(content, file)
    return Note(path, content)


def _read(path: Path) -> ProgramInfo | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        value = json.loads(path.read_text(encoding="utf-8"))
        if start_time(value["pid"]) == value.pop("start"):
            return ProgramInfo(**{**value, "map_ids": tuple(value["map_ids"])})
    return None


def programs(namespace: str | None = None) -> Iterator[ProgramInfo]:
    """Programs that live processes of this user have loaded, in one namespace or in all."""
    for space in spaces():
        if namespace in (None, space.name):
            for path in sorted(space.path.glob(f"*{_SUFFIX}")):
                if (info := _read(path)) is not None:
                    yield info
