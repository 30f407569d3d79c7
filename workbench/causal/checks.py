"""What has to be known about a machine before its numbers are believed: once per boot, and once per run.

Once per boot, where there are several CPUs: what stopping a task costs, and whether known gains come out
(`workbench.causal.calibration`). What was found is kept in the cache folder until the next boot. Once per run: whether
the program runs under SchedCoz as it does under the kernel's own scheduler (`workbench.causal.baseline`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.objects.compile import cache_folder

if TYPE_CHECKING:
    from workbench.causal.calibration import Calibration
    from workbench.sched.schedcoz import Parameters

__all__ = ("ALL", "NONE", "Checks", "machine_calibration")

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Checks:
    """Which are made: `machine` once per boot, `pairs` comparisons with the kernel's own scheduler once per run."""

    machine: bool = True
    pairs: int = 5


ALL, NONE = Checks(), Checks(machine=False, pairs=0)


def machine_calibration(
    parameters: Parameters,
    *,
    fresh: bool = False,
    rounds: int = 20,
    say: Callable[[str], None] | None = None,
) -> Calibration | None:
    """What stopping a task costs on this machine, and whether it can be believed; measured once per boot.

    Parameters
    ----------
    parameters : Parameters
        How experiments will be carried out.
    fresh : bool
        Measure now, whatever is known.
    rounds : int
        See `workbench.causal.calibration.calibrate`; a machine that was refused is measured again.
    say : callable, optional
        Called with a line of text before it takes long.

    Returns
    -------
    Calibration or None
        None where there is one CPU: nobody runs while another is stopped there, and the cost is not seen.

    Raises
    ------
    MissingCapability, NotPermitted
        See `workbench.sched.schedcoz.SchedCoz`.
    RunFailed
        Nothing could be measured.
    """
    from workbench.causal.calibration import Calibration, calibrate
    from workbench.causal.points import resolve_points
    from workbench.causal.shapes import SHAPES, Running, scale
    from workbench.collectors.modules import Modules
    from workbench.objects.model import builtin
    from workbench.sched.schedcoz import SchedCoz

    if (os.cpu_count() or 1) < 2:
        return None
    identity = {
        "boot": _BOOT.read_text().strip(),
        "period": parameters.period,
        "min_debt": parameters.min_debt,
    }
    kept = cache_folder() / "causal" / "calibration.json"
    if not fresh:
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = json.loads(kept.read_text())
            if known.pop("of") == identity:
                return Calibration(**{**known, "reasons": tuple(known["reasons"])})
    if say is not None:
        say("measuring what stopping a task costs here (half a minute, once per boot)")
    with Running(SHAPES["barrier"].scaled(scale())) as running:
        points = resolve_points(Modules(running.process.pid), ["progress"])
        places = [(one.path, one.offset, one.semaphore) for one in points]
        with SchedCoz(builtin("schedcoz"), places, replace(parameters, frames=0)) as coz:
            coz.take(running.process.pid)
            found = calibrate(coz, running, rounds=rounds)
    if found.accepted:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"of": identity, **found.to_json()}))
            part.replace(kept)
    return found
