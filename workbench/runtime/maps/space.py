"""Namespaces: folders in shared memory with a segment per map and one for the threads that use them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import re
import shutil
import stat
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadSpec, MissingCapability, NotPermitted, WorkbenchError
from workbench.runtime.maps import layout
from workbench.runtime.maps.core import CSegment, CSpace, core, map_error
from workbench.runtime.maps.map import FACES, Map
from workbench.runtime.maps.nested import MapOfMaps
from workbench.runtime.maps.participants import leave

if TYPE_CHECKING:
    from workbench.objects.btf import Btf
    from workbench.objects.linked import LinkedMap

__all__ = ("Space", "SpaceInfo", "collect", "root", "spaces")

_LINES, _LINES_AT = 4096, 12288  # struct wb_shared: participants, and where they begin
_LENGTH = _LINES_AT + _LINES * 64
_PARTICIPANTS = "participants"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_DIED = 0x40000000


def root() -> Path:
    """The folder of this user's namespaces, made when it is not there.

    $WORKBENCH_NAMESPACES; else /dev/shm/workbench-UID; else a folder for temporary files where there is no /dev/shm.

    Raises
    ------
    NotPermitted
        It belongs to somebody else, who could read and change what is put there.
    """
    chosen = os.environ.get("WORKBENCH_NAMESPACES")
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    folder = Path(chosen) if chosen else base / f"workbench-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.lstat()
    if owner.st_uid != os.getuid() or not stat.S_ISDIR(owner.st_mode):
        raise NotPermitted(
            f"{folder} belongs to user {owner.st_uid}",
            "set WORKBENCH_NAMESPACES to a folder of your own, best on a tmpfs",
        )
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creating and removing namespaces and maps, one process at a time."""
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _map_file(fd: int, length: int) -> Any:
    """The whole file as a writable ctypes array; the mapping lives as long as the array."""
    return (ctypes.c_char * length).from_buffer(mmap.mmap(fd, length))


def free_bytes(folder: Path) -> int:
    """Room in the file system of a folder; in shared memory no more than the machine has left."""
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        if folder.stat().st_dev == Path("/dev/shm").stat().st_dev:
            lines = Path("/proc/meminfo").read_text().splitlines()
            line = next(line for line in lines if line.startswith("MemAvailable:"))
            free = min(free, int(line.split()[1]) * 1024)
    return free


def no_room(what: str, length: int, free: int, folder: Path) -> MissingCapability:
    """The error of a map that does not fit."""
    return MissingCapability(
        f"{what} needs {length / 2**20:,.1f} MiB of shared memory, {folder} has {free / 2**20:,.1f} MiB free",
        "lower max_entries, free space there, or set WORKBENCH_NAMESPACES to a folder on a larger file system",
    )


def _allocate(fd: int, length: int, what: str, folder: Path) -> None:
    """Give the file its memory now: a map that does not fit is an error here, not a SIGBUS later."""
    free = free_bytes(folder)
    try:
        if length > free:
            raise OSError(errno.ENOSPC, "")
        os.posix_fallocate(fd, 0, length)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EINVAL):
            raise
        raise no_room(what, length, free, folder) from error


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """A namespace as `spaces()` finds it: bytes of its segments, and which processes have threads in it."""

    name: str
    path: Path
    maps: tuple[str, ...]
    bytes: int
    pids: tuple[int, ...]
    leaked: bool

    def to_json(self) -> dict[str, Any]:
        """For `workbench bpf gc --json`."""
        return {**asdict(self), "path": str(self.path)}

    def segments(self) -> Iterator[tuple[CSegment, int]]:
        """Head and file size of every map, read without opening them."""
        for path in sorted(self.path.glob("*.map")):
            with contextlib.suppress(OSError, ValueError):
                with path.open("rb") as file:
                    raw = file.read(ctypes.sizeof(CSegment))
                yield CSegment.from_buffer_copy(raw), path.stat().st_size


class Space:
    """A namespace: maps that several processes of one user share.

    Parameters
    ----------
    name : str or None
        Letters, digits, `_.-`. The namespace is opened, or made when it is not there, and stays until `remove()`.
        None: one of its own that vanishes with the last process that uses it.

    Raises
    ------
    BadSpec
        An impossible name.
    NotPermitted, MapError
        The folder is somebody else's; its segment is damaged.
    """

    def __init__(self, name: str | None = None) -> None:
        self.temporary = name is None
        base = root()
        if name is None:
            self.path = Path(tempfile.mkdtemp(prefix=f"anonymous-{os.getpid()}-", dir=base))
            name = self.path.name
        elif not _NAME.fullmatch(name):
            raise BadSpec(f"{name!r} cannot name a namespace", "use letters, digits, _ . and -")
        self.name = name
        self.path = base / name
        self._pid = os.getpid()
        with locked(base):
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(
                self.path / _PARTICIPANTS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._fd, fcntl.LOCK_SH)  # tells `collect` that somebody is here
            fresh = os.fstat(self._fd).st_size == 0
            if fresh:
                _allocate(self._fd, _LENGTH, f"namespace {name!r}", self.path)
            self._memory = _map_file(self._fd, max(os.fstat(self._fd).st_size, 4096))
            address, length = ctypes.addressof(self._memory), len(self._memory)
            if fresh and (error := core().wb_space_format(address, length, os.cpu_count() or 1)):
                raise map_error(f"making namespace {name!r}", error)
        self.struct = CSpace()
        self.handle: int = ctypes.addressof(self.struct)
        if error := core().wb_space_open(self.handle, address, length):
            os.close(self._fd)
            refused = map_error(f"namespace {self.path} is damaged or of another version", error)
            refused.hint = f"remove it when nothing uses it: rm -r {self.path}"
            raise refused
        self.maps: dict[str, Map] = {}

    def __repr__(self) -> str:
        return f"<Space {self.name}: {len(self.maps)} maps open>"

    def __enter__(self) -> Space:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """This thread leaves; an unnamed namespace is taken out of the file system (its other users keep it)."""
        if self._fd < 0:
            return
        leave(self)
        os.close(self._fd)
        self._fd = -1
        self.maps = {}
        if self.temporary and os.getpid() == self._pid:
            shutil.rmtree(self.path, ignore_errors=True)

    def remove(self) -> None:
        """Close, and take the namespace out of the file system. Processes that have it open keep what they have."""
        self.close()
        with locked(self.path.parent):
            shutil.rmtree(self.path, ignore_errors=True)

    # --- maps -------------------------------------------------------------------------------------------------------

    def create(self, linked: LinkedMap, btf: Btf | None = None, *, name: str | None = None) -> Map:
        """Make a map as an object declares it, and fill in its initial content.

        Parameters
        ----------
        linked : LinkedMap
            One pinned by name (`pinning` 1) is shared: the namespace's map of that name is opened when it is there.
        btf : Btf, optional
            The object's, for `key_dtype` and `value_dtype`.
        name : str, optional
            Instead of the declared one.

        Raises
        ------
        MapError
            Refused as bpf(2) refuses it (EINVAL, E2BIG, ENOTSUPP), or shared with other attributes.
        MissingCapability
            The type is not in user space; too large for the file system's memory.
        """
        name = name or linked.name
        key, value = (
            self._dtype(linked.key_type, linked.key_size, btf),
            self._dtype(linked.value_type, linked.value_size, btf),
        )
        with locked(self.path):
            path = self._path(name)
            if path.exists():
                if linked.pinning != 1:
                    path = self._unused(name)
                else:
                    return self._shared(path, name, linked)
            segment = self._segment(linked, name)
            if btf is not None and linked.value_type:
                segment.spin_lock = layout.lock_offset(btf, linked.value_type) + 1
            segment.id = self._next_id()
            memory = self._make(path, name, segment)
            about = {"name": name, "key": layout.to_json(key), "value": layout.to_json(value)}
            path.with_suffix(".json").write_text(json.dumps(about))
        made = self._face(path, name, memory, key, value)
        if linked.inner is not None and isinstance(made, MapOfMaps):
            made.set_shape(linked.inner)
        if linked.initial:
            made.update(b"\0" * linked.key_size, linked.initial.ljust(linked.value_size, b"\0"))
        return made

    def needs(self, linked: LinkedMap) -> int:
        """Bytes of shared memory that `create` would take; raises what it raises but for want of room."""
        return self._length(self._segment(linked, linked.name), linked.name)

    def _segment(self, linked: LinkedMap, name: str) -> CSegment:
        segment = CSegment(
            type=linked.type, key_size=linked.key_size, value_size=linked.value_size,
            max_entries=linked.max_entries, flags=linked.flags, cpus=self._cpus(),
            name=name.encode()[:63],
        )  # fmt: skip
        extra = getattr(linked, "extra", 0)
        if extra and hasattr(segment, "extra"):
            segment.extra = extra
        return segment

    def open(self, name: str) -> Map:
        """The map of that name, made by any process.

        Raises
        ------
        KeyError
            There is none; says which there are.
        MapError
            Its segment is damaged.
        """
        if name in self.maps:
            return self.maps[name]
        path = self._path(name)
        try:
            memory = self._load(path)
        except FileNotFoundError:
            raise KeyError(
                f"no map {name!r} in namespace {self.name!r}: has {self.names()}"
            ) from None
        key, value = np.dtype("V1"), np.dtype("V1")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            about = json.loads(path.with_suffix(".json").read_text())
            key, value = layout.from_json(about["key"]), layout.from_json(about["value"])
        return self._face(path, name, memory, key, value)

    def drop(self, one: Map) -> None:
        """Take a map out of the namespace: who has it open keeps it. Only by the process that opened the namespace."""
        if os.getpid() == self._pid:
            for path in (one.path, one.path.with_suffix(".json")):
                path.unlink(missing_ok=True)
        self.maps = {name: other for name, other in self.maps.items() if other is not one}

    def names(self) -> list[str]:
        """Names of the maps, by any process."""
        return sorted(urllib.parse.unquote(path.stem) for path in self.path.glob("*.map"))

    def _path(self, name: str) -> Path:
        return self.path / (urllib.parse.quote(name, safe="").replace(".", "%2E") + ".map")

    def _unused(self, name: str) -> Path:
        return next(p for i in range(2, 1 << 30) if not (p := self._path(f"{name}:{i}")).exists())

    def _cpus(self) -> int:
        return int(ctypes.c_uint32.from_buffer(self._memory, 12).value)

    def _next_id(self) -> int:
        counter = ctypes.c_uint32.from_buffer(self._memory, 24)
        counter.value += 1
        return int(counter.value) - 1

    @staticmethod
    def _dtype(number: int, size: int, btf: Btf | None) -> np.dtype[Any]:
        if btf is not None and number:
            with contextlib.suppress(WorkbenchError):  # a data section has no layout of its own
                if (dtype := btf.dtype(number)).itemsize == size:
                    return dtype
        return np.dtype(f"V{min(max(size, 1), 2**31 - 1)}")  # larger ones are refused by the C side

    @staticmethod
    def _length(segment: CSegment, name: str) -> int:
        length = core().wb_segment_size(ctypes.byref(segment))
        if length == -errno.EOPNOTSUPP:
            from workbench.runtime.verifier.map_rules import type_name

            raise MissingCapability(
                f"map {name!r}: type {type_name(int(segment.type))} does not exist in user space",
                "load the object with backend='kernel'",
            )
        if length < 0:
            error = map_error(f"creating map {name!r}", length)
            if error.errno == errno.E2BIG:
                error.hint = "max_entries, or entries times sizes, are too large: lower them"
            raise error
        return int(length)

    def _make(self, path: Path, name: str, segment: CSegment) -> Any:
        length = self._length(segment, name)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _allocate(fd, length, f"map {name!r}", self.path)
            memory = _map_file(fd, length)
            error = core().wb_segment_format(
                ctypes.addressof(memory), length, ctypes.byref(segment)
            )
            if error:
                raise map_error(f"creating map {name!r}", error)
            part.rename(path)
            return memory
        finally:
            os.close(fd)
            part.unlink(missing_ok=True)

    @staticmethod
    def _load(path: Path) -> Any:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            length = os.fstat(fd).st_size
            if length < ctypes.sizeof(CSegment):
                raise map_error(f"segment {path} is cut short", errno.EINVAL)
            return _map_file(fd, length)
        finally:
            os.close(fd)

    def _shared(self, path: Path, name: str, linked: LinkedMap) -> Map:
        found = self.open(urllib.parse.unquote(path.stem))
        wanted = (linked.type, linked.key_size, linked.value_size, linked.max_entries, linked.flags)
        have = (
            found.kind, int(found.struct.key_size), int(found.struct.value_size),
            found.max_entries, found.flags,
        )  # fmt: skip
        if wanted != have:
            error = map_error(f"map {name!r} of namespace {self.name!r} is another", errno.EINVAL)
            error.hint = (
                f"type, sizes, entries, flags are {have}, wanted {wanted}: use another namespace"
            )
            raise error
        return found

    def _face(
        self, path: Path, name: str, memory: Any, key: np.dtype[Any], value: np.dtype[Any]
    ) -> Map:
        kind = CSegment.from_buffer(memory).type
        made = FACES.get(int(kind), Map)(self, path, name, memory, len(memory), key, value)
        self.maps[urllib.parse.unquote(path.stem)] = made
        return made


def _users(path: Path) -> tuple[int, ...]:
    """Processes with live threads in the namespace."""
    with contextlib.suppress(OSError, ValueError):
        data = (path / _PARTICIPANTS).read_bytes()
        lines = np.frombuffer(data, "u4", _LINES * 16, _LINES_AT).reshape(_LINES, 16)
        alive = (lines[:, 2] != 0) & (lines[:, 2] & _DIED == 0)
        pids = (int(pid) for pid in np.unique(lines[alive][:, 3]))
        # The kernel does not mark the line of a thread whose list of robust mutexes somebody else has replaced.
        return tuple(pid for pid in pids if Path(f"/proc/{pid}").exists())
    return ()


def _open_elsewhere(path: Path) -> bool:
    try:
        fd = os.open(path / _PARTICIPANTS, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def _info(path: Path) -> SpaceInfo:
    files = [p for p in path.iterdir() if p.is_file()]
    size = 0
    for one in files:
        with contextlib.suppress(OSError):
            size += one.stat().st_size
    pids = _users(path)
    temporary = path.name.startswith("anonymous-")
    return SpaceInfo(
        path.name,
        path,
        tuple(sorted(urllib.parse.unquote(p.stem) for p in files if p.suffix == ".map")),
        size,
        pids,
        temporary and not pids and not _open_elsewhere(path),
    )


def spaces() -> list[SpaceInfo]:
    """This user's namespaces; `leaked` marks unnamed ones whose processes have all died."""
    found = []
    for path in sorted(root().iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                found.append(_info(path))
    return found


def collect(*, named: bool = False) -> list[SpaceInfo]:
    """Remove the segments that no live process uses: unnamed namespaces, and with `named` the others too.

    Returns
    -------
    list of SpaceInfo
        What was removed.
    """
    removed = []
    base = root()
    with locked(base):
        for info in spaces():
            unused = not info.pids and not _open_elsewhere(info.path)
            if info.leaked or (named and unused):
                shutil.rmtree(info.path, ignore_errors=True)
                removed.append(info)
    return removed
