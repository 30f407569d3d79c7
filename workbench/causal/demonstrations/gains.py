"""From the experiments of a demonstration to gains: predicted and measured beside each other, regions by rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

__all__ = ("FULL", "Gain", "Trial", "gains")

FULL = 1.0
"""The speed-up by which regions are ranked: all of their time."""
_DRAWS, _FEWEST = 2000, 3
_ENDS = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Trial:
    """One experiment: `spot` was `speedup` faster, virtually, or the bottleneck was really shorter by `removed`."""

    number: int
    spot: str
    region: str
    speedup: float
    removed: float
    count: int
    period: float
    real_period: float
    samples: int
    hits: int
    payments: int
    paid: int
    valid: bool


@dataclass(frozen=True, slots=True)
class Gain:
    """What one region at one speed-up is worth: changes of the progress period in %, negative is faster.

    Attributes
    ----------
    spot, region : str
    bottleneck : bool
    rank : int
        By what is predicted for the region without its time, 1 gains most; 0 at other speed-ups.
    speedup : float
    predicted, low, high : float
        With the 95 % interval of a bootstrap (NaN below three experiments).
    measured, measured_low, measured_high : float
        What really doing it gave; NaN where it was not done.
    experiments : int
    """

    spot: str
    region: str
    bottleneck: bool
    rank: int
    speedup: float
    predicted: float
    low: float
    high: float
    measured: float
    measured_low: float
    measured_high: float
    experiments: int

    @property
    def error(self) -> float:
        """Points between the prediction and what was measured."""
        return self.predicted - self.measured

    def to_json(self) -> dict[str, Any]:
        """Numbers that are not known are None."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def gains(trials: Sequence[Trial], bottleneck: str, *, seed: int = 1) -> list[Gain]:
    """Gains of all regions, the full ones by rank, then the others.

    Parameters
    ----------
    trials : sequence of Trial
        Those that are not valid do not count.
    bottleneck : str
        Name of the spot that is known to be it.
    seed : int
        Of the bootstrap.
    """
    good = [one for one in trials if one.valid and np.isfinite(one.period)]
    random = np.random.default_rng(seed)
    zero = _periods(good, lambda one: one.speedup == 0 and one.removed == 0)
    found = []
    for spot, region, speedup in dict.fromkeys(
        (one.spot, one.region, one.speedup) for one in good if one.speedup
    ):
        here = _periods(good, _at(spot, speedup))
        predicted = _change(here, zero, random)
        measured = (float("nan"),) * 3
        if spot == bottleneck:
            really = _periods(good, _without(speedup))
            measured = _change(really, zero, random)
        found.append(
            Gain(spot, region, spot == bottleneck, 0, speedup, *predicted, *measured, len(here))
        )
    full = sorted((one for one in found if one.speedup == FULL), key=lambda one: one.predicted)
    ranked = [
        Gain(**{**asdict(one), "rank": number})  # a new one: it is frozen
        for number, one in enumerate(full, 1)
    ]
    return [*ranked, *(one for one in found if one.speedup != FULL)]


def _at(spot: str, speedup: float) -> Callable[[Trial], bool]:
    return lambda one: (one.spot, one.speedup) == (spot, speedup)


def _without(part: float) -> Callable[[Trial], bool]:
    return lambda one: one.removed == part


def _periods(trials: Sequence[Trial], chosen: Callable[[Trial], bool]) -> NDArray[np.float64]:
    return np.array([one.period for one in trials if chosen(one)], np.float64)


def _change(
    periods: NDArray[np.float64], zero: NDArray[np.float64], random: np.random.Generator
) -> tuple[float, float, float]:
    """Change of the median in %, and its interval."""
    nothing = float("nan")
    if not len(periods) or not len(zero):
        return nothing, nothing, nothing
    change = 100 * float(np.median(periods) / np.median(zero) - 1)
    if min(len(periods), len(zero)) < _FEWEST:
        return change, nothing, nothing
    over = np.median(random.choice(periods, (_DRAWS, len(periods))), axis=1)
    under = np.median(random.choice(zero, (_DRAWS, len(zero))), axis=1)
    low, high = np.percentile(100 * (over / under - 1), _ENDS)
    return change, float(low), float(high)
