"""Keep what just-in-time compilers wrote for profilers: /tmp/perf-PID.map, in the format of Linux perf.

The file is written by the target, so it is not trusted: it must be a regular file (of the target's user or of root,
while that is known), of bearable size, and younger than the process (an earlier process may have had the same pid).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("perf_maps",)

MAX_BYTES = 256 << 20
_SLACK = 2.0


def perf_maps(pids: Iterable[int], since: float) -> Iterator[tuple[int, bytes]]:
    """(pid, content) of the perf maps of these processes, living or not.

    Parameters
    ----------
    pids : iterable of int
    since : float
        A process that is gone began after this (seconds of the wall clock, as of `time.time`).
    """
    wanted = set(pids)
    found = {
        int(path.name[5:-4]) for path in Path("/tmp").glob("perf-*.map") if path.name[5:-4].isdigit()
    }
    for pid in sorted(wanted):
        began = _began(pid)
        places = [f"/proc/{pid}/root/tmp/perf-{pid}.map"] if began is not None else []
        if pid in found:
            places.append(f"/tmp/perf-{pid}.map")
        for place in places:
            data = _read(place, began if began is not None else since, _owner(pid))
            if data:
                yield pid, data
                break


def _began(pid: int) -> float | None:
    """When a living process began, in seconds of the wall clock."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    uptime = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + uptime


def _owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _read(place: str, since: float, owner: int | None) -> bytes:
    """The file's content, empty if it is not what a runtime of that process wrote."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with contextlib.closing(os.fdopen(descriptor, "rb")) as file:
        status = os.fstat(descriptor)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_size > MAX_BYTES
            or (owner is not None and status.st_uid not in (0, owner, os.getuid()))
            or status.st_mtime < since - _SLACK
        ):
            return b""
        with contextlib.suppress(OSError):
            return file.read(MAX_BYTES)
    return b""
