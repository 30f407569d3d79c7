"""Compare conditions that were measured in turn on a machine whose speed drifts.

Virtual machines and shared processors change their speed by several per cent within seconds, and slower than an
experiment lasts. A mean by condition takes that for noise; compared with what was measured just before and after,
most of it goes.

The model is y = condition + drift(time) + error, where the drift is a random walk and the errors are independent:
generalised least squares with covariance r I + q min(t, t') (Rasmussen and Williams, Gaussian Processes for Machine
Learning, MIT Press 2006, section 2.7 and chapter 6 for the Wiener process). The ratio q / r is the one of the
greatest restricted likelihood (Harville, J. Am. Stat. Assoc. 72, 1977). Outliers are weighed down by Huber's rule
(Ann. Math. Stat. 35, 1964), so that an interruption of half a second does not move a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

__all__ = ("Effects", "effects")

_HUBER = 1.5  # standard deviations within which a value counts fully
_RATIOS = (
    0.0,
    *np.geomspace(1e-3, 1e2, 26),
)  # of the walk's variance per step to that of the errors
_ROUNDS = 4


@dataclass(frozen=True)
class Effects:
    """What each condition did to the value.

    Attributes
    ----------
    conditions : tuple
        In order of first appearance.
    values : float64 array [conditions]
        The value of each, with the drift's mean taken to be the same for all.
    covariance : float64 array [conditions, conditions]
    drift : float
        Standard deviation of the drift from one measurement to the next; of the same unit as the values.
    error : float
        Standard deviation of a measurement.
    """

    conditions: tuple[Hashable, ...]
    values: NDArray[np.float64]
    covariance: NDArray[np.float64]
    drift: float
    error: float

    def difference(self, one: Hashable, other: Hashable) -> tuple[float, float]:
        """`one` minus `other`, and its standard error."""
        contrast = np.zeros(len(self.conditions))
        contrast[self.conditions.index(one)] += 1
        contrast[self.conditions.index(other)] -= 1
        variance = float(contrast @ self.covariance @ contrast)
        return float(contrast @ self.values), float(np.sqrt(variance))


def effects(
    times: Sequence[float] | NDArray[np.float64],
    values: Sequence[float] | NDArray[np.float64],
    conditions: Sequence[Hashable],
) -> Effects:
    """Estimate what each condition does, free of slow drift.

    Parameters
    ----------
    times : sequence of float [n]
        When each value was measured; any unit.
    values : sequence of float [n]
        Logarithms where ratios are to be compared.
    conditions : sequence [n]

    Raises
    ------
    ValueError
        The lengths differ, or there is nothing.
    """
    time, value = np.asarray(times, float), np.asarray(values, float)
    if not (len(time) == len(value) == len(conditions)) or not len(time):
        raise ValueError(f"{len(time)} times, {len(value)} values, {len(conditions)} conditions")
    names = tuple(dict.fromkeys(conditions))
    design = np.zeros((len(value), len(names)))
    design[np.arange(len(value)), [names.index(one) for one in conditions]] = 1
    step = float(np.median(np.diff(np.sort(time)))) if len(time) > 1 else 1.0
    walk = np.minimum.outer(time - time.min(), time - time.min()) / (step or 1.0)
    spare = len(value) - len(names)
    if spare < 1:
        means = np.array([value[design[:, i] > 0].mean() for i in range(len(names))])
        return Effects(names, means, np.full((len(names), len(names)), np.nan), 0.0, np.nan)
    weights = np.ones(len(value))
    for _ in range(_ROUNDS):
        fits = (_fit(design, value, walk, ratio, weights) for ratio in _RATIOS)
        likelihood, ratio, estimate, inverse, variance = max(fits, key=lambda fit: fit[0])
        residual = value - design @ estimate
        covariance = ratio * walk + np.diag(1 / weights)
        error = residual - ratio * walk @ np.linalg.solve(covariance, residual)
        scale = 1.4826 * float(np.median(np.abs(error))) or 1e-12
        weights = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(error), 1e-300))
    del likelihood
    return Effects(
        names,
        estimate,
        inverse * variance,
        float(np.sqrt(ratio * variance)),
        float(np.sqrt(variance)),
    )


def _fit(
    design: NDArray[np.float64],
    value: NDArray[np.float64],
    walk: NDArray[np.float64],
    ratio: float,
    weights: NDArray[np.float64],
) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64], float]:
    """Restricted log likelihood, ratio, estimate, (X' V^-1 X)^-1, variance of an error."""
    covariance = ratio * walk + np.diag(1 / weights)
    lower = np.linalg.cholesky(covariance)
    x, y = np.linalg.solve(lower, design), np.linalg.solve(lower, value)
    normal = x.T @ x
    inverse = np.linalg.inv(normal)
    estimate = inverse @ (x.T @ y)
    spare = len(value) - design.shape[1]
    variance = float(np.sum((y - x @ estimate) ** 2)) / spare or 1e-300
    likelihood = -0.5 * (
        spare * np.log(variance)
        + 2 * float(np.sum(np.log(np.diag(lower))))
        + float(np.linalg.slogdet(normal)[1])
    )
    return likelihood, ratio, estimate, inverse, variance
