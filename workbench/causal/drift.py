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
    order = np.argsort(time, kind="stable")
    time, value = time[order], value[order]
    design = np.zeros((len(value), len(names)))
    design[np.arange(len(value)), [names.index(conditions[i]) for i in order]] = 1
    spare = len(value) - len(names)
    if spare < 1:
        means = np.array([value[design[:, i] > 0].mean() for i in range(len(names))])
        return Effects(names, means, np.full((len(names), len(names)), np.nan), 0.0, np.nan)
    gaps = np.diff(time)
    gaps = np.maximum(gaps, 1e-9) / (float(np.median(gaps)) or 1.0)
    weights = np.ones(len(value))
    ratios: Sequence[float] = _RATIOS
    for _ in range(_ROUNDS):
        fits = [_fit(design, value, gaps, ratio, weights) for ratio in ratios]
        best = max(fits, key=lambda fit: fit.likelihood)
        ratios = (best.ratio,)
        scale = 1.4826 * float(np.median(np.abs(best.errors))) or 1e-12
        weights = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(best.errors), 1e-300))
    return Effects(
        names,
        best.values,
        best.inverse * best.variance,
        float(np.sqrt(best.ratio * best.variance)),
        float(np.sqrt(best.variance)),
    )


@dataclass(frozen=True)
class _Fit:
    likelihood: float
    ratio: float
    values: NDArray[np.float64]
    inverse: NDArray[np.float64]
    variance: float
    errors: NDArray[np.float64]


def _fit(
    design: NDArray[np.float64],
    value: NDArray[np.float64],
    gaps: NDArray[np.float64],
    ratio: float,
    weights: NDArray[np.float64],
) -> _Fit:
    """Generalised least squares for one ratio of drift to error.

    The covariance is V = W^-1 + ratio K, where the inverse of K (a walk that begins at 0) is tridiagonal: so V^-1 u is
    W u - W A^-1 W u with a tridiagonal A = W + K^-1 / ratio (the matrix inversion lemma), in time linear in n.
    """
    both = np.column_stack([design, value])
    weighted = weights[:, None] * both
    if ratio:
        steps = 1 / (ratio * gaps)
        diagonal = weights[1:] + steps
        diagonal[:-1] += steps[1:]
        smooth, log_pivots = _tridiagonal(diagonal, -steps[1:], weighted[1:])
        drift = np.vstack([np.zeros(both.shape[1]), smooth])
        log_volume = log_pivots - float(np.log(steps).sum()) - float(np.log(weights).sum())
    else:
        drift = np.zeros_like(both)
        log_volume = -float(np.log(weights).sum())
    solved = weighted - weights[:, None] * drift
    normal = design.T @ solved[:, :-1]
    inverse = np.asarray(np.linalg.inv(normal), np.float64)
    values = np.asarray(inverse @ (design.T @ solved[:, -1]), np.float64)
    residual = value - design @ values
    weighed_residual = solved[:, -1] - solved[:, :-1] @ values
    spare = len(value) - design.shape[1]
    variance = float(residual @ weighed_residual) / spare or 1e-300
    likelihood = -0.5 * (
        spare * np.log(variance) + log_volume + float(np.linalg.slogdet(normal)[1])
    )
    return _Fit(float(likelihood), ratio, values, inverse, variance, weighed_residual / weights)


def _tridiagonal(
    diagonal: NDArray[np.float64], beside: NDArray[np.float64], right: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Solution of a symmetric tridiagonal system (Thomas), and the logarithm of its determinant."""
    pivots, solution = diagonal.copy(), right.copy()
    for i in range(1, len(pivots)):
        factor = beside[i - 1] / pivots[i - 1]
        pivots[i] -= factor * beside[i - 1]
        solution[i] -= factor * solution[i - 1]
    solution[-1] /= pivots[-1]
    for i in range(len(pivots) - 2, -1, -1):
        solution[i] = (solution[i] - beside[i] * solution[i + 1]) / pivots[i]
    return solution, float(np.log(pivots).sum())
