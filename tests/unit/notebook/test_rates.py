"""Events per second in bounded memory."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.notebook.rates import WARM_UP, Rates, sparkline


def test_a_steady_rate_is_that_rate_at_any_age() -> None:
    rates = Rates()
    for tick in range(200_000):  # fourteen hours of four per second
        rates.add(tick / 4, 250 * tick)
    steps = rates.per_second()
    assert len(steps) <= 120
    assert all(step == pytest.approx(1000) for step in steps)
    assert rates.latest() == pytest.approx(1000)
    assert rates.average() == pytest.approx(1000)


def test_latest_follows_a_change_that_the_average_hides() -> None:
    rates = Rates()
    for tick in range(100):
        rates.add(tick / 4, 10 * tick if tick < 90 else 900 + 1000 * (tick - 90))
    latest, average = rates.latest(), rates.average()
    assert latest == pytest.approx(4000)
    assert average is not None and average < 500


def test_what_waited_before_the_first_drain_is_no_rate() -> None:
    rates = Rates()
    assert rates.latest() is None
    rates.add(0.0, 0)
    rates.add(WARM_UP / 2, 5000)
    assert rates.latest() is None and rates.per_second() == []
    rates.add(WARM_UP / 2 + 1, 5100)
    assert rates.latest() == pytest.approx(100)


@given(st.lists(st.tuples(st.floats(0.001, 10), st.integers(0, 10**9)), max_size=400))
def test_no_event_is_dropped_or_invented(steps: list[tuple[float, int]]) -> None:
    rates, time, events = Rates(points=10), 1.0, 0
    rates.add(time, events)
    for length, more in steps:
        time, events = time + length, events + more
        rates.add(time, events)
        assert len(rates._marks) <= 11
    assert rates._marks[0] == (1.0, 0)
    assert rates._marks[-1] == (time, events)
    assert all(rate >= 0 for rate in rates.per_second())


@given(st.lists(st.floats(0, 1e12), max_size=200))
def test_sparkline_stays_inside_its_box(values: list[float]) -> None:
    root = ElementTree.fromstring(sparkline(values, 'per second <"&'))
    assert root.findtext("title") == 'per second <"&'
    line = root.findall("path")[-1].get("d", "")
    if len(values) > 1 and max(values) > 0:
        heights = [float(point.split()[1]) for point in line[1:].split("L")]
        assert len(heights) == len(values)
        assert min(heights) == pytest.approx(2.0) and max(heights) <= 23.0
