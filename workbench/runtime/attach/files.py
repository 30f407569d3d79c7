"""From places in a file to their addresses in a process that has mapped it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from workbench.errors import MissingCapability, UnknownSymbol
from workbench.runtime.attach.memory import mappings

__all__ = ("addresses_of",)


def addresses_of(pid: int, path: str, offsets: Iterable[int], mode: str = "") -> list[int]:
    """Run-time addresses of bytes of a file.

    Parameters
    ----------
    pid : int
    path : str
        The file as this process sees it.
    offsets : iterable of int
        Bytes in the file. One that is mapped several times is taken where it can be executed.
    mode : str
        "x" or "w": only where it can be executed or written. (While a library is loaded its whole length is mapped
        read-only for a moment.)

    Raises
    ------
    UnknownSymbol
        The process has not mapped the file, or not that part of it.
    MissingCapability
        There is no such file.
    """
    try:
        wanted = Path(path).stat()
    except OSError as error:
        raise MissingCapability(f"cannot look at {path}: {error.strerror}") from error
    device = f"{wanted.st_dev >> 8 & 0xFFF:02x}:{wanted.st_dev & 0xFF:02x}"
    parts = [one for one in mappings(pid) if one.inode == wanted.st_ino and one.path]
    # An overlay file system shows other device numbers in /proc than stat(2) gives.
    parts = [one for one in parts if one.device == device] or parts
    if not parts:
        raise UnknownSymbol(
            f"process {pid} has not mapped {path}",
            "attach with wait=True, which waits for the library, or when it is loaded",
        )
    parts = [one for one in parts if mode in one.mode]
    parts.sort(key=lambda one: not one.executable)
    found = []
    for offset in offsets:
        place = next((p for p in parts if 0 <= offset - p.offset < p.end - p.start), None)
        if place is None:
            raise UnknownSymbol(f"byte {offset:#x} of {path} is not mapped in process {pid}")
        found.append(place.start + offset - place.offset)
    return found
