"""Hold every thread of a process still, and let all of them go on as if nothing had been.

Threads are seized and interrupted, and the list of threads is read again until it has no new one. A thread that was
about to receive a signal stays at that stop and receives it when it is let go. A thread that waits for its vfork
child cannot stop; its child shares the memory and may be anywhere, so everything is let go and tried again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from types import TracebackType

from workbench.errors import NotPermitted, RunFailed, TargetGone
from workbench.runtime.attach import ptrace

__all__ = ("Stop", "status_fields", "thread_ids")

_WALL = 0x40000000
_EVENT_STOP = 128
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_PATIENCE = 30.0
_VFORK = 58


def thread_ids(pid: int) -> list[int]:
    """Threads of a process; empty when it is gone."""
    try:
        return sorted(int(one.name) for one in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def status_fields(pid: int, thread: int | None = None) -> dict[str, str]:
    """Fields of /proc/PID/status; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


class _Busy(Exception):
    """A thread that cannot stop now."""


class Stop:
    """All threads of a process, stopped, as a context.

    Parameters
    ----------
    pid : int
    patience : float
        Seconds to wait for threads to stop.

    Attributes
    ----------
    threads : dict of int to int
        Thread id -> signal it is about to receive (0: none).
    seconds : float
        How long the process was held (set when it is let go): from the first interrupt to the last detach.

    Raises
    ------
    TargetGone
        The process ended.
    NotPermitted
        Another user's, or traced already.
    RunFailed
        It did not stop in time.
    """

    def __init__(self, pid: int, patience: float = _PATIENCE) -> None:
        self.pid = pid
        self.threads: dict[int, int] = {}
        self.seconds = 0.0
        self._end = time.monotonic() + patience
        self._began = 0.0
        self._pause = 0.0

    def __enter__(self) -> Stop:
        while True:
            try:
                self._began = time.perf_counter()
                self._hold_all()
                return self
            except _Busy as busy:
                self.release()
                if time.monotonic() > self._end:
                    raise RunFailed(
                        f"process {self.pid} could not be held still: {busy}", "try again later"
                    ) from None
                time.sleep(0.01)
            except BaseException:
                self.release()
                raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _hold_all(self) -> None:
        while True:
            new = [t for t in thread_ids(self.pid) if t not in self.threads]
            seized = [thread for thread in new if self._seize(thread)]
            for thread in seized:
                self._wait_held(thread)
            if not seized:
                break
        if not self.threads:
            raise TargetGone(f"process {self.pid} is gone")

    def _seize(self, thread: int) -> bool:
        try:
            ptrace.seize(thread)
        except TargetGone:
            return False
        except PermissionError as error:
            fields = status_fields(self.pid, thread)
            if not fields or fields.get("State", "Z")[0] in "ZX":
                return False
            if (tracer := fields.get("TracerPid", "0")) != "0":
                raise NotPermitted(
                    f"process {self.pid} is traced already, by process {tracer}",
                    "end that debugger or tracer, or detach it",
                ) from error
            raise NotPermitted(
                f"process {self.pid} may not be traced by user {os.getuid()}",
                "run as its owner or as root; with Yama, /proc/sys/kernel/yama/ptrace_scope must be 0",
            ) from error
        self.threads[thread] = 0
        with contextlib.suppress(TargetGone):
            ptrace.interrupt(thread)
        return True

    def _wait_held(self, thread: int) -> None:
        with contextlib.suppress(TargetGone):
            status = self.wait(thread)
            if status >> 16 != _EVENT_STOP:
                self.threads[thread] = os.WSTOPSIG(status)

    def wait(self, thread: int) -> int:
        """Status of the next stop of a thread that was told to run.

        Raises
        ------
        TargetGone
            The thread ended.
        """
        pause, grace, dead_by = 0.0, time.monotonic() + 1.0, time.monotonic() + 0.005
        while True:
            try:
                got, status = os.waitpid(thread, os.WNOHANG | _WALL)
            except ChildProcessError:
                self.threads.pop(thread, None)
                raise TargetGone(f"thread {thread} is gone") from None
            if got:
                if os.WIFSTOPPED(status):
                    return status
                self.threads.pop(thread, None)
                raise TargetGone(f"thread {thread} ended")
            now = time.monotonic()
            # A dead first thread is reported only after all the others, which are dead and ours to reap as well.
            if now > dead_by and self._is_dead(thread):
                self._reap()
                raise TargetGone(f"thread {thread} ended")
            if now > grace and self._waits_for_child(thread):
                raise _Busy(f"thread {thread} waits for its vfork child")
            if now > self._end:
                raise _Busy(f"thread {thread} does not stop")
            if pause:
                time.sleep(pause)
            else:
                os.sched_yield()
            pause = min(pause + 0.00002, 0.001)

    def _waits_for_child(self, thread: int) -> bool:
        state = status_fields(self.pid, thread).get("State", "Z")
        return state.startswith("D")

    def _is_dead(self, thread: int) -> bool:
        return status_fields(self.pid, thread).get("State", "Z")[0] in "ZX"

    def _reap(self) -> None:
        """Take note of the dead threads; those that live stay."""
        for thread in list(self.threads):
            if self._is_dead(thread):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(thread, os.WNOHANG | _WALL)
                self.threads.pop(thread, None)

    def counters(self) -> dict[int, int]:
        """Program counter of every thread that is held."""
        return {thread: ptrace.get_registers(thread).ip for thread in list(self.threads)}

    def release(self) -> None:
        """Let every thread go on; harmless twice."""
        for thread, delivered in self.threads.items():
            try:
                ptrace.resume(ptrace.DETACH, thread, delivered)
            except (TargetGone, PermissionError):
                self._detach_running(thread)
        self.threads.clear()
        if self._began:
            self.seconds = time.perf_counter() - self._began

    def _detach_running(self, thread: int) -> None:
        """A thread that is seized but not stopped (it was interrupted a moment ago) can be detached once it stops."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                got, status = os.waitpid(thread, os.WNOHANG | _WALL)
            except ChildProcessError:
                return
            if got:
                if os.WIFSTOPPED(status):
                    delivered = 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)
                    with contextlib.suppress(TargetGone, PermissionError):
                        ptrace.resume(ptrace.DETACH, thread, delivered)
                return
            time.sleep(0.0005)
