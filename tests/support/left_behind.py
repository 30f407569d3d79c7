"""What a recording may leave behind: BPF programs, descriptors, threads, processes. Ours only: others run meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from workbench.kernel import perf

_PROGRAM_NEXT_ID, _LINK_NEXT_ID = 11, 31


def _ids(command: int) -> set[int]:
    found, current = set(), 0
    while True:
        attr = ctypes.create_string_buffer(struct.pack("<III", current, 0, 0), 12)
        if perf.bpf_raw(command, attr) < 0:
            return found
        current = struct.unpack_from("<I", attr.raw, 4)[0]
        found.add(current)


def programs_in_the_kernel() -> set[int]:
    """Ids of all BPF programs."""
    return _ids(_PROGRAM_NEXT_ID)


def links_in_the_kernel() -> set[int]:
    """Ids of all BPF links: what is attached."""
    return _ids(_LINK_NEXT_ID)


def held(what: str, pid: int | None = None) -> set[int]:
    """The `prog_id` or `link_id` of all that a process (default: this one) has open."""
    found = set()
    for entry in Path(f"/proc/{pid or os.getpid()}/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # that of this very look
            for line in entry.read_text().splitlines():
                if line.startswith(f"{what}:"):
                    found.add(int(line.split()[1]))
    return found


def state_of(pid: int) -> str:
    """Letter of a process's state (R, S, T, t, Z ...), empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for an event that nobody reports."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def descriptors() -> list[str]:
    """What this process has open, but for the symbols that it keeps of every file it ever looked up."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            link = str(entry.readlink())
            if "/symbols-" not in link:
                found.append(link)
    return sorted(found)


class Left:
    """Compares what this process holds with what it held before."""

    def __init__(self) -> None:
        gc.collect()
        self._fds, self._threads = descriptors(), threading.active_count()
        self._programs = held("prog_id")

    def nothing(self) -> None:
        """No descriptor, thread or program more than before."""
        gc.collect()
        assert held("prog_id") <= self._programs
        assert len(descriptors()) <= len(self._fds), descriptors()
        assert threading.active_count() <= self._threads
