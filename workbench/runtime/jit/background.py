"""One thread that compiles optimised code while programs run already; it ends with the process, at once."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable

__all__ = ("busy", "calm", "submit")

_CALM = 0.05  # seconds
_PATIENCE = 60.0  # a swap waits for its target, which may be stuck for ever
_busy_until = 0.0


class _Worker:
    """The thread and what waits for it; made anew in a child of fork, which has no threads."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, name="workbench-jit", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (job := self.work.get()) is not None and not self.ending.is_set():
            try:
                job()
            except Exception:  # the next job is another program's
                traceback.print_exc()

    def end(self) -> None:
        """Let the compilation under way finish: LLVM must not be torn down around it."""
        if self.process == os.getpid():
            self.ending.set()
            self.work.put(None)
            self.thread.join(_PATIENCE)


_lock = threading.Lock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)
_worker: _Worker | None = None


def busy() -> None:
    """The foreground compiles or attaches: LLVM does one thing at a time, so the background had better wait."""
    global _busy_until
    _busy_until = time.monotonic() + _CALM


def calm() -> bool:
    """In a job: wait until nobody has been `busy` for a moment; False = the process ends."""
    worker = _worker
    while worker is not None and (left := _busy_until - time.monotonic()) > 0:
        if worker.ending.wait(left):
            return False
    return True


def submit(job: Callable[[], None]) -> None:
    """Run `job` in the background, after what was submitted before; jobs that have not begun at exit are dropped."""
    global _worker
    with _lock:
        if _worker is None or _worker.process != os.getpid():
            _worker = _Worker()
            atexit.register(_worker.end)
        _worker.work.put(job)
