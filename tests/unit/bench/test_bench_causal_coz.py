"""What the comparisons with Coz and with the kernel's own scheduler make of measurements."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.bench import causal_coz, causal_overhead
from workbench.bench.causal_coz_guest import Measurement
from workbench.bench.causal_overhead_guest import Cost
from workbench.bench.result import BenchResult
from workbench.cli import main
from workbench.errors import BadSpec, RunFailed
from workbench.native.build import workload

LINES = {"region_a": 52, "region_b": 53, "region_c": 54}


def one(
    by: str, speedup: float, period: float, repeat: int, *, really: bool = False
) -> Measurement:
    real = period if by == "plain" else 10.4
    really = really or by == "plain"
    return Measurement("serial", "region_a", by, speedup, really, repeat, period, real)


MEASURED = [
    *[one("plain", 0.0, 10.0, repeat) for repeat in range(3)],
    *[one("plain", 0.5, 7.0, repeat) for repeat in range(3)],
    *[one("schedcoz", 0.0, 10.0 + repeat, repeat) for repeat in range(3)],
    *[one("schedcoz", 0.5, 6.9 + 0.69 * repeat, repeat) for repeat in range(3)],
    *[one("schedcoz", 0.5, 7.04 + 0.704 * repeat, repeat, really=True) for repeat in range(3)],
    *[one("coz", 0.0, 12.0, repeat) for repeat in range(3)],
    *[one("coz", 0.5, [6.0, 6.6, 7.2][repeat], repeat) for repeat in range(3)],
]  # fmt: skip


def test_errors_and_spreads_of_both() -> None:
    (found,) = causal_coz.predictions(MEASURED)
    assert found.truth == pytest.approx(-30) and found.truth_schedcoz == pytest.approx(-29.6)
    assert found.schedcoz_error == pytest.approx(-1) and found.coz_error == pytest.approx(-15)
    assert found.schedcoz_spread == pytest.approx(0, abs=1e-9)  # each repeat against its own base
    assert found.coz_spread == pytest.approx(5) and found.comparable
    assert causal_coz.overheads(MEASURED)["serial"] == pytest.approx((4, 4))


def test_counts_and_checks() -> None:
    result = causal_coz.summarise(MEASURED, "a guest")
    rows = {row.name: row for row in result.rows}
    assert (
        rows["SchedCoz closer to the truth"].value == 1
        and rows["SchedCoz closer to the truth"].unit == "of 1"
    )
    assert rows["SchedCoz with the smaller spread"].value == 1
    assert rows["root mean square error of Coz"].value == pytest.approx(15)
    assert [check.value for check in result.checks] == pytest.approx([100, 100, 4]) and result.ok
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (
        document["predictions"][0]["coz_error"] == pytest.approx(-15)
        and document["guest"] == "a guest"
    )
    assert "serial   region_a" in str(result)


def test_what_coz_cannot_see_does_not_count_against_it() -> None:
    result = causal_coz.summarise([*MEASURED, *[replace(m, shape="pipe") for m in MEASURED]])
    assert [p.comparable for p in result.predictions] == [True, False]
    closer = next(row for row in result.rows if row.name == "SchedCoz closer to the truth")
    assert closer.unit == "of 1"
    assert "not for Coz" in str(result)


def test_a_machine_that_was_refused_fails() -> None:
    calibration = {"stop_cost": 120_000.0, "reasons": ["it is busy"]}
    result = causal_coz.summarise(MEASURED, "a guest", calibration)
    assert not result.ok and "a guest (refused: it is busy)" in str(result)
    assert result.rows[-1].value == 120
    assert causal_coz.summarise(MEASURED, "a guest", {**calibration, "reasons": []}).ok


def test_one_repeat_has_no_spread() -> None:
    result = causal_coz.summarise([m for m in MEASURED if m.repeat == 0])
    assert math.isnan(result.predictions[0].coz_spread)
    assert result.to_json()["predictions"][0]["coz_spread"] is None
    assert not result.ok


def test_setups_follow_shapes_and_mode() -> None:
    assert {one.shape for one in causal_coz.setups("deterministic", [], LINES)} == {
        "serial", "join", "timer", "barrier", "lock", "queue", "pipe", "hidden",
    }  # fmt: skip
    (quick,) = causal_coz.setups("deterministic", ["timer"], LINES)
    (slow,) = causal_coz.setups("parallel", ["timer"], LINES)
    assert slow.knobs[0] == 3 * quick.knobs[0] and slow.knobs[3] == 1.5 * quick.knobs[3]
    assert quick.line == "causal_shapes.c:52"
    with pytest.raises(BadSpec, match="there is no shape 'timers'"):
        causal_coz.setups("deterministic", ["timers"], LINES)


def test_overhead_is_that_of_the_medians() -> None:
    values = {False: [10e6, 10e6, 30e6], True: [10.4e6, 10.4e6, 10.4e6]}
    costs = [
        Cost("sqlite3", way, n, value)
        for way, some in values.items()
        for n, value in enumerate(some)
    ]
    result = causal_overhead.summarise(costs)
    (check,) = result.checks
    assert check.value == pytest.approx(4) and check.ok
    assert not causal_overhead.summarise([one for one in costs if one.with_schedcoz]).ok


def test_an_option_that_a_benchmark_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, object] = {}

    def run(mode: str = "", repeats: int = 1) -> BenchResult:
        given.update(mode=mode, repeats=repeats)
        return BenchResult("causal-overhead", (), ())

    monkeypatch.setattr(causal_overhead, "run", run)
    assert main(["bench", "causal-overhead", "--mode", "parallel", "--repeats", "7"]) == 0
    assert given == {"mode": "parallel", "repeats": 7}
    assert main(["bench", "causal-overhead", "--shapes", "lock"]) == 2
    assert "causal-overhead has no --shapes" in capsys.readouterr().err


def test_the_workload_counts_its_rounds_and_shortens_its_work() -> None:
    (setup,) = causal_coz.setups("deterministic", ["serial"], LINES)
    small = replace(setup, knobs=(20_000, 10_000, 0, 0, 0), program=str(workload("causal_shapes_coz")))
    with small.running(before=["env", "-u", "HOME"]) as running:
        period = []
        for by in (0.0, 0.9):
            running.work(small.shorter(by))
            while (begin := running.rounds())[0] < 3:
                os.sched_yield()
            while running.rounds()[0] < begin[0] + 5:
                os.sched_yield()
            period.append(running.period(begin))
        assert period[1] > 0 and 0 < period[0] < 1e9
        assert running.pids == [running.pid]
        assert math.isnan(running.period((10**9, 0)))
        assert running.shape.work == small.knobs and running._numbers[:2].tolist() == [2_000, 10_000]


def test_a_workload_that_does_not_start_is_said(tmp_path: Path) -> None:
    (setup,) = causal_coz.setups("deterministic", ["serial"], LINES)
    with (tmp_path / "errors").open("wb") as errors, pytest.raises(RunFailed, match="no rounds"):
        replace(setup, program="none").running(before=["env"], errors=errors).__enter__()
    assert "none" in (tmp_path / "errors").read_text()
