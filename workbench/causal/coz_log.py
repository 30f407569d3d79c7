"""What Coz itself measured, from its log: the frames that our own experiments give, and so the same profile.

Source: libcoz/profiler.cpp of coz-profiler 0.2.2 (Debian's; tab-separated) and of later versions (JSON lines);
viewer/ts/profile.ts for how a log becomes a profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.causal.analysis import causal_profile
from workbench.causal.coz_format import read_coz
from workbench.causal.plan import ENOUGH
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

__all__ = ("CozExperiment", "coz_experiments", "coz_frames", "coz_profile", "pooled_period")

_POINTS = {"throughput-point", "latency-point"}
_EXPERIMENTS = {"number": "int32", "region": "str", "speedup": "float64", "duration": "int64",
                "valid": "bool", "reason": "str", "hits": "int64"}  # fmt: skip
_PROGRESS = {"experiment": "int32", "point": "str", "count": "int64", "period": "float64"}


@dataclass(frozen=True, slots=True)
class CozExperiment:
    """One experiment of a log.

    Attributes
    ----------
    region : str
        Source line, as Coz names it.
    speedup : float
        A fraction.
    duration : int
        ns without the delays that were inserted.
    hits : int
        Samples in the line.
    points : dict
        Passes by throughput point.
    latencies : dict
        Mean ns between begin and end by latency point, by Little's law; NaN if nothing arrived.
    """

    region: str
    speedup: float
    duration: int
    hits: int
    points: dict[str, int]
    latencies: dict[str, float]


def coz_experiments(lines: Iterable[str]) -> list[CozExperiment]:
    """Experiments of a log, in order; in either format. The last one may be cut short: it is left out then.

    Raises
    ------
    BadSpec
        A line is not of such a log.
    """
    found: list[CozExperiment] = []
    for record in read_coz(lines):
        kind = record["type"].replace("_", "-")  # the first versions with JSON: throughput_point
        try:
            if kind == "experiment":
                hits = int(record.get("selected_samples", 0))
                found.append(
                    CozExperiment(
                        str(record["selected"]),
                        float(record["speedup"]),
                        int(record["duration"]),
                        hits,
                        {},
                        {},
                    )
                )
            elif kind in _POINTS and found:
                name = str(record["name"])
                if kind == "throughput-point":
                    found[-1].points[name] = int(record["delta"])
                else:
                    found[-1].latencies[name] = _latency(record, found[-1].duration)
        except (KeyError, ValueError, TypeError) as error:
            raise BadSpec(
                f"a record `{kind}` of the log lacks {error}",
                "is it a log of Coz, whole? (profile.coz)",
            ) from error
    return [one for one in found if one.points or one.latencies]


def _latency(record: dict[str, Any], duration: int) -> float:
    """Mean time inside = how many are inside / how often one arrives (Little's law)."""
    arrivals = int(record["arrivals"])
    return int(record["difference"]) * duration / arrivals if arrivals > 0 else float("nan")


def pooled_period(experiments: Sequence[CozExperiment], point: str) -> float:
    """Period as Coz's viewer has it, ns: all durations over all passes; NaN without any."""
    passed = sum(one.points.get(point, 0) for one in experiments)
    spent = sum(one.duration for one in experiments if point in one.points)
    return spent / passed if passed else float("nan")


def coz_frames(lines: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The log as frames `experiments` and `progress`, with those of their columns that Coz knows.

    Returns
    -------
    (DataFrame, DataFrame)
        ``number, region, speedup, duration, valid, reason, hits`` and ``experiment, point, count, period``; duration
        and period in ns on the clock from which delays are taken off. An experiment with fewer than five passes of a
        point does not count, as with us.
    """
    import pandas as pd

    made: list[dict[str, Any]] = []
    passed: list[dict[str, Any]] = []
    for number, one in enumerate(coz_experiments(lines), 1):
        fewest = min(one.points, key=lambda name: one.points[name], default="")
        reason = ""
        if fewest and one.points[fewest] < ENOUGH:
            reason = f"{fewest} was passed {one.points[fewest]} times, which is too few"
        made.append(
            {"number": number, "region": one.region, "speedup": one.speedup, "duration": one.duration,
             "valid": not reason, "reason": reason, "hits": one.hits}
        )  # fmt: skip
        for name, count in one.points.items():
            period = one.duration / count if count > 0 else float("nan")
            passed.append({"experiment": number, "point": name, "count": count, "period": period})
    frames = (
        pd.DataFrame(made, columns=list(_EXPERIMENTS)).astype(_EXPERIMENTS),
        pd.DataFrame(passed, columns=list(_PROGRESS)).astype(_PROGRESS),
    )
    return frames


def coz_profile(lines: Iterable[str], *, seed: int = 1) -> pd.DataFrame:
    """Frame `causal_profile` of a log of Coz; see `workbench.causal.analysis.causal_profile`.

    Examples
    --------
    >>> with open("profile.coz") as log:  # doctest: +SKIP
    ...     coz_profile(log)
    """
    return causal_profile(*coz_frames(lines), seed=seed)
