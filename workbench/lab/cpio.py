"""Write an initramfs: a cpio archive of the "newc" kind (Documentation/driver-api/early-userspace/buffer-format.rst).

Uncompressed: under an emulated processor unpacking costs more than reading. The bytes depend on the contents alone, not
on time, user or order of a directory.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

__all__ = ("Entry", "archive", "device", "file", "folder", "link")

Entry = tuple[int, bytes, tuple[int, int]]
"""Mode with its kind, contents, major and minor number."""


def file(contents: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return stat.S_IFREG | mode, contents, (0, 0)


def folder(mode: int = 0o755) -> Entry:
    """A folder."""
    return stat.S_IFDIR | mode, b"", (0, 0)


def link(target: str) -> Entry:
    """A symbolic link."""
    return stat.S_IFLNK | 0o777, target.encode(), (0, 0)


def device(major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device."""
    return stat.S_IFCHR | mode, b"", (major, minor)


def archive(entries: Mapping[str, Entry]) -> bytes:
    """The archive; folders that are needed and not named are added.

    Parameters
    ----------
    entries : mapping of str to Entry
        By path inside the archive, relative.

    Raises
    ------
    ValueError
        A path is absolute, empty or leads out.
    """
    whole = dict(entries)
    for path in entries:
        parts = path.split("/")
        if not all(parts) or ".." in parts or "." in parts:
            raise ValueError(f"{path!r} is no path inside an archive")
        for depth in range(1, len(parts)):
            whole.setdefault("/".join(parts[:depth]), folder())
    out = bytearray()
    for number, path in enumerate(sorted(whole), 1):
        mode, contents, numbers = whole[path]
        out += _header(number, mode, path, len(contents), numbers)
        out += contents + bytes(-len(contents) % 4)
    out += _header(0, 0, "TRAILER!!!", 0, (0, 0))
    return bytes(out + bytes(-len(out) % 512))


def _header(number: int, mode: int, path: str, size: int, numbers: tuple[int, int]) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, size, 0, 0, *numbers, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return header + bytes(-len(header) % 4)
