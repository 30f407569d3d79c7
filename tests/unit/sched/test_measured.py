"""Latencies from the counts of their ends, against those of requests that are known one by one."""

from __future__ import annotations

import types
from random import Random
from typing import Any

import numpy as np
import pytest

from workbench.sched import schedcoz
from workbench.sched.measured import latency, step

POINT = np.dtype(
    [
        (name, "<u8")
        for name in (
            "count",
            "first",
            "last",
            "first_time",
            "last_time",
            "entered",
            "stamps",
            "left",
        )
    ]
    + [("lowest", "<i8")]
)
WHOLE = {
    "grown": 0, "elapsed": 0, "samples": 0, "hits": 0, "weighted": 0, "payments": 0, "paid": 0, "merges": 0, "kicks": 0,
    "valid": True,
}  # fmt: skip
START = 10**16  # ns: the sums of clocks go beyond 64 bits


def points(requests: list[tuple[int, int]], begin: int, until: int) -> np.ndarray:
    """What the scheduler has counted by `until`, of requests (came, went), for an experiment that begins at `begin`."""
    made = np.zeros(2, POINT)
    for number in (0, 1):
        stamps = sorted(one[number] for one in requests if one[number] < until)
        inside = [stamp for stamp in stamps if stamp >= begin]
        made[number]["entered"] = made[number]["left"] = len(stamps)
        made[number]["stamps"] = sum(stamps) % 2**64
        made[number]["count"] = len(inside)
        if inside:
            made[number]["first"], made[number]["last"] = inside[0], inside[-1]
    return made


def requests(random: Random, count: int, service: int) -> list[tuple[int, int]]:
    """A queue with one server: arrivals at random, served in turn."""
    free, came, made = 0, START, []
    for _ in range(count):
        came += round(random.expovariate(1 / 10_000))
        free = max(free, came) + service
        made.append((came, free))
    return made


def test_the_mean_latency_is_that_of_the_requests() -> None:
    made = requests(Random(1), 20_000, 7_000)
    begin, end = made[5000][0], made[15_000][0]
    found = latency(points(made, begin, begin), points(made, begin, end), (begin, end), WHOLE)
    truth = np.mean([went - came for came, went in made[5000:15_000]])
    assert found.period == pytest.approx(truth, rel=0.01)
    assert found.count == 10_000 and found.departures == pytest.approx(10_000, abs=30)
    assert found.inside == pytest.approx(truth / 10_000, rel=0.05)
    assert np.isnan(found.real_period)


def test_those_inside_before_the_scheduler_came_are_known_once_they_are_gone() -> None:
    made = requests(Random(2), 20_000, 7_000)
    loaded, begin, end = sum(made[3000]) // 2, made[5000][0], made[15_000][0]
    seen = points(made, loaded, loaded)
    before, after = points(made, begin, begin), points(made, begin, end)
    for table in (before, after):  # what the scheduler saw since it was loaded; modulo 2^64, as there
        for field in ("entered", "left", "stamps"):
            table[field] -= seen[field]
    missed = int(seen[0]["entered"]) - int(seen[1]["entered"])
    assert missed > 0
    after[1]["lowest"] = -missed
    known = latency(before, after, (begin, end), WHOLE)
    truth = np.mean([went - came for came, went in made[5000:15_000]])
    assert known.period == pytest.approx(truth, rel=0.01)


def test_an_end_that_is_half_counted_gives_no_number() -> None:
    made = requests(Random(3), 100, 5_000)
    before, after = points(made, START, START), points(made, START, made[90][0])
    after[1]["entered"] += 1
    assert np.isnan(latency(before, after, (START, made[90][0]), WHOLE).period)


def test_a_step_needs_two_passes() -> None:
    one = np.zeros(1, POINT)[0]
    assert np.isnan(step(one))
    one["count"], one["first"], one["last"] = 3, 10, 50
    assert step(one) == 20


class Clock:
    """Time as the scheduler's face sees it; set by the test."""

    now = START

    def monotonic_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        raise AssertionError("an end is half counted")


def test_what_is_counted_anew_is_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, random = Clock(), Random(4)
    monkeypatch.setattr(schedcoz, "time", clock)
    slow, fast = requests(random, 4000, 9_000), requests(random, 20_000, 3_000)
    shift = slow[-1][1] - START
    made = slow + [(came + shift, went + shift) for came, went in fast]
    settled, end = made[6000][0], made[22_000][0]
    fields = ("number", "active", "speedup", "base", "period", "min_debt", "stop_cost", "without")
    counters = [(name, "<u8") for name in (*schedcoz._COUNTED, "lost")]
    known: dict[str, Any] = {
        "experiment": np.zeros((), [(name, "<u8") for name in fields]),
        "counters": np.zeros((), counters),
        "points": np.zeros(16, POINT),
        "global_clock": np.zeros((), "<u8"),
    }
    engine = object.__new__(schedcoz.SchedCoz)
    engine.parameters, engine._points, engine._latencies = schedcoz.Parameters(), 0, 1
    engine.loaded = types.SimpleNamespace(globals=known)  # type: ignore[assignment]
    engine.scheduler = types.SimpleNamespace(in_charge=True)  # type: ignore[assignment]

    engine.begin(0.5)
    known["global_clock"][()] = held_back = 5_000_000
    clock.now = settled + held_back  # requests are on the tasks' clocks
    known["points"][:2] = points(made, START, settled)
    engine.count_anew()
    assert not known["points"]["count"].any()
    clock.now = end + held_back
    known["points"][:2] = points(made, settled, end)
    [found] = engine.end()
    assert found.count == 16_000 and found.elapsed == end + held_back - START
    truth = np.mean([went - came for came, went in made[6000:22_000]])
    assert truth < 5_000 < np.mean([went - came for came, went in slow])
    assert found.period == pytest.approx(truth, rel=0.01)
