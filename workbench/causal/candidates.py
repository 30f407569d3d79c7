"""Choose regions by sampling: the functions in which a target spends its time, as often as it is found in them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.causal.regions import Region
from workbench.collectors.api import record
from workbench.errors import RunFailed, TargetGone

if TYPE_CHECKING:
    from workbench.frames.recording import Recording

__all__ = ("MOST", "candidates", "rank")

MOST = 8
"""Regions that are chosen at most."""
_RATE = 999


def candidates(pid: int, seconds: float = 1.0, most: int = MOST) -> dict[Region, int]:
    """Functions of a process and what it forks, and how many samples were in each.

    Parameters
    ----------
    pid : int
    seconds : float
        How long to sample.
    most : int
        Functions to choose.

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
        found = rank(recorder.run(), most, program)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not found:
        raise RunFailed(
            f"in {seconds:g} s no sample of process {pid} was in a function with a name",
            "is it at work? else name what to speed up: --region FUNCTION",
        )
    return found


def rank(recording: Recording, most: int = MOST, program: str = "") -> dict[Region, int]:
    """The functions outside the kernel in which most CPU samples of a recording were, and how many; most first.

    Those of the file `program` go by their name alone, others by file and name.
    """
    stacks = recording.frame("stacks")
    leaves = stacks[(stacks["depth"] == 0) & (stacks["space"].astype(str) == "user")]
    samples = recording.frame("samples").merge(leaves, on="stack", suffixes=("", "_of_stack"))
    modules, functions = samples["module"].astype(str), samples["function_of_stack"].astype(str)
    named = functions.ne("") & modules.str.startswith("/") & ~functions.str.startswith("0x")
    files = modules.where(modules != program, "").str.rsplit("/", n=1).str[-1]
    specs = (files + ":" + functions).str.removeprefix(":")
    counts = specs[named].value_counts()
    return {Region(str(name)): int(count) for name, count in counts.head(most).items()}
