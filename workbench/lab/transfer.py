"""Files over the channel: a tree becomes frames, frames become a tree. Used on both sides.

What arrives is placed under one folder and nowhere else: names with ``..``, absolute names and ways through links that
lead out are refused, because a guest's answer is input like any other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from workbench.errors import RunFailed
from workbench.lab.wire import LIMIT, Kind, decode_object, encode, encode_object

__all__ = ("Receiver", "frames_of")

_PAGE = 4096
_CHUNK = min(LIMIT, 1 << 18)


def frames_of(source: Path, name: str) -> Iterator[bytes]:
    """Frames that hold `source`, a file or a folder with everything in it, under `name`; the last is DONE.

    Devices, sockets and pipes are left out. A file that changes meanwhile arrives with the size it had at first.
    """
    count = 0
    for path, relative in _walk(source, name):
        try:
            made = yield from _frames_of_one(path, relative)
        except FileNotFoundError:  # gone since the folder was read
            continue
        count += made
    yield encode_object(Kind.DONE, {"entries": count})


def _walk(source: Path, name: str) -> Iterator[tuple[Path, str]]:
    yield source, name
    if source.is_dir() and not source.is_symlink():
        for path in sorted(source.iterdir()):
            yield from _walk(path, f"{name}/{path.name}" if name else path.name)


def _frames_of_one(path: Path, name: str) -> Generator[bytes, None, int]:
    about = path.lstat()
    fields = {"path": name, "mode": stat.S_IMODE(about.st_mode), "mtime_ns": about.st_mtime_ns}
    if stat.S_ISLNK(about.st_mode):
        yield encode_object(Kind.ENTRY, fields | {"kind": "link", "target": str(path.readlink())})
    elif stat.S_ISDIR(about.st_mode):
        yield encode_object(Kind.ENTRY, fields | {"kind": "folder"})
    elif stat.S_ISREG(about.st_mode):
        with path.open("rb") as file:
            # Files that the kernel makes up (/proc, /sys) say 0 or a page; what they hold is seen by reading.
            small = file.read(LIMIT) if about.st_size <= _PAGE else b""
            left = about.st_size if about.st_size > _PAGE else len(small)
            yield encode_object(Kind.ENTRY, fields | {"kind": "file", "size": left})
            if small:
                yield encode(Kind.DATA, small)
                left = 0
            while left:
                data = file.read(min(left, _CHUNK)) or bytes(min(left, _CHUNK))  # it became shorter
                left -= len(data)
                yield encode(Kind.DATA, data)
    else:
        return 0
    return 1


class Receiver:
    """Write what arrives under `folder`, which is made if it is missing.

    Parameters
    ----------
    folder : Path
        Nothing outside it is touched.
    outward : bool
        Make links that lead out of it as well (nothing is ever written through them); else they are left out.
    """

    def __init__(self, folder: Path, *, outward: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.entries = 0
        self.files: list[Path] = []
        self._outward = outward
        self._file: BinaryIO | None = None
        self._path = self.folder
        self._left = 0
        self._mode = 0o600
        self._time = 0
        self._folders: list[tuple[Path, int]] = []

    def take(self, kind: Kind, payload: bytes) -> bool:
        """Take one frame; True after the last.

        Raises
        ------
        RunFailed
            A name that leads out of the folder, or frames in an order that makes no sense.
        OSError
            The file system refuses a file.
        """
        if kind is Kind.DATA:
            self._data(payload)
        elif kind is Kind.ENTRY:
            self._entry(payload)
        elif kind is Kind.DONE:
            self._finish()
            for path, mode in reversed(self._folders):
                path.chmod(mode)
            return True
        else:
            raise RunFailed(f"a frame {kind.name} came amid files")
        return False

    def close(self) -> None:
        """Close a file that is half written; it stays."""
        if self._file:
            self._file.close()
            self._file = None

    def _entry(self, payload: bytes) -> None:
        self._finish()
        fields = decode_object(payload)
        try:
            name, sort = str(fields["path"]), str(fields["kind"])
            self._mode, self._time = int(fields["mode"]) & 0o777, int(fields["mtime_ns"])
            size = int(fields["size"]) if sort == "file" else 0
            target = str(fields["target"]) if sort == "link" else ""
        except (KeyError, TypeError, ValueError) as error:
            raise RunFailed(f"an entry of the transferred files lacks {error}") from error
        if sort not in ("file", "folder", "link") or size < 0:
            raise RunFailed(f"an entry of the transferred files is a {sort!r} of {size} bytes")
        path = self._place(name)
        self.entries += 1
        if sort == "folder":
            if path.is_symlink() and not _inside(path, self.folder):
                raise RunFailed(f"the transferred folder {name!r} is a link that leads out")
            path.mkdir(exist_ok=True)
            self._folders.append((path, self._mode | 0o700))
            return
        if path.is_symlink() or path.is_file():
            path.unlink()
        if sort == "link":
            if self._outward or (path.parent / target).resolve().is_relative_to(self.folder):
                path.symlink_to(target)
            return
        self._file = path.open("wb")
        self._path, self._left = path, size

    def _place(self, name: str) -> Path:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise RunFailed(f"a transferred file is named {name!r}, which leads out of its folder")
        path = self.folder.joinpath(*parts)
        if parts:
            parent = path.parent
            if not _inside(parent, self.folder):
                raise RunFailed(
                    f"the transferred file {name!r} leads out of its folder through a link"
                )
            parent.mkdir(parents=True, exist_ok=True)
            path = parent.resolve() / parts[-1]
        return path

    def _data(self, payload: bytes) -> None:
        if not self._file or len(payload) > self._left:
            raise RunFailed("more bytes came for a transferred file than it has")
        self._file.write(payload)
        self._left -= len(payload)

    def _finish(self) -> None:
        if not self._file:
            return
        if self._left:
            raise RunFailed(f"{self._left} bytes of {self._path} did not arrive")
        self.close()
        self.files.append(self._path)
        self._path.chmod(self._mode)
        os.utime(self._path, ns=(self._time, self._time))


def _inside(path: Path, folder: Path) -> bool:
    """Whether making `path` makes nothing outside `folder`: its existing part lies inside."""
    while not path.exists() and path != folder:
        if path.is_symlink():
            return False  # a link to nowhere: making it would make its target
        path = path.parent
    return path.resolve().is_relative_to(folder)
