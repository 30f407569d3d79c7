"""Measure what stopping a task costs here, and whether this machine is quiet enough to be believed.

**Stop cost.** What a task loses around a payment beyond the time that is credited (the interrupt that stops it, the
switches, caches that went cold) is time that the faster program would not lose. It is measured with shape ``barrier``
of the workload: its region_b is done before anybody waits for it, so speeding it up changes nothing, and whatever its
experiments take longer than those at 0 %, by payment, is that cost.

**Gate.** With the cost credited, the same shape must come out right: its critical region as fast virtually as when it
is really shortened, its null region without effect, really and virtually. Where it does not, the machine is too busy,
and numbers of programs whose truth nobody knows are not to be had from it. How far the 0 % period is from that under
the kernel's own scheduler is told beside it: it is a matter of the program, not of the machine.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.causal.alternation import BASE, PLAIN, Condition, alternate, compare

if TYPE_CHECKING:
    from workbench.causal.shapes import Running
    from workbench.sched.schedcoz import SchedCoz

__all__ = ("Calibration", "calibrate")

NULL, ERROR, UNCERTAIN = 5.0, 5.0, 2.5
"""Points: largest gain of the null region, error of the critical one, and standard error of either."""
_FAST = 0.5
_REGION, _NULL = "region_a", "region_b"


@dataclass(frozen=True)
class Calibration:
    """What was found about this machine.

    Attributes
    ----------
    stop_cost, stop_cost_error : float
        ns, with its standard error.
    predicted, true : float
        Change of the period, in points, when the critical region is 50 % faster, virtually and really.
    null_predicted, null_true : float
        The same of a region that nobody waits for.
    period_difference, period_error : float
        Points by which the 0 % period differs from that under the kernel's own scheduler, with its standard error.
    uncertainty : float
        Standard error of a prediction, points.
    noise, drift : float
        Standard deviation of an experiment, and of the machine's speed from one to the next; points.
    reasons : tuple of str
        Why the machine is refused; empty: it is accepted.
    """

    stop_cost: float
    stop_cost_error: float
    predicted: float
    true: float
    null_predicted: float
    null_true: float
    period_difference: float
    period_error: float
    uncertainty: float
    noise: float
    drift: float
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Predictions made here may be believed."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Its numbers, for a manifest."""
        return asdict(self)

    def __str__(self) -> str:
        found = (
            f"stopping a task costs {self.stop_cost / 1000:.0f} us; a known gain of {self.true:+.1f} % is predicted as "
            f"{self.predicted:+.1f} %, one of nothing as {self.null_predicted:+.1f} %"
        )
        return found + (f"; refused: {'; '.join(self.reasons)}" if self.reasons else "")


def calibrate(
    coz: SchedCoz,
    running: Running,
    *,
    rounds: int = 24,
    seconds: float = 0.16,
    seed: int = 1,
) -> Calibration:
    """Measure the stop cost with a running ``barrier``, set it in `coz`, and try whether known gains come out.

    Parameters
    ----------
    coz : SchedCoz
        In charge of `running`.
    running : Running
        Shape ``barrier``.
    rounds : int
        How often each condition is measured; 24 take a quarter of a minute.
    seconds : float
        Of an experiment.
    seed : int

    Returns
    -------
    Calibration
        `coz.parameters` has its `stop_cost` afterwards.
    """
    random = Random(seed)
    coz.parameters = replace(coz.parameters, stop_cost=0)
    idle, full = Condition(_NULL, _FAST), Condition(_NULL, 0.8)
    found = alternate(
        coz, running, (BASE, idle, full), rounds=rounds, random=random, seconds=seconds
    )
    cost, error = _cost(compare(found), found, (idle, full))
    coz.parameters = replace(coz.parameters, stop_cost=round(max(cost, 0.0)))
    faster = Condition(_REGION, _FAST)
    shorter, no_shorter = (Condition(one, shorter=_FAST) for one in (_REGION, _NULL))
    conditions = (BASE, PLAIN, faster, shorter, idle, no_shorter)
    found = alternate(
        coz, running, conditions, rounds=max(rounds // 2, 3), random=random, seconds=seconds
    )
    change = compare(found)
    gain, errors = {}, {}
    for one in (faster, shorter, idle, no_shorter):
        difference, errors[one] = change.difference(one, BASE)
        gain[one] = 100 * math.expm1(difference)
    plain, plain_error = change.difference(BASE, PLAIN)
    result = Calibration(
        stop_cost=cost,
        stop_cost_error=error,
        predicted=gain[faster],
        true=gain[shorter],
        null_predicted=gain[idle],
        null_true=gain[no_shorter],
        period_difference=100 * math.expm1(plain),
        period_error=100 * plain_error,
        uncertainty=100 * max(errors.values()),
        noise=100 * change.error,
        drift=100 * change.drift,
        reasons=(),
    )
    return replace(result, reasons=_judge(result))


def _cost(change: Any, found: Any, conditions: tuple[Condition, ...]) -> tuple[float, float]:
    """ns of a stop and the standard error, over several conditions, each with the weight of its certainty."""
    base = float(np.exp(change.values[change.conditions.index(BASE)]))
    values, weights = [], []
    for one in conditions:
        payments = float(np.mean([each.payments for each in found if each.condition == one]))
        difference, error = change.difference(one, BASE)
        if payments:
            values.append(base * math.expm1(difference) / payments)
            weights.append((payments / (base * error)) ** 2)
    if not values:
        return 0.0, 0.0
    return float(np.average(values, weights=weights)), float(np.sum(weights)) ** -0.5


def _judge(found: Calibration) -> tuple[str, ...]:
    """Why a machine is refused."""
    tests = (
        (
            abs(found.predicted - found.true) <= ERROR,
            f"a known gain of {found.true:+.1f} % is predicted as {found.predicted:+.1f} %",
        ),
        (
            abs(found.null_predicted) <= NULL,
            f"a gain of nothing is predicted as {found.null_predicted:+.1f} %",
        ),
        (
            abs(found.null_true) <= NULL,
            f"work that nobody waits for, really shortened, changed the period by {found.null_true:+.1f} %",
        ),
        (
            found.uncertainty <= UNCERTAIN,
            f"predictions are uncertain by {found.uncertainty:.1f} points (noise of {found.noise:.1f} %)",
        ),
    )
    return tuple(reason for good, reason in tests if not good)
