"""Keep a scheduler's tasks the same as the processes of a cgroup, while these come and go.

Two programs in the kernel report a process that is moved into the cgroup or out of it, or is forked into it from
outside (bpf/cgroup_watch.bpf.c); a thread here changes its policy then. Between the event and the change, usually less
than a millisecond, the process is with its former scheduler.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING

from workbench.errors import TargetGone, WorkbenchError
from workbench.sched.state import members

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.sched.borrowed import Borrowed

__all__ = ("Follower",)

_MOVES = 256  # records that are read at once


class Follower:
    """Brings what is in a cgroup, and what enters it, under SCHED_EXT; gives back what leaves it.

    Parameters
    ----------
    folder : Path
        The cgroup; those below it belong to it.
    borrowed : Borrowed
        Takes the processes, and gives them all back in the end.

    Attributes
    ----------
    taken : list of int
        The processes that were in it at the beginning and not under SCHED_EXT yet.
    problem : str
        Why a process that entered could not be taken; empty if all could.

    Raises
    ------
    NotPermitted
        A process belongs to another user.
    TargetGone
        There is no such cgroup.
    """

    def __init__(self, folder: Path, borrowed: Borrowed) -> None:
        from workbench.kernel.loaded import load
        from workbench.kernel.ring import ColumnReader
        from workbench.objects.model import builtin

        self.folder, self.problem = folder, ""
        self._borrowed = borrowed
        obj = builtin("cgroup_watch")
        self._loaded = load(obj, constants={"scope_cgroup": folder.stat().st_ino})
        self._stop = os.eventfd(0)
        self._ring = self._loaded.ring("moves")
        try:
            self._reader = ColumnReader(self._ring, obj.record_dtype("moves", ""), _MOVES)
            borrowed.follow(folder)
            self._loaded.attach("attached")
            self._loaded.attach("forked")
            self.taken = self._take()
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="cgroup scope", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following; what was taken stays. Safe to call twice."""
        if self._thread.is_alive():
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        if self._stop >= 0:
            self._release()

    def _release(self) -> None:
        self._ring.close()
        self._loaded.close()
        os.close(self._stop)
        self._stop = -1

    def _take(self) -> list[int]:
        """Take every process that is in the cgroup, also those that are forked meanwhile."""
        taken: list[int] = []
        seen = {os.getpid()}
        while new := [pid for pid in members(self.folder) if pid not in seen]:
            seen.update(new)
            for pid in new:
                if not self._borrowed.has(pid):
                    with contextlib.suppress(TargetGone):
                        self._borrowed.take(pid, named=False)
                        taken.append(pid)
        return taken

    def _apply(self, entered: set[int], left: set[int]) -> None:
        present = set(members(self.folder))  # numbers as this process sees them
        for pid in left - present:
            self._borrowed.leave(pid)
        for pid in entered & present - {os.getpid()}:
            with contextlib.suppress(TargetGone):
                self._borrowed.take(pid, named=False)
        self._take()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._ring.fileno(), select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        lost = 0
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._stop in ready:
                return
            try:
                while rows := self._reader.drain():
                    moves = self._reader.take(rows)
                    entered = moves["inside"] != 0
                    self._apply(
                        set(moves["tgid"][entered].tolist()), set(moves["tgid"][~entered].tolist())
                    )
                if (now := int(self._loaded.globals["lost_ring_full"][()])) != lost:
                    lost = now
                    self._take()
            except TargetGone:
                return  # the cgroup is gone, and nobody can enter it any more
            except WorkbenchError as error:
                self.problem = str(error)
