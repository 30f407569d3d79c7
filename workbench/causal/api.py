"""`wb.causal(...)`: a causal profile from Python, with the options of `workbench causal`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.causal.backend import choose, defaults
from workbench.causal.checks import ALL, NONE
from workbench.causal.guest import profile_in_guest
from workbench.causal.plan import SETTLE, Plan
from workbench.causal.regions import Region
from workbench.causal.session import profile
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workbench.frames.recording import Recording

__all__ = ("causal",)

_VIEW = "workbench.notebook.causal_view"  # by name: this room knows nothing of notebooks


def causal(
    progress: str | Sequence[str] = (),
    regions: str | Sequence[str] = (),
    *,
    command: Sequence[str] = (),
    pid: int | None = None,
    latency: str | Sequence[str] = (),
    callers: int = 0,
    within: str | Sequence[str] = (),
    scope: str = "pid",
    backend: str = "auto",
    speedups: Sequence[float] = (),
    seconds: float = 0.0,
    rounds: int = 0,
    shortest: float = 0.5,
    settle: float = SETTLE,
    seed: int = 1,
    tolerance: float = 3.0,
    sample_period: float | None = None,
    min_debt: float | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    lab: bool = False,
    mode: str = "deterministic",
    files: Sequence[str] = (),
    limit: float = 600.0,
    checks: bool = True,
    quiet: bool = False,
) -> Recording:
    """What a program would gain if parts of it were faster; a notebook shows curves and time to go meanwhile.

    Parameters
    ----------
    progress, regions, latency, within : str or sequence of str
        As `-p`, `-r`, `--latency` and `--within` of `workbench causal`.
    command : sequence of str
        A command to start, which is ended when the plan is done; or
    pid : int, optional
        a process, which goes on afterwards.
    callers : int
        Callers that are looked at for the innermost code in scope.
    scope, backend : str
        See `workbench.causal.session.profile`.
    speedups : sequence of float
        Fractions, in turn; none: drawn as Coz does.
    seconds, rounds, shortest, settle, seed
        See `workbench.causal.plan.Plan`.
    tolerance : float
        Per cent; see `workbench.causal.analysis.gate`.
    sample_period, min_debt : float, optional
        Microseconds.
    output : path, optional
        Folder of the recording; by default one in a new temporary folder.
    overwrite : bool
        Replace an earlier recording.
    lab : bool
        In a guest; `mode`, `files` and `limit` are those of `workbench.causal.guest.profile_in_guest`.
    checks : bool
        See `workbench.causal.checks`.
    quiet : bool
        Show nothing meanwhile.

    Returns
    -------
    Recording

    Raises
    ------
    BadSpec, UnknownSymbol, MissingCapability, NotPermitted, RunFailed
        As `workbench causal` says it.
    """
    lists = [
        [one] if isinstance(one, str) else list(one) for one in (progress, regions, latency, within)
    ]
    place = output if output is not None else f"{tempfile.mkdtemp(prefix='workbench-')}/causal"
    if lists[3] and not callers:
        raise BadSpec("within is about callers", "callers=16, say")
    show = not quiet and "IPython" in sys.modules
    view: Any = import_module(_VIEW).CausalView() if show else None
    if lab:
        if pid is not None:
            raise BadSpec(
                "a process of this machine is not in a guest", "give a command with lab=True"
            )
        words = [
            word
            for option, values in zip(("-p", "-r", "--latency", "--within"), lists, strict=True)
            for value in values
            for word in (option, value)
        ]
        words += ["--scope", scope, "--backend", backend, "--callers", str(callers)]
        words += [
            word
            for option, value in (
                ("--seconds", seconds), ("--rounds", rounds), ("--shortest", shortest), ("--settle", settle),
                ("--seed", seed),
                ("--tolerance", tolerance), ("--sample-period", sample_period), ("--min-debt", min_debt),
                ("--speedups", ",".join(map(str, speedups)) or None),
            )
            if value is not None
            for word in (option, str(value))
        ]  # fmt: skip
        words += [] if checks else ["--no-checks"]
        made = profile_in_guest(
            words, list(command), place, mode=mode, files=files, limit=limit, overwrite=overwrite,
            say=view.say if view else None,
        )  # fmt: skip
    else:
        known = defaults(choose(backend, scope))
        if sample_period is not None:
            known = replace(known, period=round(1000 * sample_period))
        if min_debt is not None:
            known = replace(known, min_debt=round(1000 * min_debt))
        made = profile(
            lists[0], lists[1], command=command, pid=pid, latency=lists[2], within=lists[3], scope=scope,
            backend=backend, checks=ALL if checks else NONE,
            output=place, parameters=replace(known, frames=callers), tolerance=tolerance, overwrite=overwrite,
            plan=Plan(
                tuple(map(Region, lists[1])) or (Region("chosen by sampling"),), speedups=tuple(speedups),
                shortest=shortest, settle=settle, seconds=seconds, rounds=rounds, seed=seed,
            ),
            say=view.say if view else None, watch=view.watch if view else None,
        )  # fmt: skip
    if view:
        view.finish(made)
    return made
