"""Run a causal profile in a guest of the lab, where the host's kernel has no sched_ext."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import BadSpec, RunFailed
from workbench.frames.recording import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workbench.frames.recording import Recording

__all__ = ("profile_in_guest",)

_VOID = 1
_NAME = "causal"


def profile_in_guest(
    options: Sequence[str],
    command: Sequence[str],
    output: str | Path,
    *,
    mode: str = "deterministic",
    files: Sequence[str] = (),
    limit: float = 600.0,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Recording:
    """Boot a guest, run ``workbench causal run`` in it, bring the recording out.

    Parameters
    ----------
    options : sequence of str
        Of ``workbench causal run``.
    command : sequence of str
        If its program is given by a path, it is copied to the same path of the guest; else the guest's own is run.
    output : path
        Folder of the recording.
    mode : str
        See `workbench.lab.vm.lab`.
    files : sequence of str
        Files and folders that are copied to the same paths.
    limit : float
        Seconds of wall time for the run in the guest.
    overwrite : bool
        Replace a recording at `output`.
    say : callable, optional
        Called with a line of text when there is something to tell.

    Raises
    ------
    RunFailed
        The run in the guest failed; the message has its last words.
    MissingCapability
        No guest can boot: `workbench lab prepare` was not run.
    """
    from workbench.lab.vm import OUT, lab

    place = Path(output).absolute()
    if place.exists() and not overwrite:
        raise BadSpec(f"{place} exists", "choose another folder, or add --overwrite")
    tell = say or (lambda text: None)
    words = list(command)
    brought = [Path(one).absolute() for one in files]
    if os.sep in words[0]:
        program = Path(words[0]).absolute()
        words[0] = str(program)
        brought.append(program)
    for one in brought:
        if not one.exists():
            raise BadSpec(f"there is no {one}", "name a file or a folder of this machine")

    def show(stream: int, data: bytes) -> None:
        if stream == 2:
            for line in data.decode(errors="replace").splitlines():
                if line.startswith("causal: "):
                    tell(line.removeprefix("causal: "))

    tell("booting a guest")
    with lab(mode, progress=tell) as vm, tempfile.TemporaryDirectory() as folder:
        for one in brought:
            vm.copy_in(one, str(one))
        result = vm.run(
            ["workbench", "causal", "run", *options, "-o", f"{OUT}/{_NAME}", "--", *words],
            limit=limit,
            output=folder,
            show=show,
        )
        made = Path(folder) / _NAME
        if not made.exists():
            how = "took too long (--limit)" if result.timed_out else f"failed ({result.status})"
            last = result.stderr.decode(errors="replace").strip().splitlines()[-3:]
            raise RunFailed(
                f"the run in the guest {how}: {' '.join(last)}".strip(),
                "`workbench lab shell` lets you look around in such a guest",
            )
        if overwrite and place.exists():
            load(place)  # only a recording is ever replaced
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, place)
    return load(place)
