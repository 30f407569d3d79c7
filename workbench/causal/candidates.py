"""Choose regions by sampling: the functions in which a target spends its time, as often as it is found in them."""

from __future__ import annotations

import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.causal.regions import Region
from workbench.collectors.api import record
from workbench.errors import RunFailed, TargetGone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.frames.recording import Recording

__all__ = ("MOST", "candidates", "rank")

MOST = 8
"""Regions that are chosen at most."""
_RATE = 999


def candidates(
    pid: int, seconds: float = 1.0, most: int = MOST, *, within: Sequence[str] | None = None
) -> dict[Region, int]:
    """Functions of a process and what it forks, and how many samples were in each.

    Parameters
    ----------
    pid : int
    seconds : float
        How long to sample.
    most : int
        Functions to choose.
    within : sequence of str, optional
        Only functions of these files (patterns of names or paths; none: the program itself) are chosen, and a sample is
        counted for the innermost of its frames there, as Coz walks to the innermost line in scope. Without it, for the
        function that it was taken in.

    Raises
    ------
    RunFailed
        No sample was in a function with a name.
    """
    try:
        program = str(Path(f"/proc/{pid}/exe").readlink())
    except OSError as error:
        raise TargetGone(f"process {pid} has ended", "it has to run while it is sampled") from error
    folder = Path(tempfile.mkdtemp(prefix="workbench-causal-"))
    try:
        recorder = record(f"cpu:{_RATE}", pid=pid, seconds=seconds, output=folder / "samples")
        found = rank(recorder.run(), most, program, within=within)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not found:
        raise RunFailed(
            f"in {seconds:g} s no sample of process {pid} was in a function with a name",
            "is it at work? else name what to speed up: --region FUNCTION",
        )
    return found


def rank(
    recording: Recording,
    most: int = MOST,
    program: str = "",
    *,
    within: Sequence[str] | None = None,
) -> dict[Region, int]:
    """The functions outside the kernel in which most CPU samples of a recording were, and how many; most first.

    Those of the file `program` go by their name alone, others by file and name.
    """
    stacks = recording.frame("stacks")
    of_user = stacks[stacks["space"].astype(str) == "user"]
    if within is None:
        leaves = of_user[of_user["depth"] == 0]
    else:
        modules = of_user["module"].astype(str)
        if within:
            files = modules.str.rsplit("/", n=1).str[-1]
            inside = [
                any(fnmatch(path, one) or fnmatch(file, one) for one in within)
                for path, file in zip(modules, files, strict=True)
            ]
        else:
            inside = (modules == program).tolist()
        leaves = of_user[inside].sort_values("depth").drop_duplicates("stack")
    samples = recording.frame("samples").merge(leaves, on="stack", suffixes=("", "_of_stack"))
    modules, functions = samples["module"].astype(str), samples["function_of_stack"].astype(str)
    named = functions.ne("") & modules.str.startswith("/") & ~functions.str.startswith("0x")
    files = modules.where(modules != program, "").str.rsplit("/", n=1).str[-1]
    specs = (files + ":" + functions).str.removeprefix(":")
    counts = specs[named].value_counts()
    return {Region(str(name)): int(count) for name, count in counts.head(most).items()}
