"""The recorder: the life of one recording, from attach to the renamed folder.

Attaching happens in the thread that calls `start`; draining happens in a thread of its own, so a notebook stays
usable and Stop works while a cell runs. Whatever ends the recording (the target's exit, `seconds`, `stop`, an
exception in a collector, a full disk), the order is the same: detach every probe, drain once more, finish.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from workbench.collectors import registry
from workbench.collectors.base import Collector, Target
from workbench.collectors.processes import Processes
from workbench.collectors.spec import Spec, parse
from workbench.collectors.target import HeldCommand, attach_target, machine_target
from workbench.errors import BadSpec, WorkbenchError
from workbench.frames.manifest import CollectorInfo
from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from workbench.frames.recording import Recording

__all__ = ("CollectorState", "Recorder", "State")

DRAIN_SECONDS = 0.1
FLUSH_SECONDS = 1.0
Phase = Literal["new", "recording", "finishing", "done"]


@dataclass(frozen=True, slots=True)
class CollectorState:
    """Live numbers of one collector: rows so far and events lost so far."""

    name: str
    events: int
    lost: int


@dataclass(frozen=True, slots=True)
class State:
    """Live numbers of a recording. `remaining` is seconds to go, None where only the target decides."""

    phase: Phase
    elapsed: float
    remaining: float | None
    progress: float
    collectors: tuple[CollectorState, ...]

    def __str__(self) -> str:
        parts = [
            f"{c.name} {c.events:,}" + (f" ({c.lost:,} lost)" if c.lost else "")
            for c in self.collectors
        ]
        if self.phase == "finishing":
            return f"writing {self.progress:.0%}: {', '.join(parts)}"
        left = f", {self.remaining:.0f} s to go" if self.remaining is not None else ""
        return f"{self.phase} {self.elapsed:.1f} s{left}: {', '.join(parts)}"


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
        if seconds is not None and seconds <= 0:
            raise BadSpec(f"seconds is {seconds}", "give a positive time")
        if not collect:
            raise BadSpec(
                "nothing to collect", f"--collect one of: {', '.join(registry.COLLECTORS)}"
            )
        self._specs = [parse(one) if isinstance(one, str) else one for one in collect]
        self.collectors: list[Collector] = [
            registry.make(one) if isinstance(one, Spec) else one for one in self._specs
        ]
        self._pid, self._command, self._seconds, self._follow = pid, tuple(command), seconds, follow
        self._child_options: dict[str, Any] = dict(
            stdout=stdout, stderr=stderr, stdin=stdin, cwd=cwd, env=env
        )
        self._output, self._overwrite = output, overwrite
        self._phase: Phase = "new"
        self._progress = 0.0
        self._begin = self._end = 0.0
        self._reason = ""
        self._status: Literal["complete", "interrupted", "failed"] = "complete"
        self._error: BaseException | None = None
        self._recording: Recording | None = None
        self._command_process: HeldCommand | None = None
        self._done = threading.Event()
        self._wake_read, self._wake_write = -1, -1
        self._thread: threading.Thread | None = None
        self.exit_status: int | None = None

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> Recorder:
        """Attach everything and begin; returns when events are being recorded.

        Raises
        ------
        WorkbenchError
            Whatever keeps a collector from attaching. Nothing stays attached, and no folder is left.
        """
        if self._phase != "new":
            raise BadSpec("this recorder was started already", "make a new one")
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (hard, hard)
            )  # one descriptor per thread and probe
        target = self._resolve()
        attached: list[Collector] = []
        writer: RecordingWriter | None = None
        try:
            writer = RecordingWriter(
                self._output,
                command=self._command,
                pid=target.pid,
                collectors=self._collector_infos(),
                options={
                    "seconds": self._seconds,
                    "follow": self._follow,
                    "machine": target.machine,
                },
                frames=sorted({frame for one in self.collectors for frame in one.frames}),
                overwrite=self._overwrite,
            )
            self._writer = writer
            wants_data = any(getattr(one, "data_mappings", False) for one in self.collectors)
            self._processes = Processes(target, writer, data=wants_data)
            self._processes.start()
            for one in self.collectors:
                attached.append(one)
                one.attach(target, writer)
            self._note()
            self._prepare_unwinder(target)
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._exit = self._open_exit(target)
            self._begin = time.monotonic()
            self._phase = "recording"
            if self._command_process is not None:
                self._command_process.release()
        except BaseException:
            self._undo(attached[:-1], writer)
            raise
        self._thread = threading.Thread(target=self._run, name="workbench-recorder", daemon=True)
        self._thread.start()
        return self

    def _collector_infos(self) -> list[CollectorInfo]:
        infos = []
        for spec, one in zip(self._specs, self.collectors, strict=True):
            text = str(spec) if isinstance(spec, Spec) else one.name
            options = {"spec": text} | (dict(spec.options) if isinstance(spec, Spec) else {})
            infos.append(CollectorInfo(one.name, options))
        return infos

    def _resolve(self) -> Target:
        if self._command:
            variables = dict(os.environ if self._child_options["env"] is None else self._child_options["env"])
            for one in self.collectors:
                prepare = getattr(one, "prepare_environment", None)
                if prepare is not None:
                    prepare(variables)
            self._command_process = HeldCommand(
                self._command, **(self._child_options | {"env": variables})
            )
            target = self._command_process.target
            target.follow = self._follow
            return target
        return (
            machine_target() if self._pid is None else attach_target(self._pid, follow=self._follow)
        )

    def _note(self) -> None:
        for one in self.collectors:
            notes = getattr(one, "notes", None)
            if notes is not None:
                self._writer.note(**notes())

    @staticmethod
    def _prepare_unwinder(target: Target) -> None:
        """Load unwind tables before the command runs, so that the first samples need not wait for them."""
        if target.unwinding:
            for pid in sorted(target.pids):
                with contextlib.suppress(WorkbenchError, OSError):
                    target.unwinder().prepare(pid)

    def _open_exit(self, target: Target) -> int:
        if target.pid is None:
            return -1
        try:
            return os.pidfd_open(target.pid)
        except ProcessLookupError:
            return -1

    def _undo(self, attached: list[Collector], writer: RecordingWriter | None) -> None:
        """Start failed: leave nothing behind."""
        for one in reversed(attached):
            with contextlib.suppress(WorkbenchError, OSError):
                one.detach()
                one.finish()
        if hasattr(self, "_processes"):
            with contextlib.suppress(WorkbenchError, OSError):
                self._processes.finish()
        if writer is not None:
            writer.discard()
        if self._command_process is not None:
            self._command_process.kill()
        self._phase = "done"
        self._close_fds()

    def _close_fds(self) -> None:
        for fd in (self._wake_read, self._wake_write, getattr(self, "_exit", -1)):
            if fd >= 0:
                os.close(fd)
        self._wake_read = self._wake_write = self._exit = -1

    def _run(self) -> None:
        try:
            self._loop()
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
            self._finish()
        except BaseException as error:  # kept for result(): this thread has nobody to raise to
            self._error = self._error or error
        finally:
            self._phase = "done"
            self._close_fds()
            self._done.set()

    def _loop(self) -> None:
        poll = select.poll()
        for fd in (
            self._wake_read,
            self._exit,
            *(fd for one in self.collectors for fd in one.wake_fds()),
        ):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        flushed = time.monotonic()
        while True:
            left = self.state().remaining
            wait = DRAIN_SECONDS if left is None else min(DRAIN_SECONDS, max(left, 0.0))
            ready = {fd for fd, _ in poll.poll(wait * 1000)}
            self._drain()
            now = time.monotonic()
            if now - flushed >= FLUSH_SECONDS:
                self._writer.flush()
                flushed = now
            if self._writer.failure is not None:
                raise self._writer.failure
            if self._wake_read in ready:
                return
            if self._exit in ready:
                self._reason = "the target exited"
                return
            if left is not None and left <= 0:
                return

    def _drain(self) -> None:
        for pid in self._processes.drain():
            for one in self.collectors:
                with contextlib.suppress(
                    WorkbenchError
                ):  # it exited already, or its library is not mapped yet
                    one.attach_process(pid)
        self._tell_mapped()
        for one in self.collectors:
            one.drain()

    def _tell_mapped(self) -> None:
        """Collectors with a method `mapped(pid, path)` hear of files that a process in scope has mapped."""
        if not self._processes.mapped:
            return
        for one in self.collectors:
            mapped = getattr(one, "mapped", None)
            if mapped is None:
                continue
            for pid, path in self._processes.mapped:
                with contextlib.suppress(WorkbenchError):  # it exited already
                    mapped(pid, path)

    def _finish(self) -> None:
        self._end = time.monotonic()
        self._phase = "finishing"
        errors: list[BaseException] = []
        for step in ("detach", "drain", "finish"):
            if step == "drain":
                with contextlib.suppress(WorkbenchError):
                    self._processes.drain()
            for one in self.collectors:
                try:
                    getattr(one, step)()
                except (
                    Exception
                ) as error:  # one collector's failure must not cost the data of the others
                    errors.append(error)
        with contextlib.suppress(WorkbenchError, OSError):
            self._processes.finish()
        self._keep_perf_maps()
        if errors and self._error is None:
            self._error, self._status = errors[0], "interrupted"
            self._reason = f"{type(errors[0]).__name__}: {errors[0]}".splitlines()[0]
        if self._command_process is not None:
            self._collect_command()
        self._note()
        self._writer.note(exit_status=self.exit_status, ended_by=self._reason or "stopped")
        reason = self._reason if self._status != "complete" else ""
        self._recording = self._writer.finish(self._status, reason, progress=self._on_progress)

    def _collect_command(self) -> None:
        assert self._command_process is not None
        if self._reason == "the target exited":
            self.exit_status = self._command_process.wait()
        else:
            # `seconds` or Stop came first: the command is ours, and it ends with the recording.
            self._command_process.process.terminate()
            try:
                self.exit_status = self._command_process.wait(5)
            except Exception:
                self._command_process.kill()
                self.exit_status = self._command_process.process.returncode

    def _keep_perf_maps(self) -> None:
        for pid in sorted(self._processes.seen):
            for place in (f"/proc/{pid}/root/tmp/perf-{pid}.map", f"/tmp/perf-{pid}.map"):
                try:
                    data = Path(place).read_bytes()
                except OSError:
                    continue
                with contextlib.suppress(WorkbenchError):
                    self._writer.attach_file(f"perf-{pid}.map", data)
                break

    def _on_progress(self, fraction: float, _what: str) -> None:
        self._progress = fraction

    # -- control ----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Live numbers; cheap, from any thread."""
        now = self._end or time.monotonic()
        elapsed = now - self._begin if self._begin else 0.0
        remaining = None if self._seconds is None else self._seconds - elapsed
        collectors = tuple(
            CollectorState(one.name, one.counters.events, one.counters.lost)
            for one in self.collectors
        )
        return State(self._phase, elapsed, remaining, self._progress, collectors)

    def stop(self, *, interrupted: bool = False, reason: str = "") -> None:
        """Ask the recording to end; returns at once. From any thread, any number of times."""
        if self._phase != "recording":
            return
        if interrupted:
            self._status = "interrupted"
        self._reason = reason or ("interrupted by the user" if interrupted else "stopped")
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def wait(
        self, timeout: float | None = None, on_tick: Callable[[State], None] | None = None
    ) -> bool:
        """Wait for the end; True when it came. `on_tick` is called ten times a second meanwhile."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._done.wait(DRAIN_SECONDS):
            if on_tick is not None:
                on_tick(self.state())
            if end is not None and time.monotonic() >= end:
                return False
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
