"""Writing to pages that the process itself may not write, where the kernel lets its tracer alone do so.

Since Linux 6.12 a distributor may build kernels so (CONFIG_PROC_MEM_FORCE_PTRACE, as Debian does; at boot,
proc_mem.force_override=ptrace): a write through /proc/PID/mem to code gives EIO unless the thread that writes traces
the process's first thread (fs/proc/base.c, proc_mem_foll_force). With `never` such writes give EIO always, but
ptrace(2) itself still writes, word by word.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator

from workbench.errors import MissingCapability, TargetGone
from workbench.runtime.attach import ptrace
from workbench.runtime.attach.stop import Stop, status_fields, thread_ids

__all__ = ("poke", "traced")

WORD = 8


def _traced(pid: int) -> list[int]:
    """Threads of the process that this thread traces."""
    own = str(threading.get_native_id())
    return [one for one in thread_ids(pid) if status_fields(pid, one).get("TracerPid") == own]


@contextlib.contextmanager
def traced(pid: int, stopped: list[float]) -> Iterator[None]:
    """This thread traces the process and its threads are held: they are already, or are until the context's end.

    Parameters
    ----------
    pid : int
    stopped : list of float
        Takes the seconds that it was held for this.

    Raises
    ------
    TargetGone, NotPermitted, RunFailed
        See `Stop`.
    """
    if _traced(pid):
        yield
        return
    stop = Stop(pid)
    try:
        with stop:
            yield
    finally:
        stopped.append(stop.seconds)


def poke(pid: int, address: int, words: bytes) -> None:
    """Write whole words to a process that this thread holds.

    Raises
    ------
    TargetGone
        It ended.
    MissingCapability
        Nothing is mapped there, or not even a tracer may write.
    """
    for thread in _traced(pid):
        try:
            for i, (word,) in enumerate(struct.iter_unpack("<Q", words)):
                ptrace.request(ptrace.POKE, thread, address + WORD * i, word)
            return
        except TargetGone:  # of a held process, the first thread may have ended
            continue
        except PermissionError as error:
            raise MissingCapability(
                f"process {pid} may not be written: {error.strerror}"
            ) from error
    raise TargetGone(f"process {pid} is gone")
