"""Coz's own profile format, so that its viewer opens what was measured here.

Source: libcoz/profiler.cpp (what is written) and viewer/ts/profile.ts (what is read) of coz-profiler: one record a
line, by default a JSON object with its kind in ``type``, in older versions a word and ``key=value`` fields between
tabs. A record of an experiment is followed by one per progress point; times are ns, speed-ups fractions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pandas as pd

__all__ = ("read_coz", "records", "write_coz")

_KINDS: dict[str, type[float] | type[int]] = {"speedup": float} | dict.fromkeys(
    (
        "duration",
        "selected_samples",
        "delta",
        "count",
        "time",
        "arrivals",
        "departures",
        "difference",
    ),
    int,
)
_OLD_NAMES = {"selected_samples": "selected-samples"}


def records(
    experiments: pd.DataFrame, progress: pd.DataFrame, samples: pd.DataFrame | None = None
) -> Iterator[dict[str, Any]]:
    """Records of a profile, in order.

    The duration of an experiment is on the virtual clock, as Coz's is: its passes times the period between two of
    them at the point that was passed least often; where there are only latencies, the time between two arrivals. The
    ``difference`` of a latency is such that Coz's viewer, which takes it for the mean number inside and divides it by
    arrivals / duration, comes to the latency.

    Parameters
    ----------
    experiments, progress : DataFrame
        Frames of a recording. Experiments that do not count are left out.
    samples : DataFrame, optional
        Frame `causal_samples`; without it, samples are those of the experiments on each region.
    """
    start = int(experiments["start"].min()) if len(experiments) else 0
    yield {"type": "startup", "time": start}
    by_experiment: dict[int, list[dict[str, Any]]] = {}
    for row in _rows(progress):
        by_experiment.setdefault(int(row["experiment"]), []).append(row)
    hits: dict[str, int] = {}
    for one in _rows(experiments):
        region = str(one["region"])
        hits[region] = hits.get(region, 0) + int(one["hits"])
        passed = by_experiment.get(int(one["number"]))
        if not one["valid"] or not passed:
            continue
        steps = [row for row in passed if row.get("kind", "throughput") == "throughput"]
        least = min(steps or passed, key=lambda row: int(row["count"]))
        duration = float(least["period"]) * int(least["count"])
        if not steps:
            duration /= float(least["inside"]) or 1.0
        yield {
            "type": "experiment",
            "selected": region,
            "speedup": float(one["speedup"]),
            "duration": round(duration),
            "selected_samples": int(one["hits"]),
        }
        for row in passed:
            if row.get("kind", "throughput") == "throughput":
                yield {
                    "type": "throughput-point",
                    "name": str(row["point"]),
                    "delta": int(row["count"]),
                }
            else:
                yield {
                    "type": "latency-point",
                    "name": str(row["point"]),
                    "arrivals": int(row["count"]),
                    "departures": int(row["departures"]),
                    "difference": float(row["period"]) * int(row["count"]) / duration,
                }
    end = int((experiments["start"] + experiments["duration"]).max()) if len(experiments) else start
    yield {"type": "runtime", "time": end - start}
    if samples is not None:
        counts = zip(samples["location"].astype(str), samples["count"], strict=True)
        hits = {location: int(count) for location, count in counts if location}
    for region, count in hits.items():
        yield {"type": "samples", "location": region, "count": count}


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def write_coz(
    path: Path,
    experiments: pd.DataFrame,
    progress: pd.DataFrame,
    samples: pd.DataFrame | None = None,
    *,
    tabs: bool = False,
) -> None:
    """Write a profile.

    Parameters
    ----------
    path : Path
        Such as ``profile.coz``, the name that Coz's viewer looks for.
    experiments, progress, samples : DataFrame
        See `records`.
    tabs : bool
        In the older format, which versions before JSON lines read. The ``difference`` of a latency is a whole number
        there, as Coz's own is, which is coarse: its viewer reads no fraction.
    """
    make = _tabbed if tabs else json.dumps
    lines = [make(record) for record in records(experiments, progress, samples)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _tabbed(record: dict[str, Any]) -> str:
    fields = [
        f"{_OLD_NAMES.get(key, key)}={round(value) if key == 'difference' else value}"
        for key, value in record.items()
        if key != "type"
    ]
    return "\t".join([str(record["type"]), *fields])


def read_coz(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Records of a profile in either format, as `records` gives them; of Coz itself, too.

    Raises
    ------
    BadSpec
        A line is neither.
    """
    found = []
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\n")
        if not text.strip():
            continue
        try:
            if text.startswith("{"):
                record = json.loads(text)
                record["type"] = str(record["type"])
            else:
                kind, *fields = text.split("\t")
                pairs = [field.split("=", 1) for field in fields]
                named = {
                    key.replace("selected-samples", "selected_samples"): value
                    for key, value in pairs
                }
                record = {"type": kind} | {
                    key: _KINDS.get(key, str)(value) for key, value in named.items()
                }
        except (ValueError, KeyError, TypeError) as error:
            raise BadSpec(
                f"line {number} is not of a profile of Coz: {text[:60]!r}",
                "one record a line, JSON or `kind TAB key=value ...`",
            ) from error
        found.append(record)
    return found
