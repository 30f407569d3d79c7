"""Reproduce a paper: re-execute its notebooks from their recordings and judge every number that it quotes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from workbench.runs.claims import Verdict, shown
from workbench.runs.experiment import load_paper
from workbench.runs.result import RunResult
from workbench.runs.run import output_directory, tasks_of
from workbench.runs.sweep import Say, Task, execute, say_on_stderr

__all__ = ("reproduce", "table")


def reproduce(
    paper: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    workers: int | None = None,
    say: Say = say_on_stderr,
) -> RunResult:
    """Execute every notebook of a paper from its recordings; needs no privilege and no BPF.

    Parameters
    ----------
    paper : path
        The paper's YAML file, or that of a single experiment.
    output : path, optional
        Folder for the executed notebooks; default ``out/reproduced``, or a temporary folder.
    resume : bool
        Keep what an earlier call into the same folder completed, if nothing it depends on changed.
    workers : int, optional
        Notebooks to run at a time; default: the number of CPUs.
    say : callable
        Receives lines of progress; default: standard error.

    Returns
    -------
    RunResult
        ``ok`` is true if every notebook completed and every claim holds.

    Raises
    ------
    BadSpec
        A file of the paper is wrong or a recording is missing.
    Interrupted
        SIGINT or SIGTERM.
    """
    whole = load_paper(Path(paper))
    tasks: list[Task] = []
    folder = output_directory(output, "reproduced", say)
    for one in whole.experiments:
        tasks.extend(tasks_of(one, "replay", folder / one.name, say))
    return execute(whole.title, folder, tasks, force=not resume, workers=workers, say=say)


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as text: experiment, claim, expected, got, tolerance, ok."""
    rows = [("experiment", "claim", "expected", "got", "tolerance", "ok")]
    for one in verdicts:
        unit = f" {one.claim.unit}" if one.claim.unit else ""
        got = "missing" if one.got is None else shown(one.got) + unit
        where = f"{one.experiment} {one.point}".rstrip()
        rows.append((where, one.claim.name, one.claim.wanted + unit, got, one.claim.allowed, "ok" if one.ok else "NO"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(text.rstrip() for text in lines)
