"""Hold every thread of a process still, and let all of them go on as if nothing had been.

Threads are seized and interrupted, and the list of threads is read again until it has no new one. A thread that was
about to receive a signal stays at that stop and receives it when it is let go. A thread that waits for its vfork
child cannot stop; its child shares the memory and may be anywhere, so everything is let go and tried again. Such
threads, and others in an uninterruptible sleep, are waited for before any is seized: only a thread that stops can be
let go, before the workbench ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import TracebackType

from workbench.errors import NotPermitted, RunFailed, TargetGone, WorkbenchError
from workbench.runtime.attach import ptrace
from workbench.runtime.attach.reaper import forget, take_care_of

__all__ = ("Stop", "state", "status_fields", "thread_ids")

_WALL = 0x40000000
_EVENT_STOP = 128
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_PATIENCE = 30.0
_GRACE, _MOST_GRACE = 0.1, 2.0
_LET_GO = 5.0


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


def state(pid: int, thread: int) -> str:
    """State of a thread as `ps` prints it; Z when it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{thread}/stat").read_bytes()
    except OSError:
        return "Z"
    return chr(text.rpartition(b")")[2].split(None, 1)[0][0])


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
        self._grace = _GRACE
        self._ours = status_fields(pid).get("PPid") == str(os.getpid())

    def __enter__(self) -> Stop:
        pause = 0.001
        while True:
            try:
                self._wait_for_sleepers()
                self._began = time.perf_counter()
                self._hold_all()
                return self
            except _Busy as busy:
                self.release()
                if time.monotonic() > self._end:
                    raise RunFailed(
                        f"process {self.pid} could not be held still: {busy}", "try again later"
                    ) from None
                time.sleep(pause)
                pause, self._grace = min(2 * pause, 0.05), min(2 * self._grace, _MOST_GRACE)
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

    def _wait_for_sleepers(self) -> None:
        pause = 0.0005
        for thread in thread_ids(self.pid):
            while state(self.pid, thread) == "D":
                if time.monotonic() > self._end:
                    raise _Busy(self._sleeps(thread))
                time.sleep(pause)
                pause = min(2 * pause, 0.02)

    def _hold_all(self) -> None:
        while True:
            new = [t for t in thread_ids(self.pid) if t not in self.threads]
            seized = [thread for thread in new if self._seize(thread)]
            for thread in seized:
                self._wait_held(thread)
            if not seized:
                break
            if time.monotonic() > self._end:
                raise _Busy("it starts threads faster than they can be held")
        if not self.threads:
            raise TargetGone(f"process {self.pid} is gone")
        for thread in list(self.threads):
            try:
                ptrace.get_registers(thread)
            except TargetGone:
                if thread_ids(self.pid) and not self._is_dead(self.pid):
                    raise _Busy(f"thread {thread} ended, or replaced the program") from None
                raise

    def _seize(self, thread: int) -> bool:
        take_care_of(thread, leader_of_ours=self._ours and thread == self.pid)
        try:
            ptrace.seize(thread)
        except TargetGone:
            forget(thread)
            return False
        except PermissionError as error:
            fields = status_fields(self.pid, thread)
            tracer = fields.get("TracerPid", "0")
            ours = tracer == str(
                threading.get_native_id()
            )  # it ended since, or got this id by execve, or did not stop
            if not ours:
                forget(thread)
            if fields.get("State", "Z")[0] in "ZX":
                return False
            if not ours and tracer != "0":
                raise NotPermitted(
                    f"process {self.pid} is traced already, by process {tracer}",
                    "end that debugger or tracer, or detach it",
                ) from error
            if not ours:
                raise NotPermitted(
                    f"process {self.pid} may not be traced by user {os.getuid()}",
                    "run as its owner or as root; with Yama, /proc/sys/kernel/yama/ptrace_scope must be 0",
                ) from error
        self.threads[thread] = 0
        with contextlib.suppress(TargetGone):
            self._interrupt(thread)
        return True

    def _interrupt(self, thread: int) -> None:
        try:
            ptrace.interrupt(thread)
        except TargetGone:
            if not self._is_dead(thread):
                self.threads.pop(thread, None)  # not ours any more
            raise

    def _wait_held(self, thread: int) -> None:
        with contextlib.suppress(TargetGone):
            status = self._wait(thread, self._end, time.monotonic() + self._grace)
            if status >> 16 != _EVENT_STOP:
                self.threads[thread] = os.WSTOPSIG(status)

    def wait(self, thread: int) -> int:
        """Status of the next stop of a thread that was told to run.

        Raises
        ------
        TargetGone
            The thread ended.
        RunFailed
            It does not stop.
        """
        try:
            return self._wait(thread, time.monotonic() + _PATIENCE)
        except _Busy as busy:
            raise RunFailed(f"process {self.pid}: {busy}", "try again later") from None

    def _wait(self, thread: int, end: float, grace: float | None = None) -> int:
        """`grace`: when a thread in an uninterruptible sleep is not waited for any longer."""
        pause, dead_by = 0.0, time.monotonic() + 0.005
        while True:
            if (status := self._stopped(thread)) is not None:
                return status
            now = time.monotonic()
            # A dead first thread is reported only after all the others, which are dead and ours to reap as well.
            if now > dead_by and self._is_dead(thread):
                self._reap()
                raise TargetGone(f"thread {thread} ended")
            if grace is not None and now > grace:
                if state(self.pid, thread) == "D":
                    raise _Busy(self._sleeps(thread))
                self._interrupt(thread)  # by an execve, another thread may have this id now
                grace = now + self._grace
            if now > end:
                raise _Busy(f"thread {thread} does not stop")
            if pause:
                time.sleep(pause)
            else:
                os.sched_yield()
            pause = min(pause + 0.00002, 0.001)

    def _stopped(self, thread: int) -> int | None:
        """Status of a stop, None while it runs. How our own child ended is left for whoever waits for it."""
        try:
            if self._ours and thread == self.pid:
                found = os.waitid(os.P_PID, thread, os.WSTOPPED | os.WNOHANG | _WALL)
                return None if found is None else found.si_status << 8 | 0x7F
            got, status = os.waitpid(thread, os.WNOHANG | _WALL)
        except ChildProcessError:
            got, status = thread, 0
        if not got:
            return None
        if os.WIFSTOPPED(status):
            return status
        self.threads.pop(thread, None)
        forget(thread)
        raise TargetGone(f"thread {thread} ended")

    def _sleeps(self, thread: int) -> str:
        return f"thread {thread} is in an uninterruptible sleep (it waits for its vfork child, or a slow disk)"

    def _is_dead(self, thread: int) -> bool:
        return state(self.pid, thread) in "ZX"

    def _reap(self) -> None:
        """Take note of the dead threads; those that live stay. A dead first thread is left to `reaper`."""
        for thread in list(self.threads):
            if self._is_dead(thread):
                with contextlib.suppress(TargetGone):
                    self._stopped(thread)
                self.threads.pop(thread, None)

    def counters(self) -> dict[int, int]:
        """Program counter of every thread that is held."""
        return {thread: ptrace.get_registers(thread).ip for thread in list(self.threads)}

    def release(self) -> None:
        """Let every thread go on; harmless twice."""
        running = []
        for thread, delivered in self.threads.items():
            try:
                ptrace.resume(ptrace.DETACH, thread, delivered)
                forget(thread)
            except (WorkbenchError, PermissionError):
                running.append(thread)
        self.threads.clear()
        if self._began:
            self.seconds = time.perf_counter() - self._began
        end = time.monotonic() + _LET_GO
        for thread in running:
            self._detach_running(thread, end)

    def _detach_running(self, thread: int, end: float) -> None:
        """A thread that is seized but not stopped can be let go once it stops."""
        with contextlib.suppress(WorkbenchError, PermissionError):
            ptrace.interrupt(thread)  # fails for one that is not ours any more
            while time.monotonic() < end and not self._is_dead(thread):
                if (status := self._stopped(thread)) is not None:
                    delivered = 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)
                    ptrace.resume(ptrace.DETACH, thread, delivered)
                    forget(thread)
                    return
                time.sleep(0.0005)
