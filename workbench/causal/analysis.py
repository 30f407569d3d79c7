"""From experiments to a causal profile: predicted change of the progress period by region, point and speed-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ("Gate", "causal_profile", "gate", "phases")

_DRAWS = 2000
_FEWEST = 3  # experiments without which there is no interval
_ENDS = (2.5, 97.5)
_ENOUGH_HITS = 10  # samples without which a region's part of the time is not known


def causal_profile(
    experiments: pd.DataFrame,
    progress: pd.DataFrame,
    *,
    seed: int = 1,
    phase: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Predicted change of each progress point's period.

    The prediction is the median period of the experiments at a speed-up over that of the experiments at 0 %, where it
    makes no difference which region was selected: those of all regions count. Where a region was found in some
    experiments on it and in others not, the program has phases: then those at 0 % count in which it was found, as only
    those above 0 % do. The interval is a bootstrap of both.

    Parameters
    ----------
    experiments, progress : DataFrame
        Frames of a recording; only valid experiments count.
    seed : int
        Of the bootstrap.
    phase : mapping, optional
        What `phases` gives.

    Returns
    -------
    DataFrame
        Frame `causal_profile`: ``region``, ``point``, ``kind``, ``speedup`` (fraction), ``period`` (ns, median),
        ``change``, ``low``, ``high`` (% of the period at 0 %, negative: faster; NaN without experiments at 0 %, and
        the interval with fewer than three on either side), ``experiments``, ``phase``, ``corrected`` (%).
    """
    import pandas as pd

    good = experiments[experiments["valid"].astype(bool)]
    good = good.assign(found=good["hits"] > 0 if "hits" in good else True)
    phased = _phased(experiments)
    rows = progress.merge(
        good[["number", "region", "speedup", "found"]], left_on="experiment", right_on="number"
    )
    if "kind" not in rows:
        rows = rows.assign(kind="throughput")
    rows = rows[np.isfinite(rows["period"]) & (rows["period"] > 0)]
    random = np.random.default_rng(seed)
    found: list[tuple[object, ...]] = []
    for point, of_point in rows.groupby("point", observed=True, sort=True):
        at_zero = of_point[of_point["speedup"] == 0]
        for (region, speedup), group in of_point.groupby(
            ["region", "speedup"], observed=True, sort=True
        ):
            own = at_zero
            if region in phased:
                own = at_zero[at_zero["found"] & (at_zero["region"] == region)]
                group = group[group["found"]]
                if group.empty:
                    continue
            zero = own["period"].to_numpy(np.float64)
            periods = group["period"].to_numpy(np.float64)
            period = float(np.median(periods))
            change, low, high = _change(periods, zero, random, base=speedup == 0)
            kind, factor = str(group["kind"].iloc[0]), (phase or {}).get(str(region), math.nan)
            corrected = change * factor if kind == "throughput" else math.nan
            measured = (float(speedup), period, change, low, high, len(periods), factor, corrected)
            found.append((str(region), str(point), kind, *measured))
    names = (
        "region", "point", "kind", "speedup", "period", "change", "low", "high", "experiments", "phase", "corrected",
    )  # fmt: skip
    frame = pd.DataFrame(found, columns=list(names))
    numbers = ("speedup", "period", "change", "low", "high", "phase", "corrected")
    types: dict[str, Any] = dict.fromkeys(numbers, np.float64)
    frame = frame.astype({**types, "experiments": np.int64})
    return frame.sort_values(["region", "point", "speedup"], ignore_index=True)


def _phased(experiments: pd.DataFrame) -> set[str]:
    """Regions that were found in some experiments and not in others."""
    if "hits" not in experiments:
        return set()
    made = experiments
    if "samples" in made:
        made = made[made["samples"] > 0]  # of an experiment that failed, nothing is known
    found = made.assign(found=made["hits"] > 0).groupby("region", observed=True)["found"].nunique()
    return {str(region) for region, kinds in found.items() if kinds > 1}


def phases(experiments: pd.DataFrame, samples: pd.DataFrame) -> dict[str, float]:
    """How much more often each region is at work in the whole run than in the experiments on it.

    Coz's correction for phases (Curtsinger and Berger, SOSP 2015, section 3.4): what a region promises holds for the
    time in which it was measured, so the gain of the whole run is dP x (t_obs / s_obs) x (s / T), with s_obs samples of
    the region in its experiments, which lasted t_obs, and s samples of it in the run, which lasted T. Here both are of
    experiments at 0 %, on this region and on any: while tasks are withheld, all but the region takes longer, and the
    quotient would be off by that.

    Parameters
    ----------
    experiments : DataFrame
    samples : DataFrame
        Frame `causal_samples`.

    Returns
    -------
    dict
        The factor by region, for those with ten samples or more in both; about 1 for a program without phases.
    """
    plain = experiments[experiments["speedup"] == 0]
    if "reason" in plain:
        plain = plain[(plain["samples"] > 0) & (plain["reason"] != "interrupted")]
    lasted = float(plain["duration"].sum())
    phased, found = _phased(experiments), {}
    counts = dict(zip(samples["location"].astype(str), samples["plain"], strict=True))
    for region, rows in plain.groupby("region", observed=True):
        if region in phased:
            rows = rows[rows["hits"] > 0]
        hits, time = int(rows["hits"].sum()), float(rows["duration"].sum())
        whole = int(counts.get(str(region), 0))
        if min(hits, whole) >= _ENOUGH_HITS:
            found[str(region)] = time / hits * whole / lasted
    return found


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
