"""Follow what happens to processes: fork, exec, exit and new executable mappings, as the kernel reports them.

One dummy perf event per CPU carries PERF_RECORD_FORK, COMM, EXIT and MMAP2 (with build ids where the kernel gives
them, Linux >= 5.12) in its mapped ring: no polling of /proc, and processes that lived for a millisecond are seen.
Layouts: include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import operator
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.errors import MissingCapability, NotPermitted
from workbench.kernel import perf
from workbench.native import ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Event", "Sideband", "online_cpus")

_LOST, _COMM, _EXIT, _FORK, _MMAP2 = 2, 3, 4, 7, 10
_MISC_EXEC, _MISC_BUILD_ID = 1 << 13, 1 << 14
_PROT_EXEC = 4
_SAMPLE_TID_TIME = 0x2 | 0x4
_FEWEST_PAGES = 16
_KINDS = frozenset((_COMM, _EXIT, _FORK, _MMAP2))
_HEADER, _TIME = struct.Struct("<IHH"), struct.Struct("<Q")
_HEAD = 1024  # data_head, then data_tail, in struct perf_event_mmap_page


# time, arrival number (so that sorting never compares further), type, misc, bytes
_Raw = tuple[int, int, int, int, bytes]


def online_cpus() -> list[int]:
    """CPUs that are online now."""
    cpus: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        low, _, high = part.partition("-")
        cpus += range(int(low), int(high or low) + 1)
    return cpus


class Event(NamedTuple):
    """One event of a process's life. `kind` is fork, comm, exec, exit or map."""

    kind: str
    time: int
    pid: int
    tid: int
    parent: int = -1
    comm: str = ""
    start: int = 0
    end: int = 0
    offset: int = 0
    path: str = ""
    build_id: str = ""


class Sideband:
    """The per-CPU rings of process events of the whole machine.

    Parameters
    ----------
    data : bool
        Report data mappings as well as executable ones.

    Attributes
    ----------
    lost : int
        Events the kernel dropped because a ring was full.

    Raises
    ------
    NotPermitted
        Machine-wide perf events are not allowed for this user.
    """

    def __init__(self, *, data: bool = False) -> None:
        pages = 2048 if data else 256
        self.lost = 0
        self._data = data
        self._rings: list[tuple[int, mmap.mmap]] = []
        self._kept: list[_Raw] = []
        self._number = 0
        page = os.sysconf("SC_PAGE_SIZE")
        flags = (
            "disabled", "exclude_kernel", "mmap", "comm", "task", "mmap2", "comm_exec", "sample_id_all",
            "use_clockid", *(("mmap_data",) if data else ()),
        )  # fmt: skip
        try:
            for cpu in online_cpus():
                try:
                    fd = self._open(cpu, (*flags, "build_id"))
                except MissingCapability:  # Linux < 5.12
                    fd = self._open(cpu, flags)
                pages = self._map(fd, pages)
        except BaseException:
            self.close()
            raise
        self._page, self._size = page, pages * page
        for fd, _ in self._rings:
            perf.enable(fd)

    @staticmethod
    def _open(cpu: int, flags: tuple[str, ...]) -> int:
        attributes = perf.EventAttributes(
            perf.SOFTWARE, perf.DUMMY, sample_type=_SAMPLE_TID_TIME, flags=flags, wakeup=1
        )
        return perf.open_event(attributes, cpu=cpu)

    def _map(self, fd: int, pages: int) -> int:
        """Map a ring of as many pages as this user may lock, at most `pages`; how many."""
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            try:
                self._rings.append((fd, mmap.mmap(fd, (pages + 1) * page)))
                return pages
            except OSError as error:
                if pages <= _FEWEST_PAGES or self._rings:
                    perf.close(fd)
                    raise NotPermitted(
                        f"perf rings of {pages} pages per CPU cannot be mapped: {error.strerror}",
                        "run as root, or raise kernel.perf_event_mlock_kb",
                    ) from None
                pages //= 2

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors that become readable when events wait."""
        return tuple(fd for fd, _ in self._rings)

    def drain(
        self, wanted: Callable[[int, int], bool] | None = None, *, last: bool = False
    ) -> Iterator[Event]:
        """Events since the last call, in time order over all CPUs.

        Parameters
        ----------
        wanted : callable, optional
            Called with the process and, for a fork, its parent (else -1), when the events before were taken:
            those it refuses are not parsed.
        last : bool
            Give everything. Otherwise events younger than the begin of this call are kept for the next one: an
            earlier event of another CPU, such as the fork before a map, may not have been read yet.
        """
        until = time.monotonic_ns()
        found = self._kept
        for _, area in self._rings:
            found += self._take(area)
        found.sort()
        self._kept = []
        if not last:
            count = bisect.bisect_right(found, until, key=operator.itemgetter(0))
            found, self._kept = found[:count], found[count:]
        for when, _, kind, misc, raw in found:
            pid, parent = struct.unpack_from("<ii", raw, 8)
            if wanted is None or wanted(pid, parent if kind == _FORK else -1):
                event = self._parse(when, kind, misc, raw)
                if event is not None:
                    yield event

    def _take(self, area: mmap.mmap) -> list[_Raw]:
        """Move what one ring holds out of it."""
        positions = (ctypes.c_uint64 * 2).from_buffer(area, _HEAD)
        words = ctypes.addressof(positions)
        tail = positions[1]
        # an acquire load: the records are written before it
        length = ring.available(words + 8, words)
        first = min(length, self._size - tail % self._size)
        begin = self._page + tail % self._size
        data = area[begin : begin + first] + area[self._page : self._page + length - first]
        positions[1] = tail + length
        del positions
        found, at = [], 0
        while at + 8 <= length:
            kind, misc, size = _HEADER.unpack_from(data, at)
            if size < 24:
                break
            if kind == _LOST:
                self.lost += struct.unpack_from("<Q", data, at + 16)[0]
            elif kind in _KINDS:
                (when,) = _TIME.unpack_from(data, at + size - 8)
                self._number += 1
                found.append((when, self._number, kind, misc, data[at : at + size]))
            at += size
        return found

    def _parse(self, when: int, kind: int, misc: int, raw: bytes) -> Event | None:
        if kind in (_FORK, _EXIT):
            pid, parent, tid = struct.unpack_from("<iii", raw, 8)
            return Event("fork" if kind == _FORK else "exit", when, pid, tid, parent)
        if kind == _COMM:
            pid, tid = struct.unpack_from("<ii", raw, 8)
            name = raw[16:].split(b"\0", 1)[0].decode("utf-8", "replace")
            return Event("exec" if misc & _MISC_EXEC else "comm", when, pid, tid, comm=name)
        if kind == _MMAP2:
            pid, tid, start, length, offset = struct.unpack_from("<iiQQQ", raw, 8)
            (protection,) = struct.unpack_from("<I", raw, 64)
            if not protection & _PROT_EXEC and not self._data:
                return None
            build_id = raw[44 : 44 + min(raw[40], 20)].hex() if misc & _MISC_BUILD_ID else ""
            path = raw[72:].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return Event(
                "map", when, pid, tid, start=start, end=start + length, offset=offset,
                path="" if path == "//anon" else path, build_id=build_id,
            )  # fmt: skip
        return None

    def close(self) -> None:
        """Close all events."""
        rings, self._rings = self._rings, []
        for fd, area in rings:
            area.close()
            perf.close(fd)
