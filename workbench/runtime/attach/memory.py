"""Memory of another process: what is mapped where, reading and writing it.

Writes go through /proc/PID/mem, which reaches pages that the process itself may not write (its code): they become
private copies of that process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import MissingCapability, NotPermitted, TargetGone

__all__ = ("PAGE", "Mapping", "Memory", "mappings")

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps; `offset` in bytes of the file, `path` as the kernel prints it."""

    start: int
    end: int
    mode: str
    offset: int
    device: str
    inode: int
    path: str

    @property
    def executable(self) -> bool:
        """Code may run from it."""
        return "x" in self.mode


def mappings(pid: int) -> list[Mapping]:
    """The memory map of a process, by address.

    Raises
    ------
    TargetGone, NotPermitted
    """
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes().decode(errors="surrogateescape")
    except PermissionError as error:
        raise NotPermitted(
            f"process {pid} may not be observed by user {os.getuid()}",
            "run as its owner or as root",
        ) from error
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TargetGone(f"there is no process {pid}") from error
    found = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        start, _, end = fields[0].partition("-")
        path = fields[5] if len(fields) > 5 else ""
        found.append(
            Mapping(
                int(start, 16),
                int(end, 16),
                fields[1],
                int(fields[2], 16),
                fields[3],
                int(fields[4]),
                path,
            )
        )
    return found


class Memory:
    """/proc/PID/mem, open for the life of the object."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = self._open()

    def _open(self) -> int:
        pid = self.pid
        try:
            return os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except PermissionError as error:
            raise NotPermitted(
                f"process {pid} may not be changed by user {os.getuid()}",
                "run as its owner or as root",
            ) from error
        except OSError as error:
            raise TargetGone(f"there is no process {pid}") from error

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`.

        Raises
        ------
        TargetGone
            The process is gone.
        MissingCapability
            Nothing is mapped there.
        """
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, address)
            except OSError as error:
                raise MissingCapability(
                    f"process {self.pid} has no memory at {address:#x}: {error.strerror}"
                ) from error
            if not part:
                raise TargetGone(f"process {self.pid} is gone")
            parts.append(part)
            size -= len(part)
            address += len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write all of `data`; the same errors as `read`."""
        view = memoryview(data)
        while view:
            try:
                count = os.pwrite(self._fd, view, address)
            except OSError as error:
                raise MissingCapability(
                    f"process {self.pid}: memory at {address:#x} cannot be written: {error.strerror}",
                    "a kernel with proc_mem.force_override=never forbids it",
                ) from error
            if not count:
                raise TargetGone(f"process {self.pid} is gone")
            view = view[count:]
            address += count

    def reopen(self) -> None:
        """The process replaced its program: see the memory of the new one."""
        self.close()
        self._fd = self._open()

    def close(self) -> None:
        """Close the file; harmless twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
