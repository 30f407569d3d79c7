"""Pictures of predictions beside the truth draw what is in the frame."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.errors import MissingFrame
from workbench.notebook import plot


def gains(count: int, **columns: Any) -> pd.DataFrame:
    random = np.random.default_rng(1)
    true = random.uniform(-50, 0, count).round(3)
    frame = pd.DataFrame({
        "origin": "scheduler", "run": np.arange(count) % 3, "accepted": True, "cpus": 2,
        "label": np.array(["serial", "a$b"])[np.arange(count) % 2], "region": "region_a", "null": False,
        "speedup": 0.5, "predicted": true + random.normal(0, 1, count).round(3), "true": true,
        "uncertainty": 1.0, "period": 1e7, "overhead": 0.1,
    })  # fmt: skip
    return frame.assign(**columns)


def points(axes: Any) -> list[tuple[float, float]]:
    return sorted(
        (float(x), float(y)) for one in axes.collections for x, y in np.asarray(one.get_offsets())
    )


def test_every_prediction_is_a_dot_on_both_sides() -> None:
    frame = gains(12, null=np.arange(12) < 4)
    figure = plot.causal_gains(frame)
    left, right = figure.axes
    both = sorted(zip(frame["true"], frame["predicted"], strict=True))
    assert np.array(points(left)) == pytest.approx(np.array(both))
    errors = sorted(x for x, _ in points(right))
    assert errors == pytest.approx(sorted(frame["predicted"] - frame["true"]))
    assert [one.get_text() for one in right.get_yticklabels()] == ["serial", "a$b"]
    assert "points" in right.get_xlabel() and "%" in left.get_xlabel() and "%" in left.get_ylabel()
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_boots_that_refused_themselves_are_crosses_and_do_not_set_the_scale() -> None:
    frame = gains(12)
    frame.loc[frame["run"] == 1, ["accepted", "predicted"]] = (False, 400.0)
    figure = plot.causal_gains(frame, rows="run", limit=6)
    assert [one.get_text() for one in figure.axes[1].get_yticklabels()] == [
        "boot 0",
        "boot 1",
        "boot 2",
    ]
    assert figure.axes[1].get_xlim()[1] < 20
    assert "crosses" in figure.how_to_read
    assert figure.axes[0].get_ylim()[1] < 20


def test_thousands_are_summed_up() -> None:
    frame = gains(900, cpus=np.arange(900) % 2 * 15 + 1, origin="simulator")
    figure = plot.causal_gains(frame, rows="cpus", limit=3)
    right = figure.axes[1]
    assert [one.get_text() for one in right.get_yticklabels()] == ["1 CPUs", "16 CPUs"]
    own = frame[frame["cpus"] == 1]
    ends = np.percentile(own["predicted"] - own["true"], (2.5, 97.5))
    bars = [line for line in right.lines if line.get_linewidth() == 5]
    assert list(bars[0].get_xdata()) == pytest.approx(list(ends))
    assert "95 %" in figure.how_to_read


def test_several_who_predicted_have_a_legend() -> None:
    frame = pd.concat([gains(6), gains(6, origin="userspace")], ignore_index=True)
    legend = plot.causal_gains(frame).axes[0].get_legend()
    assert legend and len(legend.get_texts()) == 2


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(MissingFrame, match="no predictions"):
        plot.causal_gains(gains(0))


def test_servers_show_prediction_and_measurement() -> None:
    class Given:
        def frame(self, name: str) -> pd.DataFrame:
            assert name == "demonstration_gains"
            return pd.DataFrame({
                "spot": ["sign", "parse", "sign"], "bottleneck": [True, False, True], "rank": [1, 2, 0],
                "speedup": [1.0, 1.0, 0.5], "predicted": [-40.0, -5.0, -20.0], "low": -42.0, "high": -38.0,
                "measured": [-41.0, np.nan, -21.0],
            })  # fmt: skip

    figure = plot.demonstrations({"memcached": Given()})  # type: ignore[dict-item]
    [axes] = figure.axes
    drawn = {float(x) for line in axes.lines for x in line.get_xdata()}
    assert {-40.0, -5.0, -41.0} <= drawn and -20.0 not in drawn
    assert [one.get_text() for one in axes.get_yticklabels()] == ["memcached: sign"]
