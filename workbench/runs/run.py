"""Run an experiment: `workbench run` from Python."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability
from workbench.runs.experiment import Experiment, load_experiment
from workbench.runs.result import RunResult
from workbench.runs.source import SOURCES, shortfall
from workbench.runs.sweep import Say, Task, execute, say_on_stderr

__all__ = ("run",)


def run(
    experiment: Experiment | str | os.PathLike[str],
    source: str = "auto",
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    workers: int | None = None,
    say: Say = say_on_stderr,
) -> RunResult:
    """Execute an experiment's notebook, once per combination of its grid.

    A run whose notebook, parameters, recordings, packages and (live) machine have not changed since it completed is
    taken from the output folder; so a second call goes on where an interrupted one ended.

    Parameters
    ----------
    experiment : Experiment or path
        The experiment or its YAML file.
    source : str
        ``live``, ``replay`` or ``auto``: live if the experiment lists what it `needs` and this machine has all of it.
    output : path, optional
        Folder for the outputs, one subfolder per experiment; default ``out/runs``, or a temporary folder where the
        current directory cannot be written.
    force : bool
        Execute also what is in the cache.
    workers : int, optional
        Notebooks to run at a time; default: the number of CPUs. Live runs never overlap, on the whole machine.
    say : callable
        Receives lines of progress; default: standard error.

    Raises
    ------
    BadSpec
        The experiment file, the source or a recording to replay is wrong.
    MissingCapability
        A live run was asked for and this machine lacks what the experiment needs.
    RunFailed
        The output folder is in use or cannot be written. (A notebook that fails is a result, not an error.)
    Interrupted
        SIGINT or SIGTERM.
    """
    one = experiment if isinstance(experiment, Experiment) else load_experiment(Path(experiment))
    folder = output_directory(output, "runs", say) / one.name
    return execute(one.title, folder, tasks_of(one, source, folder, say), force=force, workers=workers, say=say)


def tasks_of(one: Experiment, source: str, folder: Path, say: Say) -> Sequence[Task]:
    """The runs of an experiment, in `folder`."""
    chosen = _choose(one, source, say)
    if chosen == "replay":
        for name, path in one.recordings.items():
            if not path.exists():
                raise BadSpec(
                    f"{one.file}: recordings.{name}: there is no recording {path}",
                    f"record it live first: workbench run {one.file} --live, or copy it there",
                )
    return [Task(one, point, chosen, folder / point.name) for point in one.points()]


def output_directory(output: str | os.PathLike[str] | None, default: str, say: Say) -> Path:
    """The folder for outputs: the one asked for, else ``out/DEFAULT``, else a temporary one."""
    folder = Path(output) if output is not None else Path("out") / default
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if output is not None:
            raise BadSpec(f"cannot write into {folder}: {error.strerror}", "choose another folder with -o") from None
        folder = Path(tempfile.mkdtemp(prefix=f"workbench-{default}-"))
        say(f"the current directory cannot be written; outputs go to {folder}")
    return folder.resolve()


def _choose(one: Experiment, source: str, say: Say) -> str:
    if source not in SOURCES:
        raise BadSpec(f"source is {source!r}", f"it is one of {', '.join(SOURCES)}")
    if source == "live" and (why := shortfall(one.needs)):
        raise MissingCapability(
            f"{one.name} cannot be recorded live on this machine: {why}",
            "`workbench doctor` tells what to do about it; --replay uses the experiment's recordings",
        )
    if source != "auto":
        return source
    if not one.needs:
        return "replay"
    if why := shortfall(one.needs):
        say(f"{one.name}: replaying its recordings, this machine cannot record it live ({why})")
        return "replay"
    return "live"
