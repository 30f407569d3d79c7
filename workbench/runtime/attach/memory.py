"""Memory of another process: what is mapped where, reading and writing it.

Writes go through /proc/PID/mem, which reaches pages that the process itself may not write (its code): they become
private copies of that process. Where the kernel lets only a tracer do that, the process is held for it (`forced`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import MissingCapability, NotPermitted, TargetGone
from workbench.runtime.attach.forced import WORD, poke, traced

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
    """/proc/PID/mem, open for the life of the object.

    Attributes
    ----------
    stopped : list of float
        Seconds that the process was held for writes, for each time; empty on kernels that allow them unheld.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stopped: list[float] = []
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
        """Write all of `data`; see `write_all`."""
        self.write_all([(address, data)])

    def write_all(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Write pieces of memory, (address, bytes) each.

        What needs the process to be held is written last, all of it while it is held once.

        Raises
        ------
        TargetGone
            The process is gone.
        MissingCapability
            Nothing is mapped there, or it cannot be written.
        NotPermitted, RunFailed
            It has to be held for it, and cannot be.
        """
        refused = []
        for address, data in pieces:
            done = self._write(address, data)
            if done < len(data):
                refused.append((address + done, data[done:]))
        if not refused:
            return
        maps = mappings(self.pid)
        for address, _ in refused:
            if not any(one.start <= address < one.end and "w" not in one.mode for one in maps):
                raise self._unwritable(address, os.strerror(errno.EIO))
        with traced(self.pid, self.stopped):
            for address, data in refused:
                done = self._write(address, data)
                if done < len(data):
                    self._poke(address + done, data[done:])

    def _write(self, address: int, data: bytes) -> int:
        """Bytes that the kernel took before it refused a page."""
        done = 0
        while done < len(data):
            try:
                count = os.pwrite(self._fd, memoryview(data)[done:], address + done)
            except OSError as error:
                if error.errno == errno.EIO:
                    break
                raise self._unwritable(address + done, str(error.strerror)) from error
            if not count:
                raise TargetGone(f"process {self.pid} is gone")
            done += count
        return done

    def _poke(self, address: int, data: bytes) -> None:
        """Write in whole words to the process, which this thread holds.

        Up to a word in one page, a jump for example, is one request: a kill leaves all of it or nothing.
        """
        start = address & -WORD
        if len(data) <= WORD:
            start = min(address, (address | PAGE - 1) + 1 - WORD)
        before, end = address - start, address + len(data)
        after = -(before + len(data)) % WORD
        try:
            poke(self.pid, start, self.read(start, before) + data + self.read(end, after))
        except MissingCapability as error:
            raise self._unwritable(address, error.message) from error

    def _unwritable(self, address: int, why: str) -> MissingCapability:
        return MissingCapability(
            f"process {self.pid}: memory at {address:#x} cannot be written: {why}",
            "is it still mapped? (see /proc/PID/maps)",
        )

    def reopen(self) -> None:
        """The process replaced its program: see the memory of the new one."""
        self.close()
        self._fd = self._open()

    def close(self) -> None:
        """Close the file; harmless twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
