"""From experiments to a causal profile: predicted change of the progress period by region, point and speed-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ("Gate", "causal_profile", "gate")

_DRAWS = 2000
_FEWEST = 3  # experiments without which there is no interval
_ENDS = (2.5, 97.5)


def causal_profile(
    experiments: pd.DataFrame, progress: pd.DataFrame, *, seed: int = 1
) -> pd.DataFrame:
    """Predicted change of each progress point's period.

    The prediction is the median period of the experiments at a speed-up over that of the experiments at 0 %, where it
    makes no difference which region was selected: those of all regions count. The interval is a bootstrap of both.

    Parameters
    ----------
    experiments, progress : DataFrame
        Frames of a recording; only valid experiments count.
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Frame `causal_profile`: ``region``, ``point``, ``speedup`` (fraction), ``period`` (ns, median), ``change``,
        ``low``, ``high`` (% of the period at 0 %, negative: faster; NaN without experiments at 0 %, and the
        interval with fewer than three on either side), ``experiments``.
    """
    import pandas as pd

    good = experiments[experiments["valid"].astype(bool)]
    rows = progress.merge(
        good[["number", "region", "speedup"]], left_on="experiment", right_on="number"
    )
    rows = rows[np.isfinite(rows["period"]) & (rows["period"] > 0)]
    random = np.random.default_rng(seed)
    found: list[tuple[object, ...]] = []
    for point, of_point in rows.groupby("point", observed=True, sort=True):
        zero = of_point.loc[of_point["speedup"] == 0, "period"].to_numpy(np.float64)
        for (region, speedup), group in of_point.groupby(
            ["region", "speedup"], observed=True, sort=True
        ):
            periods = group["period"].to_numpy(np.float64)
            period = float(np.median(periods))
            change, low, high = _change(periods, zero, random, base=speedup == 0)
            found.append(
                (str(region), str(point), float(speedup), period, change, low, high, len(periods))
            )
    names = ("region", "point", "speedup", "period", "change", "low", "high", "experiments")
    frame = pd.DataFrame(found, columns=list(names))
    types = dict.fromkeys(("speedup", "period", "change", "low", "high"), np.float64)
    frame = frame.astype({**types, "experiments": np.int64})
    return frame.sort_values(["region", "point", "speedup"], ignore_index=True)


def _change(
    periods: NDArray[np.float64],
    zero: NDArray[np.float64],
    random: np.random.Generator,
    *,
    base: bool,
) -> tuple[float, float, float]:
    """Change in per cent and its interval; at 0 % itself it shows how far apart experiments at 0 % are."""
    nothing = float("nan")
    if not len(zero):
        return nothing, nothing, nothing
    middle = float(np.median(zero))
    change = 0.0 if base else 100 * (float(np.median(periods)) / middle - 1)
    if min(len(periods), len(zero)) < _FEWEST:
        return change, nothing, nothing
    drawn = np.median(random.choice(periods, (_DRAWS, len(periods))), axis=1)
    under = np.median(random.choice(zero, (_DRAWS, len(zero))), axis=1)
    low, high = np.percentile(100 * (drawn / under - 1), _ENDS)
    return change, float(low), float(high)


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a run can be believed: `ok`, and the `reason` if not; `apart` is how far its halves are apart in %."""

    ok: bool
    apart: float
    reason: str

    def __str__(self) -> str:
        return self.reason or f"experiments at 0 % agree within {self.apart:.2f} %"


def gate(experiments: pd.DataFrame, progress: pd.DataFrame, *, tolerance: float = 3.0) -> Gate:
    """Whether the program did the same work throughout: its period at 0 % in the first and the second half of the run.

    Parameters
    ----------
    experiments, progress : DataFrame
    tolerance : float
        Per cent that the medians of the two halves may be apart, at every progress point.

    Returns
    -------
    Gate
        Not `ok` as well if there are fewer than two valid experiments at 0 %: nothing can be said then.
    """
    good = experiments[experiments["valid"].astype(bool) & (experiments["speedup"] == 0)]
    rows = progress.merge(good[["number"]], left_on="experiment", right_on="number")
    rows = rows[np.isfinite(rows["period"]) & (rows["period"] > 0)]
    worst, where = 0.0, ""
    fewest = 0
    for point, group in rows.groupby("point", observed=True):
        periods = group.sort_values("experiment")["period"].to_numpy(np.float64)
        fewest = min(fewest or len(periods), len(periods))
        if len(periods) < 2:
            continue
        half = len(periods) // 2
        first, second = np.median(periods[:half]), np.median(periods[-half:])
        apart = 100 * abs(float(second / first) - 1)
        if apart >= worst:
            worst, where = apart, str(point)
    if fewest < 2:
        return Gate(
            False,
            float("nan"),
            f"{fewest} valid experiments at 0 %: too few to say whether the program did the same work throughout",
        )
    if worst > tolerance:
        return Gate(
            False,
            worst,
            f"at 0 % the period of {where} changed by {worst:.1f} % from the first half of the run to the second "
            f"(at most {tolerance:g} % is accepted): the machine or the program was not steady",
        )
    return Gate(True, worst, "")
