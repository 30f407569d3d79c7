"""Follow what happens to processes: fork, exec, exit and new executable mappings, as the kernel reports them.

One dummy perf event per CPU carries PERF_RECORD_FORK, COMM, EXIT and MMAP2 (with build ids where the kernel gives
them, Linux >= 5.12) in its mapped ring: no polling of /proc, and processes that lived for a millisecond are seen.
Layouts: include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.kernel import perf
from workbench.native import ring

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("Event", "Sideband", "online_cpus")

_LOST, _COMM, _EXIT, _FORK, _MMAP2 = 2, 3, 4, 7, 10
_MISC_EXEC, _MISC_BUILD_ID = 1 << 13, 1 << 14
_PROT_EXEC = 4
_SAMPLE_TID_TIME = 0x2 | 0x4
_HEAD = 1024  # data_head, then data_tail, in struct perf_event_mmap_page


def online_cpus() -> list[int]:
    """CPUs that are online now."""
    cpus: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        low, _, high = part.partition("-")
        cpus += range(int(low), int(high or low) + 1)
    return cpus


@dataclass(frozen=True, slots=True)
class Event:
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
        page = os.sysconf("SC_PAGE_SIZE")
        flags = (
            "disabled", "exclude_kernel", "mmap", "comm", "task", "mmap2", "comm_exec", "sample_id_all",
            "use_clockid", *(("mmap_data",) if data else ()),
        )  # fmt: skip
        try:
            for cpu in online_cpus():
                attributes = perf.EventAttributes(
                    perf.SOFTWARE,
                    perf.DUMMY,
                    sample_type=_SAMPLE_TID_TIME,
                    flags=(*flags, "build_id"),
                    wakeup=1,
                )
                try:
                    fd = perf.open_event(attributes, cpu=cpu)
                except WorkbenchError:
                    fd = perf.open_event(
                        perf.EventAttributes(
                            perf.SOFTWARE,
                            perf.DUMMY,
                            sample_type=_SAMPLE_TID_TIME,
                            flags=flags,
                            wakeup=1,
                        ),
                        cpu=cpu,
                    )
                self._rings.append((fd, mmap.mmap(fd, (pages + 1) * page)))
        except BaseException:
            self.close()
            raise
        self._page, self._size = page, pages * page
        for fd, _ in self._rings:
            perf.enable(fd)

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors that become readable when events wait."""
        return tuple(fd for fd, _ in self._rings)

    def drain(self) -> list[Event]:
        """Events since the last call, in time order."""
        found = [event for _, area in self._rings for event in self._drain_one(area)]
        found.sort(key=lambda event: event.time)
        return found

    def _drain_one(self, area: mmap.mmap) -> Iterator[Event]:
        positions = (ctypes.c_uint64 * 2).from_buffer(area, _HEAD)
        words = ctypes.addressof(positions)
        tail = positions[1]
        head = tail + ring.available(
            words + 8, words
        )  # an acquire load: the records are written before it
        base = self._page
        while tail < head:
            at = tail % self._size
            kind, misc, size = struct.unpack_from("<IHH", area, base + at)
            if size < 8:
                break
            raw = area[base + at : base + min(at + size, self._size)]
            if at + size > self._size:
                raw += area[base : base + at + size - self._size]
            event = self._parse(kind, misc, raw)
            if event is not None:
                yield event
            tail += size
        positions[1] = tail
        del positions

    def _parse(self, kind: int, misc: int, raw: bytes) -> Event | None:
        (time,) = struct.unpack_from("<Q", raw, len(raw) - 8)
        if kind == _LOST:
            self.lost += struct.unpack_from("<Q", raw, 16)[0]
        elif kind in (_FORK, _EXIT):
            pid, parent, tid = struct.unpack_from("<iii", raw, 8)
            return Event("fork" if kind == _FORK else "exit", time, pid, tid, parent)
        elif kind == _COMM:
            pid, tid = struct.unpack_from("<ii", raw, 8)
            name = raw[16:].split(b"\0", 1)[0].decode("utf-8", "replace")
            return Event("exec" if misc & _MISC_EXEC else "comm", time, pid, tid, comm=name)
        elif kind == _MMAP2:
            pid, tid, start, length, offset = struct.unpack_from("<iiQQQ", raw, 8)
            (protection,) = struct.unpack_from("<I", raw, 64)
            if not protection & _PROT_EXEC and not self._data:
                return None
            build_id = raw[44 : 44 + min(raw[40], 20)].hex() if misc & _MISC_BUILD_ID else ""
            path = raw[72:].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return Event(
                "map", time, pid, tid, start=start, end=start + length, offset=offset,
                path="" if path == "//anon" else path, build_id=build_id,
            )  # fmt: skip
        return None

    def close(self) -> None:
        """Close all events."""
        rings, self._rings = self._rings, []
        for fd, area in rings:
            area.close()
            perf.close(fd)
