"""Logs of Coz itself, in both of its formats, as the frames that our own experiments give."""

from __future__ import annotations

import json
import math

import pytest

from workbench.causal.coz_log import coz_experiments, coz_frames, coz_profile, pooled_period
from workbench.errors import BadSpec

# Of coz-profiler 0.2.2 on causal_shapes_coz, durations rounded.
TABS = """startup\ttime=1795415072192066954
experiment\tselected=/src/shapes.c:52\tspeedup=0.00\tduration=500000000\tselected-samples=318
throughput-point\tname=progress\tdelta=50
experiment\tselected=/src/shapes.c:52\tspeedup=0.50\tduration=400000000\tselected-samples=304
throughput-point\tname=progress\tdelta=50
experiment\tselected=/src/shapes.c:52\tspeedup=0.50\tduration=100000000\tselected-samples=44
throughput-point\tname=progress\tdelta=4
latency-point\tname=request\tarrivals=10\tdepartures=9\tdifference=2
runtime\ttime=1500000000
samples\tlocation=/src/shapes.c:52\tcount=700
experiment\tselected=/src/shapes.c:52\tspeedup=0.50\tduration=400000000\tselected-samples=300
"""


KINDS = {"selected": str, "name": str, "location": str, "speedup": float}


def as_json(text: str) -> list[str]:
    """The same log as later versions write it (libcoz/profiler.cpp after 0.2.5)."""
    lines = []
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        pairs = [field.split("=") for field in fields]
        record = {key.replace("-", "_"): KINDS.get(key, int)(value) for key, value in pairs}
        lines.append(json.dumps({"type": kind, **record}))
    return lines


JSON = as_json(TABS)
FIRST_JSON = [line.replace("-point", "_point") for line in JSON]


@pytest.mark.parametrize(
    "lines", [TABS.splitlines(), JSON, FIRST_JSON], ids=["tabs", "json", "first json"]
)
def test_both_formats_give_the_same_experiments(lines: list[str]) -> None:
    first, second, third = coz_experiments(lines)  # the fourth was cut short before its points
    assert (first.region, first.speedup, first.duration, first.hits) == (
        "/src/shapes.c:52",
        0.0,
        500_000_000,
        318,
    )
    assert second.points == {"progress": 50} and second.speedup == 0.5
    assert third.latencies == {"request": 2 * 100_000_000 / 10}


def test_a_point_where_nothing_arrives_has_no_latency() -> None:
    lines = TABS.replace("arrivals=10", "arrivals=0").splitlines()
    assert math.isnan(coz_experiments(lines)[2].latencies["request"])


def test_the_period_is_that_of_cozs_viewer() -> None:
    made = coz_experiments(TABS.splitlines())
    assert pooled_period(made[1:], "progress") == pytest.approx(500_000_000 / 54)
    assert math.isnan(pooled_period(made, "nothing")) and math.isnan(pooled_period([], "progress"))


def test_the_profile_is_that_of_the_same_experiments_of_ours() -> None:
    experiments, progress = coz_frames(TABS.splitlines())
    assert experiments["valid"].tolist() == [True, True, False]
    assert experiments["reason"].tolist()[2] == "progress was passed 4 times, which is too few"
    assert progress["period"].tolist()[:2] == [10_000_000, 8_000_000]
    profile = coz_profile(TABS.splitlines())
    faster = profile[profile["speedup"] == 0.5].iloc[0]
    assert faster["change"] == pytest.approx(-20) and faster["experiments"] == 1
    assert faster["region"] == "/src/shapes.c:52" and faster["point"] == "progress"


@pytest.mark.parametrize(
    "text", ["experiment\tspeedup=0.5", "experiment\tselected=a:1\tspeedup=fast\tduration=1", "{}"]
)
def test_what_is_no_log_is_refused(text: str) -> None:
    with pytest.raises(BadSpec):
        coz_experiments([text])


def test_an_empty_log_gives_empty_frames() -> None:
    experiments, progress = coz_frames([])
    assert len(experiments) == len(progress) == 0 and len(coz_profile([])) == 0
