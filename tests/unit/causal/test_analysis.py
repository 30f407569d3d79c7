"""The profile of experiments whose truth is known, the gate, and both formats of Coz."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from causal_engines import Known, Program, Synthetic

from workbench.causal.analysis import causal_profile, gate, phases
from workbench.causal.controller import experiments
from workbench.causal.coz_format import read_coz, records, write_coz
from workbench.causal.plan import Plan
from workbench.causal.regions import Region
from workbench.causal.results import Results
from workbench.errors import BadSpec
from workbench.frames.recording import Recording
from workbench.frames.writer import RecordingWriter


def record(
    path: Path, engine: Synthetic, program: Program | None = None, *, rounds: int = 40
) -> tuple[Results, Recording]:
    plan = Plan((Region("main.c:5"), Region("other")), speedups=(0.25, 0.5), rounds=rounds)
    points = [f"point{number}" for number in range(len(engine.counts) + engine.pairs)]
    results = Results(RecordingWriter(path, collectors=["causal"]), points)
    for one in experiments(engine, program or Program(), plan, points, finder=Known()):  # type: ignore[arg-type]
        results.add(one)
    return results, results.finish("complete", "", seed=1, tolerance=3)


def test_predictions_are_those_of_the_program(tmp_path: Path) -> None:
    _, recording = record(tmp_path / "made", Synthetic(share=0.6, noise=0.02))
    table = recording.frame("causal_profile")
    assert list(table.columns) == [
        "region", "point", "kind", "speedup", "period", "change", "low", "high", "experiments", "phase", "corrected",
    ]  # fmt: skip
    assert len(table) == 6 and set(table["experiments"]) == {40}
    for row in table.itertuples():
        truth = -60 * row.speedup
        assert row.change == pytest.approx(truth, abs=1.5)
        assert row.low <= row.change <= row.high
        assert row.high - row.low < 4
        assert row.low - 1 < truth < row.high + 1
    assert recording.manifest.notes["gate"]["ok"] and not recording.manifest.notes["warnings"]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(5), 0
    for trial in range(60):
        made = pd.DataFrame(
            {"number": range(40), "region": "a", "speedup": [0.0, 0.5] * 20, "valid": True}
        )
        truth = np.where(made["speedup"] > 0, 70.0, 100.0)
        passed = pd.DataFrame(
            {"experiment": range(40), "point": "p", "period": truth * random.normal(1, 0.05, 40)}
        )
        table = causal_profile(made, passed, seed=trial)
        row = table[table["speedup"] > 0].iloc[0]
        held += row["low"] <= -30 <= row["high"]
    assert held >= 48  # 95 % of 60 are 57; a bootstrap of medians of 20 is a little short


def test_the_same_seed_gives_the_same_intervals(tmp_path: Path) -> None:
    results, recording = record(tmp_path / "made", Synthetic(noise=0.05))
    first = causal_profile(*results.frames(), seed=1)
    pd.testing.assert_frame_equal(first, causal_profile(*results.frames(), seed=1))
    assert not first.equals(causal_profile(*results.frames(), seed=2))
    assert np.allclose(recording.frame("causal_profile")["low"], first["low"])


def test_without_enough_experiments_there_is_no_interval_and_without_a_base_no_change() -> None:
    made = pd.DataFrame({"number": [1, 2], "region": "a", "speedup": [0.0, 0.5], "valid": True})
    passed = pd.DataFrame({"experiment": [1, 2], "point": "p", "period": [100.0, 80.0]})
    row = causal_profile(made, passed).iloc[1]
    assert row["change"] == pytest.approx(-20) and np.isnan(row["low"])
    alone = causal_profile(made[made["speedup"] > 0], passed).iloc[0]
    assert np.isnan(alone["change"]) and alone["period"] == 80
    assert causal_profile(made.assign(valid=False), passed).empty


def test_dropped_experiments_do_not_count_and_are_told(tmp_path: Path) -> None:
    _, recording = record(tmp_path / "made", Synthetic(counts=(50, 2)), rounds=2)
    made = recording.frame("experiments")
    assert len(made) == 12 and not made["valid"].any()
    assert set(made["reason"]) == {"point1 was passed 2 times, which is too few"}
    assert len(recording.frame("progress")) == 24
    assert recording.frame("causal_profile").empty
    notes = recording.manifest.notes
    assert not notes["gate"]["ok"] and "too few" in notes["gate"]["reason"]
    assert "12 of 12 experiments do not count" in notes["warnings"][0]


def test_a_region_without_samples_is_told(tmp_path: Path) -> None:
    results, _ = record(tmp_path / "made", Synthetic(), rounds=2)
    from workbench.causal.results import _warnings

    made, _ = results.frames()
    made.loc[made["region"] == "other", "hits"] = 0
    assert [text.split(":")[0] for text in _warnings(made, "")] == ["no sample was in other"]


def test_a_run_whose_halves_differ_is_void() -> None:
    made = pd.DataFrame({"number": range(1, 9), "region": "a", "speedup": 0.0, "valid": True})
    steady = pd.DataFrame({"experiment": range(1, 9), "point": "p", "period": 100.0})
    assert gate(made, steady).ok
    drifting = steady.assign(period=[100.0] * 4 + [104.0] * 4)
    found = gate(made, drifting)
    assert not found.ok and found.apart == pytest.approx(4) and "not steady" in str(found)
    assert gate(made, drifting, tolerance=5).ok
    assert not gate(made.head(1), steady).ok
    assert not gate(made.iloc[:0], steady.iloc[:0]).ok


@pytest.mark.parametrize("tabs", [False, True])
def test_coz_format_comes_back_as_it_was(tmp_path: Path, tabs: bool) -> None:
    results, _ = record(tmp_path / "made", Synthetic(counts=(50, 40)), rounds=2)
    made, passed = results.frames()
    made.loc[3, "valid"] = False
    path = tmp_path / "profile.coz"
    write_coz(path, made, passed, tabs=tabs)
    found = read_coz(path.read_text().splitlines())
    assert found == list(records(made, passed))
    kinds = [one["type"] for one in found]
    assert kinds[0] == "startup" and kinds.count("experiment") == 11
    assert kinds.count("throughput-point") == 22 and kinds[-2:] == ["samples", "samples"]
    first = next(one for one in found if one["type"] == "experiment")
    assert first["duration"] == round(40 * passed["period"][0])
    assert {"selected", "speedup", "duration", "selected_samples"} < set(first)


def test_the_profile_is_in_the_recording_for_cozs_viewer(tmp_path: Path) -> None:
    _, recording = record(tmp_path / "made", Synthetic(), rounds=2)
    lines = recording.file("profile.coz").decode().splitlines()
    assert json.loads(lines[0])["type"] == "startup"
    assert sum(json.loads(line)["type"] == "experiment" for line in lines) == 12


def test_logs_of_coz_itself_are_read() -> None:
    old = (
        "startup\ttime=1\nexperiment\tselected=toy.c:30\tspeedup=0.25\tduration=500\tselected-samples=7\n"
        "throughput-point\tname=end\tdelta=48\nsamples\tlocation=toy.c:30\tcount=9\nruntime\ttime=77\n"
    )
    found = read_coz(old.splitlines())
    assert found[1] == {
        "type": "experiment", "selected": "toy.c:30", "speedup": 0.25, "duration": 500, "selected_samples": 7,
    }  # fmt: skip
    assert found[2]["delta"] == 48
    for wrong in ("experiment\tspeedup", "{", '{"a": 1}', "samples\tcount=x"):
        with pytest.raises(BadSpec, match="line 1"):
            read_coz([wrong])


def two_phases(seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A run of 400 s that is for a quarter of its time in a phase where `a` takes 60 % of a round, else without it.

    Experiments on `a` above 0 % count only where it was found, as the controller has it.
    """
    random, made, passed = np.random.default_rng(seed), [], []
    counts = {"a": 0, "b": 0}
    for number in range(800):
        here = number % 4 == 0
        region = ("a", "b")[number // 4 % 2] if number % 8 < 4 else str(random.choice(["a", "b"]))
        speedup = float(random.choice([0.0, 0.5]))
        hits = {"a": 300 if here else 0, "b": 200}
        base = 10e6 if here else 4e6
        gain = speedup * {"a": 0.6, "b": 0.4 if here else 1.0}[region] if hits[region] else 0
        if not speedup:
            counts = {name: counts[name] + hits[name] for name in counts}
        reason = "" if hits[region] or not speedup else "no sample"
        made.append((number, region, speedup, 500_000_000, not reason, reason, 500, hits[region]))
        passed.append((number, "p", base * (1 - gain) * random.normal(1, 0.01)))
    names = ["number", "region", "speedup", "duration", "valid", "reason", "samples", "hits"]
    samples = pd.DataFrame({"location": list(counts), "plain": list(counts.values())})
    return (
        pd.DataFrame(made, columns=names),
        pd.DataFrame(passed, columns=["experiment", "point", "period"]),
        samples,
    )


def test_a_region_of_one_phase_is_compared_with_that_phase_and_corrected_for_the_others() -> None:
    made, passed, samples = two_phases(3)
    factors = phases(made, samples)
    assert factors["a"] == pytest.approx(0.25, abs=0.05)
    assert factors["b"] == pytest.approx(1, abs=0.05)
    table = causal_profile(made, passed, phase=factors).set_index(["region", "speedup"])
    row = table.loc[("a", 0.5)]
    assert row["change"] == pytest.approx(
        -30, abs=1
    )  # of its phase; against all of the run it would be +75 %
    assert row["corrected"] == pytest.approx(-30 * 0.25, abs=1.5)
    assert row["phase"] == factors["a"]


def test_without_samples_or_enough_of_them_nothing_is_corrected() -> None:
    made, passed, samples = two_phases(4)
    assert np.isnan(causal_profile(made, passed)["corrected"]).all()
    few = samples.assign(plain=[9, 10_000])
    assert set(phases(made, few)) == {"b"}


@pytest.mark.parametrize("tabs", [False, True])
def test_cozs_viewer_comes_to_the_latency(tmp_path: Path, tabs: bool) -> None:
    results, _ = record(tmp_path / "made", Synthetic(latencies=1), rounds=2)
    made, passed = results.frames()
    path = tmp_path / "profile.coz"
    write_coz(path, made, passed, tabs=tabs)
    found, seen = read_coz(path.read_text().splitlines()), 0
    for one, throughput, latency in zip(found, found[1:], found[2:], strict=False):
        if one["type"] != "experiment":
            continue
        seen += 1
        assert throughput["type"] == "throughput-point" and latency["type"] == "latency-point"
        assert (latency["arrivals"], latency["departures"]) == (49, 48)
        if not tabs:  # getDataPoint of viewer/ts/profile.ts
            shown = latency["difference"] / (latency["arrivals"] / one["duration"])
            assert shown == pytest.approx(0.8 * one["duration"] / 50, rel=1e-6)
    assert seen == 12


def test_a_profile_of_latencies_alone_is_in_cozs_format(tmp_path: Path) -> None:
    results, _ = record(tmp_path / "made", Synthetic(counts=(), latencies=1), rounds=2)
    found = list(records(*results.frames()))
    one, latency = found[1:3]
    shown = latency["difference"] / (latency["arrivals"] / one["duration"])
    assert shown == pytest.approx(results.frames()[1]["period"][0], rel=1e-6)
