"""Execute many runs on a pool: cached ones at once, live ones one after the other, the rest side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from workbench.errors import MissingCapability, RunFailed
from workbench.runs.cache import Keys, versions
from workbench.runs.claims import Value, check, claimed
from workbench.runs.experiment import Experiment, Point
from workbench.runs.locks import Cancelled, exclusive_folder, measurement
from workbench.runs.outputs import OutputFiles, read_manifest, settle, write_manifest
from workbench.runs.parameters import notebook_parameters, read_notebook
from workbench.runs.pool import Job, Outcome, WorkerPool
from workbench.runs.progress import CellProgress, duration_text, line
from workbench.runs.result import Interrupted, PointResult, RunResult
from workbench.runs.source import OUTPUT_VARIABLE, SOURCE_VARIABLE

__all__ = ("Task", "execute", "say_on_stderr")

_PACKAGES = ("papermill", "ipykernel", "nbconvert")
_SIGNAL_POLL = 0.1  # seconds between looks for a signal while notebooks run
_QUIET_SWEEP = 10.0  # seconds into a run of a sweep before its cells are reported one by one

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One run to do."""

    experiment: Experiment
    point: Point
    source: str
    folder: Path

    @property
    def title(self) -> str:
        """Experiment and point, for messages."""
        return f"{self.experiment.name} {self.point.name}".rstrip()

    @property
    def files(self) -> OutputFiles:
        """Where its outputs go."""
        return OutputFiles(self.folder, self.experiment.notebook.stem)


def say_on_stderr(text: str) -> None:
    """Print a line of progress where it does not disturb a table or JSON."""
    print(text, file=sys.stderr, flush=True)


def execute(
    title: str, folder: Path, tasks: Sequence[Task], *, force: bool, workers: int | None, say: Say
) -> RunResult:
    """Execute `tasks`; one that fails does not stop the others.

    Raises
    ------
    MissingCapability
        The packages that execute notebooks are not installed.
    RunFailed
        Another run writes into `folder`, or it cannot be written.
    Interrupted
        SIGINT or SIGTERM (in the main thread): running notebooks were interrupted, saved and their kernels ended.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise MissingCapability(
            f"notebooks cannot be executed: {', '.join(missing)} not installed",
            "pip install 'bpf-workbench[notebook]'",
        )
    sweep = _Sweep(tasks, force, workers, say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_folder(folder):
            exit_status = sweep.run()
    except OSError as error:
        raise RunFailed(
            f"cannot write the outputs into {folder}: {error.strerror}",
            "choose another folder with -o; what was finished is kept",
        ) from error
    result = RunResult(title, folder, sweep.results())
    if exit_status:
        raise Interrupted(result, exit_status)
    return result


class _Sweep:
    def __init__(self, tasks: Sequence[Task], force: bool, workers: int | None, say: Say) -> None:
        self._tasks = tasks
        self._force = force
        if workers is None:
            workers = os.cpu_count() or 1
        if all(task.source == "live" for task in tasks):
            workers = 1
        self._workers = max(1, min(workers, len(tasks)))
        self._say = say
        self._pool = WorkerPool()
        self._cancelled = threading.Event()
        self._reporting = threading.Lock()
        self._results: dict[int, PointResult] = {}
        self._began = monotonic()
        self._executed = 0
        self._seconds = 0.0
        self._provenance: dict[str, Any] = {}

    def results(self) -> tuple[PointResult, ...]:
        return tuple(
            self._results.get(index) or _result(task, Outcome("interrupted", "not started"))
            for index, task in enumerate(self._tasks)
        )

    def run(self) -> int:
        """Run everything; 0, or the exit status of the signal that ended it."""
        keys = Keys()
        due = [(index, task, key) for index, task in enumerate(self._tasks) if (key := self._due(index, task, keys))]
        if cached := len(self._results):
            self._say(f"{cached} of {len(self._tasks)} taken from the cache")
        if not due:
            return 0
        self._provenance = _provenance()
        stops = 0
        with _signals() as seen, ThreadPoolExecutor(self._workers, "sweep") as executor:
            waiting = {executor.submit(self._one, *job) for job in due}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=_SIGNAL_POLL, return_when=FIRST_COMPLETED)
                    for future in done:
                        if not future.cancelled():
                            future.result()
                    if len(seen) > stops:
                        self._stop(again=stops > 0, waiting=waiting)
                        stops = len(seen)
            except BaseException:
                self._cancelled.set()
                self._pool.kill()
                raise
            finally:
                for future in waiting:
                    future.cancel()
                executor.shutdown()
                self._pool.close()
        # A signal that came when everything was done interrupts nothing.
        undone = len(self._results) < len(self._tasks)
        interrupted = undone or any(result.status == "interrupted" for result in self._results.values())
        return 128 + seen[0] if seen and interrupted else 0

    def _stop(self, *, again: bool, waiting: set[Future[None]]) -> None:
        self._cancelled.set()
        for future in waiting:
            future.cancel()
        if again:
            self._pool.kill()
        else:
            self._say("stopping: interrupting the notebooks that run (once more kills them)")
            self._pool.stop()

    def _due(self, index: int, task: Task, keys: Keys) -> str:
        """The key of a task that has to run; empty if its result is in the folder already."""
        one = task.experiment
        key = keys.key(one.notebook, task.point.parameters, one.recordings, task.source)
        manifest = read_manifest(task.files.manifest)
        if (
            self._force
            or manifest.get("key") != key
            or manifest.get("status") != "completed"
            or manifest.get("notebook_digest") != task.files.digest()
        ):
            return key
        found = claimed(read_notebook(task.files.notebook))
        outcome = Outcome("completed")
        self._results[index] = _result(task, outcome, found, cached=True, seconds=manifest.get("seconds", 0.0))
        return ""

    def _one(self, index: int, task: Task, key: str) -> None:
        turn: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if task.source == "live":
            turn = measurement(self._cancelled, self._say)
        try:
            with turn:
                self._results[index] = self._execute(task, key)
        except Cancelled:
            return
        with self._reporting:
            self._executed += 1
            self._seconds += self._results[index].seconds
            self._report(self._results[index])

    def _execute(self, task: Task, key: str) -> PointResult:
        from workbench.frames.provenance import clock

        files, one = task.files, task.experiment
        files.folder.mkdir(parents=True, exist_ok=True)
        files.clear()
        parameters = {**task.point.parameters, **{name: str(path) for name, path in one.recordings.items()}}
        if "source" in (notebook_parameters(one.notebook) or ()):
            parameters["source"] = task.source
        manifest = {
            "experiment": one.name,
            "title": one.title,
            "point": task.point.name,
            "notebook": str(one.notebook),
            "parameters": parameters,
            "source": task.source,
            "key": key,
            "git": _git(one.notebook.parent, self._began),
            **self._provenance,
            "start": dataclasses.asdict(clock()),
        }
        write_manifest(files.manifest, {**manifest, "status": "running", "pid": os.getpid()})
        began = monotonic()
        job = Job(
            notebook=str(one.notebook),
            part=str(files.part),
            html=str(files.html_part),
            log=str(files.log),
            parameters=parameters,
            environment={SOURCE_VARIABLE: task.source, OUTPUT_VARIABLE: str(files.folder)},
            timeout=one.timeout,
        )
        outcome = self._pool.run(job, lambda event: self._cell(task, event))
        if outcome.status != "completed" and files.part.exists():
            settle(files.part, outcome.error)
        files.publish()
        found: dict[str, Value] = {}
        if outcome.status == "completed":
            try:
                found = claimed(read_notebook(files.notebook))
            except RunFailed as error:
                outcome = Outcome("failed", error.message)
        seconds = monotonic() - began
        write_manifest(
            files.manifest,
            {
                **manifest,
                "end": dataclasses.asdict(clock()),
                "seconds": seconds,
                "status": outcome.status,
                "error": outcome.error,
                "claims": {name: repr(value) if value != value else value for name, value in found.items()},
                "notebook_digest": files.digest(),
            },
        )
        return _result(task, outcome, found, seconds=seconds)

    def _cell(self, task: Task, event: CellProgress) -> None:
        if event.status != "running" and (len(self._tasks) == 1 or event.elapsed > _QUIET_SWEEP):
            self._say(line(event) if len(self._tasks) == 1 else f"{task.title}: {line(event)}")

    def _report(self, result: PointResult) -> None:
        done, total = len(self._results), len(self._tasks)
        text = f"{result.title}: {result.status} in {duration_text(result.seconds)}"
        if result.error:
            text += f" ({result.error})"
        if total > 1:
            elapsed = monotonic() - self._began
            text = f"[{done}/{total}] {text}; {duration_text(elapsed)} elapsed"
            if total > done and not self._cancelled.is_set():
                rounds = -(-(total - done) // self._workers)
                text += f", about {duration_text(self._seconds / self._executed * rounds)} left"
        self._say(text)


def _result(
    task: Task,
    outcome: Outcome,
    found: dict[str, Value] | None = None,
    *,
    cached: bool = False,
    seconds: float = 0.0,
) -> PointResult:
    one, files = task.experiment, task.files
    verdicts = check(
        one.claims, found or {}, experiment=one.name, point=task.point.name, parameters=task.point.parameters
    )
    if outcome.status != "completed":
        note = f"the notebook {'was ' if outcome.status == 'interrupted' else ''}{outcome.status}"
        verdicts = [dataclasses.replace(verdict, note=note) for verdict in verdicts]
    return PointResult(
        experiment=one.name,
        point=task.point.name,
        parameters=task.point.parameters,
        source=task.source,
        status=outcome.status,
        cached=cached,
        error=outcome.error,
        seconds=seconds,
        folder=files.folder,
        notebook=files.notebook,
        html=files.html,
        log=files.log,
        claims=found or {},
        verdicts=tuple(verdicts),
    )


def _provenance() -> dict[str, Any]:
    from workbench.frames.provenance import host

    return {
        "host": dataclasses.asdict(host()),
        "versions": versions(),
        "command": list(sys.orig_argv),
        "directory": str(Path.cwd()),
    }


@functools.cache
def _git(folder: Path, moment: float) -> dict[str, Any] | None:
    """State of the repository of a notebook, once per sweep (`moment`)."""
    from workbench.frames.provenance import git

    state = git(folder)
    return {"commit": state.commit, "dirty": state.dirty} if state else None


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM are noted, not raised; yields the list of those seen."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: seen.append(number)) for number in numbers]
    try:
        yield seen
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
