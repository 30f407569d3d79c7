"""Predictions beside the truth: what benchmarks and the simulator print becomes one frame, with the right errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest

from workbench.causal.alternation import BASE, Condition, Observation
from workbench.errors import BadSpec, MissingFrame
from workbench.frames.writer import RecordingWriter
from workbench.runs.known_gains import CASES, CURVE, beside, keep_boots, keep_simulated, summary
from workbench.runs.known_gains_guest import _drifted, _medians
from workbench.runs.known_servers import read_servers, table


def boot(number: int, accepted: bool, error: float) -> list[dict[str, object]]:
    """Lines as `workbench bench causal-guest` appends them."""
    common = {"boot": number, "mode": "parallel"}
    gate = {
        "stop_cost": 9e4, "stop_cost_error": 1e3, "predicted": -25.0, "true": -26.0, "null_predicted": 1.0,
        "null_true": 0.5, "period_difference": 1.0, "uncertainty": 1.2, "noise": 3.0, "drift": 0.5,
        "reasons": [] if accepted else ["noisy", "drifting"],
    }  # fmt: skip
    lines: list[dict[str, object]] = [
        {"kind": "guest", "cpus": 2, **common},
        {"kind": "scale", "factor": 1.1, **common},
        {"kind": "calibration", "accepted": accepted, **gate, **common},
    ]
    for region, null, true in (("region_a", False, -30.0), ("region_b", True, 0.0)):
        lines.append(
            {
                "kind": "prediction", "shape": "barrier", "region": region, "null": null, "speedup": 0.5,
                "predicted": true + error, "true": true, "uncertainty": 1.0, "period": 1e7, "overhead": 0.8, **common,
            }
        )  # fmt: skip
    return lines


def text(lines: list[dict[str, object]]) -> list[str]:
    return [json.dumps(one) for one in lines] + [""]


def test_boots_become_frames_with_their_own_verdict(tmp_path: Path) -> None:
    failed: dict[str, object] = {"boot": 2, "mode": "parallel", "kind": "failure", "reason": "no"}
    lines = text([*boot(0, True, 1.0), *boot(1, False, 12.0), failed])
    recording = keep_boots(tmp_path / "boots", lines)
    gains, boots = recording.frame("causal_gains"), recording.frame("causal_boots")
    assert list(gains["run"]) == [0, 0, 1, 1] and list(gains["accepted"]) == [
        True,
        True,
        False,
        False,
    ]
    assert set(gains["cpus"]) == {2} and list(gains["label"].astype(str).unique()) == ["barrier"]
    assert list(boots["boot"]) == [0, 1, 2] and list(boots["accepted"]) == [True, False, False]
    assert list(boots["reason"].astype(str)) == ["", "noisy; drifting", "it did not measure itself"]
    assert boots["stop_cost"][0] == 9e4 and math.isnan(boots["stop_cost"][2])
    table = summary(gains, "run")
    assert table.loc[0, "rms"] == pytest.approx(1.0) and table.loc[1, "largest"] == 12.0
    assert table.loc[1, "largest_null"] == 12.0 and list(table["predictions"]) == [2, 2]


def test_deterministic_boots_have_no_gate(tmp_path: Path) -> None:
    lines = [
        one | {"mode": "deterministic"} for one in boot(0, True, 0.1) if one["kind"] == "prediction"
    ]
    recording = keep_boots(tmp_path / "boots", text(lines))
    assert recording.frame("causal_gains")["accepted"].all()
    assert "causal_boots" not in recording.rows or not recording.rows["causal_boots"]


def test_lines_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="of no boot"):
        keep_boots(tmp_path / "one", ['{"kind": "prediction"}'])
    with pytest.raises(BadSpec, match="no prediction"):
        keep_boots(tmp_path / "two", text(boot(0, True, 1.0)[:3]))
    assert not list(tmp_path.iterdir())


def test_a_campaign_keeps_what_is_truly_zero_apart(tmp_path: Path) -> None:
    rows = [
        (7, "locks", 4, 3, 0.25, -10.006, -9.0),
        (7, "locks", 4, 3, 0.5, 0.4, 0.1),
        (9, "pool", 16, 20, 0.9, -50.0, -50.0),
    ]
    columns = ["seed", "shape", "cpus", "tasks", "speedup", "predicted", "true"]
    frame = keep_simulated(tmp_path / "made", pd.DataFrame(rows, columns=columns)).frame(
        "causal_gains"
    )
    assert list(frame["null"]) == [False, True, False] and list(frame["run"]) == [7, 7, 9]
    table = summary(frame, "label")
    assert table.loc["locks", "largest"] == pytest.approx(1.01) and math.isnan(
        table.loc["pool", "largest_null"]
    )


def observed(*, outlier: float = 1.0, drift: float = 0.0) -> list[Observation]:
    """Periods of 10 ms, 8 ms when a region is faster; one of them off, or all of them drifting."""
    random, found, faster = Random(3), list[Observation](), Condition("region_a", 0.5)
    for number in range(18):
        condition = (BASE, faster)[number % 2]
        period = (1e7, 8e6)[number % 2] * math.exp(drift * number + random.gauss(0, 1e-4))
        period *= outlier if number == 3 else 1.0
        found.append(Observation(float(number), condition, period, 0.0, None))
    return found


def test_medians_do_not_move_for_one_experiment() -> None:
    difference, base = _medians(observed(outlier=1.5))
    value, error = difference(Condition("region_a", 0.5), BASE)
    assert value == pytest.approx(math.log(0.8), abs=1e-3) and 0 < error < 1e-3
    assert base == pytest.approx(1e7, rel=1e-3)


def test_a_drift_is_no_gain() -> None:
    value, error = _drifted(observed(drift=0.01))[0](Condition("region_a", 0.5), BASE)
    assert value == pytest.approx(math.log(0.8), abs=5e-3) and error < 0.01


def test_every_shape_is_there_and_two_have_no_gain() -> None:
    assert len(CASES) >= 8 and sum(not one.shape.regions for one in CASES) >= 2
    assert CURVE.label not in {one.label for one in CASES}


def test_a_profile_beside_the_truth() -> None:
    class Given:
        def __init__(self, **frames: pd.DataFrame) -> None:
            self.frames = frames

        def frame(self, name: str) -> pd.DataFrame:
            return self.frames[name]

    speedups = np.arange(5) / 10
    made = pd.DataFrame(
        {
            "region": "region_a",
            "speedup": speedups,
            "change": -50 * speedups,
            "low": 0.0,
            "high": 0.0,
        }
    )
    true = pd.DataFrame({
        "label": CURVE.label, "origin": "scheduler", "region": "region_a", "speedup": [0.2, 0.4], "true": [-9.0, -21.0],
    })  # fmt: skip
    found = beside(Given(causal_profile=made), Given(causal_gains=true))  # type: ignore[arg-type]
    assert list(found["speedup"]) == [0.2, 0.4]
    assert list(found["error"]) == pytest.approx([-1.0, 1.0])


def test_servers_are_found_by_folder_and_compared_where_something_was_measured(
    tmp_path: Path,
) -> None:
    with pytest.raises(MissingFrame, match="no recording"):
        read_servers(tmp_path)
    columns = {
        "spot": ["sign", "parse", "sign"], "region": ["a:sign", "parse", "a:sign"], "bottleneck": [True, False, True],
        "rank": [1, 2, 0], "speedup": [1.0, 1.0, 0.5], "predicted": [-40.0, -5.0, -20.0], "low": [math.nan] * 3,
        "high": [math.nan] * 3, "measured": [-41.5, math.nan, -21.0], "measured_low": [math.nan] * 3,
        "measured_high": [math.nan] * 3, "experiments": [1, 1, 1],
    }  # fmt: skip
    with RecordingWriter(tmp_path / "memcached", options={"about": "planted"}) as writer:
        writer.append("demonstration_gains", columns)
    writer.finish()
    servers = read_servers(tmp_path)
    assert list(servers) == ["memcached"]
    found = table(servers)
    assert list(found["speedup"]) == [0.5, 1.0] and list(found["rank"]) == [1, 1]
    assert list(found["error"]) == pytest.approx([1.0, 1.5]) and set(found["bottleneck"]) == {
        "planted"
    }
