"""The recorder: the life of one recording, from attach to the renamed folder.

Attaching happens in the thread that calls `start`; draining happens in a thread of its own, so a notebook stays
usable and Stop works while a cell runs. A process that records itself attaches in that thread too, which is left out
of what is recorded. Whatever ends the recording (the target's exit, `seconds`, `stop`, an
exception in a collector, a full disk, the end of this process), the order is the same: detach every probe, drain once
more, finish.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import os
import threading
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from workbench.collectors import registry, together
from workbench.collectors.backend import choose
from workbench.collectors.base import Collector, Target
from workbench.collectors.capture import Capture
from workbench.collectors.errands import Errands
from workbench.collectors.limits import borrow_limit, return_limit
from workbench.collectors.spec import Spec, parse
from workbench.collectors.state import CollectorState, Phase, State
from workbench.collectors.target import HeldCommand, attach_target, machine_target
from workbench.collectors.twice import refuse_twins
from workbench.collectors.waiting import Waiting
from workbench.errors import BadSpec, TargetGone, WorkbenchError
from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from workbench.frames.recording import Recording

__all__ = ("CollectorState", "Recorder", "State")

DRAIN_SECONDS = 0.1
THREAD_NAME = "wb-recorder"
_PR_SET_NAME = 15
_EXITED = "the target exited"
_running: weakref.WeakSet[Recorder] = weakref.WeakSet()
os.register_at_fork(after_in_child=_running.clear)  # the thread that records is not in the child


@atexit.register
def _end_all() -> None:
    """A program that ends while it records keeps what was recorded."""
    for recorder in list(_running):
        recorder.stop(reason="the recording process ended")
        recorder.wait()


def _here(job: Callable[[], None]) -> None:
    job()


class Recorder:
    """Records one target with several collectors.

    Parameters
    ----------
    collect : sequence of str, Spec or Collector
        What to record; strings follow the grammar of `collectors.spec`.
    output : path
        Folder of the recording.
    pid : int, optional
        A running process.
    command : sequence of str, optional
        A command to start. Neither `pid` nor `command`: the whole machine, if `machine` says so.
    backend : str
        kernel, userspace or auto (the kernel if this user may load programs into it); see `collectors.backend`.
    seconds : float, optional
        End after this time.
    follow : bool
        Record processes forked by the target as well.
    overwrite : bool
        Replace an earlier recording at `output`.
    stdout, stderr, stdin, cwd, env
        For the command, as in `subprocess.Popen`.

    Examples
    --------
    >>> with Recorder(["cpu:999"], output="out", pid=1234) as recorder:
    ...     time.sleep(1)
    >>> recorder.recording.samples
    """

    def __init__(
        self,
        collect: Sequence[str | Spec | Collector],
        *,
        output: str | Path,
        pid: int | None = None,
        command: Sequence[str] = (),
        machine: bool = False,
        backend: str = "auto",
        seconds: float | None = None,
        follow: bool = True,
        overwrite: bool = False,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        stdin: int | IO[Any] | None = None,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        if (pid is not None) + bool(command) + machine != 1:
            raise BadSpec(
                "name one target",
                "--pid N, -- CMD ..., or --machine (pid=, command= or machine=True)",
            )
        if seconds is not None and not 0 < seconds < math.inf:
            raise BadSpec(f"seconds is {seconds:g}", "give a positive number of seconds")
        if not collect:
            raise BadSpec(
                "nothing to collect", f"--collect one of: {', '.join(registry.COLLECTORS)}"
            )
        self.backend, self.backend_reason = choose(backend, machine=machine)
        self._specs = [parse(one) if isinstance(one, str) else one for one in collect]
        refuse_twins(self._specs)
        self.collectors: list[Collector] = [
            registry.make(one) if isinstance(one, Spec) else one for one in self._specs
        ]
        self._pid, self._command, self._seconds, self._follow = pid, tuple(command), seconds, follow
        self._child_options: dict[str, Any] = dict(
            stdout=stdout, stderr=stderr, stdin=stdin, cwd=cwd, env=env
        )
        self._output, self._overwrite = output, overwrite
        self._phase: Phase = "new"
        self._started = False
        self._progress = 0.0
        self._reason = ""
        self._status: Literal["complete", "interrupted", "failed"] = "complete"
        self._error: BaseException | None = None
        self._recording: Recording | None = None
        self._capture: Capture | None = None
        self._command_process: HeldCommand | None = None
        self._lock = threading.Lock()
        self._stopping = False
        self._waiting: Waiting | None = None
        self._errands = Errands()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self.temporary: Path | None = None
        """A folder made only to hold the output; removed when nothing could be recorded."""
        self.exit_status: int | None = None

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> Recorder:
        """Attach everything and begin; returns when events are being recorded.

        Raises
        ------
        WorkbenchError
            Whatever keeps a collector from attaching. Nothing stays attached, and no folder is left.
        """
        with self._lock:
            if self._started:
                raise BadSpec("this recorder was started already", "make a new one")
            self._started = True
        borrow_limit()  # one descriptor per thread and probe
        try:
            thread_id = self._start_thread()
            target = self._resolve()
            target.left_out, target.backend = thread_id, self.backend
            if self._command_process is not None and self.backend == "userspace":
                self._command_process.park()
            # What a process does to record itself is no part of the recording.
            do = self._errands.do if target.pid == os.getpid() else _here
            do(lambda: self._attach(target))
            self._check_alive(target)
            capture = self._capture
            assert capture is not None
            do(lambda: capture.open(self._seconds))
            with self._lock:
                self._phase = "recording"
            if self._command_process is not None:
                self._command_process.release()
        except BaseException:
            self._undo()
            raise
        _running.add(self)
        self._errands.close()
        return self

    def _attach(self, target: Target) -> None:
        self._capture = Capture(target, self.collectors, self._make_writer(target))
        self._capture.attach()

    def _start_thread(self) -> int:
        """Start the thread that drains, once its jobs before that are done; its thread id."""
        with self._lock:
            self._waiting = Waiting()
            if self._stopping:
                self._waiting.call()
        named = threading.Event()

        def run() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_NAME, THREAD_NAME.encode())
            named.set()
            self._errands.run()
            if self._phase == "recording" and self._capture is not None:
                self._run(self._capture)

        self._thread = threading.Thread(target=run, name=THREAD_NAME, daemon=True)
        self._thread.start()
        named.wait()
        assert self._thread.native_id is not None
        return self._thread.native_id

    def _make_writer(self, target: Target) -> RecordingWriter:
        return RecordingWriter(
            self._output,
            command=self._command,
            pid=target.pid,
            collectors=together.infos(self._specs, self.collectors),
            options={
                "seconds": self._seconds,
                "follow": self._follow,
                "machine": target.machine,
                "backend": f"{self.backend}: {self.backend_reason}",
            },
            frames=sorted({frame for one in self.collectors for frame in one.frames}),
            overwrite=self._overwrite,
        )

    def _resolve(self) -> Target:
        assert self._waiting is not None
        if self._command:
            given = self._child_options["env"]
            variables = dict(os.environ if given is None else given)
            together.environment(self.collectors, variables)
            self._command_process = HeldCommand(
                self._command, **(self._child_options | {"env": variables})
            )
            target = self._command_process.target
            target.follow = self._follow
            self._waiting.for_exit(self._command_process.pid)
            return target
        if self._pid is None:
            return machine_target()
        if self._pid > 0:
            self._waiting.for_exit(self._pid)
        return attach_target(self._pid, follow=self._follow)

    def _check_alive(self, target: Target) -> None:
        """A process that exits while it is attached would never end the recording."""
        assert self._waiting is not None
        if not target.machine and self._waiting.exited:
            raise TargetGone(
                f"process {target.pid} exited while it was being attached", "start it again"
            )

    def _undo(self) -> None:
        """Start failed: leave nothing behind."""
        with self._lock:
            self._phase = "done"
        if self._capture is not None:
            self._capture.undo()
        if self.temporary is not None:
            with contextlib.suppress(OSError):
                self.temporary.rmdir()
        if self._command_process is not None:
            self._command_process.kill()
        self._end_life()
        self._errands.close()
        if self._thread is not None:
            self._thread.join()

    def _end_life(self) -> None:
        with self._lock:
            self._phase = "done"
        if self._waiting is not None:
            self._waiting.close()
        return_limit()
        _running.discard(self)
        self._done.set()

    def _run(self, capture: Capture) -> None:
        try:
            self._loop(capture)
        except WorkbenchError as error:
            self._error, self._status, self._reason = error, "interrupted", error.message
        except (
            BaseException
        ) as error:  # the data must reach the disk whatever a collector did; re-raised by result()
            self._error, self._status, self._reason = (
                error,
                "failed",
                f"{type(error).__name__}: {error}",
            )
        try:
            self._finish(capture)
        except BaseException as error:  # kept for result(): this thread has nobody to raise to
            self._error = self._error or error
        finally:
            self._end_life()

    def _loop(self, capture: Capture) -> None:
        assert self._waiting is not None
        self._waiting.for_rings(fd for one in self.collectors for fd in one.wake_fds())
        while True:
            left = self.state().remaining
            called, exited = self._waiting.wait(
                DRAIN_SECONDS if left is None else min(DRAIN_SECONDS, max(left, 0.0))
            )
            left = self.state().remaining
            over = left is not None and (left <= 0 or capture.end > 0)
            if called or exited or over:
                capture.close()  # before what has arrived is taken, which may last
                with self._lock:
                    seconds = f"{self._seconds:g} seconds were over" if over else ""
                    self._reason = self._reason or (_EXITED if exited else seconds)
                return
            capture.drain()

    def _finish(self, capture: Capture) -> None:
        capture.close()
        with self._lock:
            self._phase = "finishing"
        errors = capture.detach()
        if errors and self._error is None:
            self._error, self._status = errors[0], "interrupted"
            self._reason = f"{type(errors[0]).__name__}: {errors[0]}".splitlines()[0]
        if self._command_process is not None:
            # Where `seconds` or Stop came first: the command is ours, and it ends with the recording.
            ended = self._reason == _EXITED
            process = self._command_process
            self.exit_status = process.wait() if ended else process.end()
        self._recording = capture.finish(
            self._status, self._reason, exit_status=self.exit_status, progress=self._on_progress
        )

    def _on_progress(self, fraction: float, _what: str) -> None:
        self._progress = fraction

    # -- control ----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Live numbers; cheap, from any thread."""
        capture = self._capture
        begin, end = (capture.begin, capture.end) if capture is not None else (0.0, 0.0)
        elapsed = (end or time.monotonic()) - begin if begin else 0.0
        remaining = None if self._seconds is None else self._seconds - elapsed
        collectors = tuple(
            CollectorState(one.name, one.counters.events, one.counters.lost)
            for one in self.collectors
        )
        return State(self._phase, elapsed, remaining, self._progress, collectors)

    def stop(self, *, interrupted: bool = False, reason: str = "") -> None:
        """Ask the recording to end; returns at once. From any thread, any number of times; the first call counts.

        While `start` still attaches, the recording ends as soon as it has begun.
        """
        with self._lock:
            if self._stopping or self._phase in ("finishing", "done"):
                return
            self._stopping = True
            if interrupted:
                self._status = "interrupted"
            self._reason = reason or ("interrupted by the user" if interrupted else "stopped")
            if self._waiting is not None:
                self._waiting.call()

    def wait(
        self, timeout: float | None = None, on_tick: Callable[[State], None] | None = None
    ) -> bool:
        """Wait for the end; True when it came. `on_tick` is called ten times a second meanwhile.

        Raises
        ------
        BadSpec
            It was never started.
        """
        if not self._started:
            raise BadSpec("this recorder was not started", "call start(), run(), or use `with`")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._done.wait(DRAIN_SECONDS):
            if on_tick is not None:
                on_tick(self.state())
            if end is not None and time.monotonic() >= end:
                return False
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        return True

    def result(self) -> Recording:
        """Wait for the end and return the recording.

        Raises
        ------
        WorkbenchError
            What ended the recording early, such as a full disk. The data is kept: `recorder.recording`.
        KeyboardInterrupt
            After everything was detached and saved.
        """
        try:
            self.wait()
        except KeyboardInterrupt:
            self.stop(interrupted=True)
            self.wait()
            raise
        if self._error is not None:
            raise self._error
        return self.recording

    def run(self, on_tick: Callable[[State], None] | None = None) -> Recording:
        """Start, wait for the end and return the recording; an interrupt detaches, saves and is raised again."""
        self.start()
        try:
            self.wait(on_tick=on_tick)
        except KeyboardInterrupt:
            self.stop(interrupted=True)
            self.wait()
            raise
        return self.result()

    @property
    def recording(self) -> Recording:
        """The finished recording, also one that ended early.

        Raises
        ------
        WorkbenchError
            It has not ended, or nothing could be written.
        """
        if self._recording is None:
            raise WorkbenchError("there is no recording yet", "call stop() and wait()")
        return self._recording

    @property
    def pid(self) -> int | None:
        """The process being recorded."""
        return self._command_process.pid if self._command_process else self._pid

    def __enter__(self) -> Recorder:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        if self._command and kind is None:
            self.result()
            return
        self.stop(interrupted=interrupted)
        self.wait()
        if kind is None and self._error is not None:
            raise self._error
