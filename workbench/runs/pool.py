"""The parent's side of `workbench.runs.worker`: start, feed, interrupt and bury worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.runs.progress import CellProgress, ProgressCallback

__all__ = ("Job", "Outcome", "WorkerPool")


@dataclass(frozen=True, slots=True)
class Job:
    """One notebook to execute; all paths absolute, all parameters plain."""

    notebook: str
    part: str
    html: str
    log: str
    parameters: Mapping[str, Any]
    environment: Mapping[str, str]
    timeout: float | None
    grace: float = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: ``completed``, ``failed`` or ``interrupted``, and one line of why."""

    status: str
    error: str = ""


class _Worker:
    """One worker process; used by one thread at a time."""

    def __init__(self, log: str) -> None:
        read, write = os.pipe()
        # stdout and stderr go to the first job's log until the worker redirects them itself.
        with Path(log).open("ab") as stream:
            self.process = subprocess.Popen(
                # -P: modules in the current directory must not shadow what the worker imports.
                [sys.executable, "-P", "-m", "workbench.runs.worker", str(write)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                pass_fds=(write,),
                # Ctrl-C in a terminal goes to the parent alone, which then stops its workers in good order.
                process_group=0,
            )
        os.close(write)
        self._events = os.fdopen(read, "rb")

    def run(self, job: Job, progress: ProgressCallback) -> Outcome:
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            return self._buried()
        for text in self._events:
            event = json.loads(text)
            kind = event.pop("event")
            if kind == "end":
                return Outcome(**event)
            progress(CellProgress(**event))
        return self._buried()

    def _buried(self) -> Outcome:
        status = self.process.wait()
        if status < 0:
            return Outcome("failed", f"the process that ran the notebook was killed by {signal.Signals(-status).name}")
        return Outcome("failed", f"the process that ran the notebook ended with status {status}; see the log")

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self._events.close()


class WorkerPool:
    """Worker processes that are started when needed and used again.

    Not `concurrent.futures.ProcessPoolExecutor`: there one killed process fails all jobs, and its workers cannot be
    interrupted. Here a job's process can die alone, and no code of the caller's main module is run again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._stopped = False

    def run(self, job: Job, progress: ProgressCallback) -> Outcome:
        """Execute a job on a worker of its own; blocks."""
        with self._lock:
            if self._stopped:
                return Outcome("interrupted", "interrupted before it started")
            worker = self._idle.pop() if self._idle else _Worker(job.log)
            self._busy.add(worker)
        outcome = worker.run(job, progress)
        with self._lock:
            self._busy.discard(worker)
            alive = worker.process.poll() is None and outcome.status != "interrupted"
            if alive:
                self._idle.append(worker)
        if not alive:
            worker.close()
        if self._stopped and outcome.status == "failed":
            return Outcome("interrupted", outcome.error)
        return outcome

    def stop(self) -> None:
        """Interrupt what runs and start nothing more; returns at once."""
        with self._lock:
            self._stopped = True
            self._each_busy(lambda process: process.send_signal(signal.SIGINT))

    def kill(self) -> None:
        """Kill what still runs; kernels die with their workers."""
        with self._lock:
            self._stopped = True
            self._each_busy(lambda process: process.kill())

    def close(self) -> None:
        """End idle workers; call it when no job runs."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _each_busy(self, act: Callable[[subprocess.Popen[bytes]], None]) -> None:
        for worker in self._busy:
            with contextlib.suppress(ProcessLookupError):
                act(worker.process)
