"""Measure a running shape under several conditions in turn: virtually faster, really shortened, either scheduler.

Experiments are short and their order is shuffled in every round, so that a condition is compared with what was
measured within the same second (see `workbench.causal.drift`).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.causal.drift import Effects, effects
from workbench.causal.regions import Finder, Region
from workbench.errors import RunFailed
from workbench.sched.state import SCHED_EXT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from workbench.causal.shapes import Running
    from workbench.sched.measured import Measured
    from workbench.sched.schedcoz import SchedCoz

__all__ = ("BASE", "PLAIN", "Condition", "Observation", "alternate", "compare")

_FEWEST = 3  # rounds of the program within an experiment; fewer say nothing


@dataclass(frozen=True)
class Condition:
    """`region` virtually faster by `speedup`, and really shorter by `shorter`; `plain`: under the kernel's own
    scheduler. Fractions.
    """

    region: str = ""
    speedup: float = 0.0
    shorter: float = 0.0
    plain: bool = False


BASE = Condition()
PLAIN = Condition(plain=True)


@dataclass(frozen=True)
class Observation:
    """One experiment under a condition: `time` in s of CLOCK_MONOTONIC when it began; `period` ns of a round on the
    tasks' clocks, of the machine if plain.
    """

    time: float
    condition: Condition
    period: float
    payments: float
    measured: Measured | None


def alternate(
    coz: SchedCoz,
    running: Running,
    conditions: Sequence[Condition],
    *,
    rounds: int,
    random: Random,
    seconds: float = 0.16,
    pause: float = 0.03,
) -> list[Observation]:
    """Measure each condition `rounds` times, the order shuffled every time.

    Parameters
    ----------
    coz : SchedCoz
        In charge of the program; its first progress point is the program's.
    running : Running
    conditions : sequence of Condition
    rounds : int
    random : Random
    seconds, pause : float
        Of what is measured, at least the shape's own `seconds`, and for a change to reach the program. In between, an
        experiment runs for the shape's `settle`, while queues fill or drain as the faster region makes them.

    Raises
    ------
    RunFailed
        The kernel took the scheduler away, or hardly anything could be measured.
    """
    finder, found = Finder(), list[Observation]()
    seconds = max(seconds, running.shape.seconds)
    everywhere = {
        region: finder.places(running.pids, Region(region))
        for region in {one.region for one in conditions if one.region}
    }
    for _ in range(rounds):
        for one in random.sample(list(conditions), len(conditions)):
            running.work({one.region: one.shorter} if one.shorter else None)
            # A sample in a region takes longer to handle than one elsewhere: it has to be the same in what is compared.
            coz.select(
                everywhere[one.region or random.choice(sorted(everywhere))] if everywhere else {}
            )
            if one.plain:
                _policy(running, os.SCHED_OTHER)
            time.sleep(pause)
            began = time.monotonic()
            coz.begin(one.speedup)
            time.sleep(running.shape.settle)
            coz.count_anew()
            before = running.rounds()
            time.sleep(seconds)
            measured = coz.end()[0]
            after = running.rounds()
            if one.plain:
                _policy(running, SCHED_EXT)
            if not measured.valid:
                raise RunFailed(f"the kernel took SchedCoz away: {coz.scheduler.exit}")
            count = after[0] - before[0] if one.plain else measured.count - 1
            if count < _FEWEST:
                continue
            period = (after[1] - before[1]) / count if one.plain else measured.period
            paid = 0.0 if one.plain else measured.payments / measured.count
            found.append(Observation(began, one, period, paid, None if one.plain else measured))
    running.work()
    if {one.condition for one in found} != set(conditions):
        raise RunFailed(
            f"{running.shape.name} makes fewer than {_FEWEST} rounds in {seconds:g} s",
            "the machine is too busy, or too slow for these amounts of work",
        )
    return found


def compare(found: Sequence[Observation]) -> Effects:
    """Logarithms of the period by condition."""
    return effects(
        [one.time for one in found],
        [float(np.log(one.period)) for one in found],
        [one.condition for one in found],
    )


def _policy(running: Running, policy: int) -> None:
    for thread in running.threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(thread, policy, os.sched_param(0))
