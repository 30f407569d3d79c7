"""The benchmark of the recorder's memory: what it makes of measurements, and one short real recording."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.bench import memory


def points(growth: float) -> np.ndarray:
    """Ten measurements a second for 30 s: 40 MiB of caches filling for 5 s, then `growth` MiB until the end."""
    when = np.arange(0, 30, 0.1)
    held = 60 + np.minimum(when / 5, 1) * 40 + np.clip((when - 10) / 20, 0, 1) * growth
    held[::17] += 30  # a drain's arrays, gone the next moment
    held[[50, 200]] = np.nan
    return np.column_stack([when, held])


@pytest.mark.parametrize(("growth", "ok"), [(0.0, True), (6.0, True), (12.0, False)])
def test_growth_after_warming_up_is_judged(growth: float, ok: bool) -> None:
    result = memory._result(points(growth), 150.0, 1000, 3, 1.0, warm=10)
    (check,) = result.checks
    assert check.value == pytest.approx(growth, abs=0.8)
    assert result.ok is ok
    rows = {row.name: row for row in result.rows}
    assert rows["held after warming up"].value == pytest.approx(100, abs=0.5)
    assert rows["samples taken, with stacks"].unit == "samples, 3 lost"


@pytest.mark.needs("perf_event BPF")
def test_a_short_real_recording() -> None:
    result = memory.measure(3, 1, 999)
    rows = {row.name: row.value for row in result.rows}
    assert rows["samples taken, with stacks"] > 100
    assert 10 < rows["held after warming up"] < 1000
    assert rows["most held while finishing"] > 10
    assert result.to_json()["checks"][0]["name"] == "growth after warming up, MiB"
