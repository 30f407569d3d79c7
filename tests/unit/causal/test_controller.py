"""Experiments as the controller runs them, on an engine in virtual time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from causal_engines import Known, Program, Synthetic

from workbench.causal import controller
from workbench.causal.controller import Experiment
from workbench.causal.plan import Plan
from workbench.causal.regions import Region
from workbench.causal.target import ProcessTarget
from workbench.errors import TargetGone
from workbench.sched.measured import Measured

PLAN = Plan((Region("a"),), speedups=(0.0, 0.5), rounds=3)


def run(
    engine: Synthetic, program: Program, plan: Plan = PLAN, missing: tuple[str, ...] = ()
) -> Iterator[Experiment]:
    points = [f"point{number}" for number in range(len(engine.counts))]
    return controller.experiments(engine, program, plan, points, finder=Known(missing))  # type: ignore[arg-type]


def test_every_experiment_is_given_out_with_what_it_measured() -> None:
    engine, told = Synthetic(), []
    made = list(
        controller.experiments(
            engine,
            Program(),
            PLAN,
            ["done"],
            finder=Known(),
            progress=lambda s: told.append(str(s)),  # type: ignore[arg-type]
        )
    )
    assert [one.number for one in made] == list(range(1, 7))
    assert [one.speedup for one in made] == engine.begun
    assert sorted(engine.begun) == [0, 0, 0, 0.5, 0.5, 0.5]
    assert all(
        one.valid and one.measured[0].period == 1e7 * (1 - 0.6 * one.speedup) for one in made
    )
    assert engine.selected == [{1: ((0x1000, 0x2000),), 2: ((0x1000, 0x2000),)}] * 6
    assert told[2].startswith("experiment 3: a ") and "(2 done, " in told[2]


def test_an_experiment_without_progress_is_dropped_and_the_next_one_longer() -> None:
    program = Program()
    made = list(run(Synthetic(counts=(50, 0)), program))
    assert {one.reason for one in made} == {"no progress at point1"}
    assert program.slept[1::3] == [0.5, 1, 2, 4, 8, 8]


class Queue(Synthetic):
    """A program whose consumer, as soon as it is faster, first takes what was queued: 20 passes too many."""

    def __init__(self) -> None:
        super().__init__()
        self.stock = 0

    def begin(self, speedup: float) -> None:
        super().begin(speedup)
        self.stock = 20 if speedup else 0

    def count_anew(self) -> None:
        super().count_anew()
        self.stock = 0

    def end(self) -> list[Measured]:
        found = super().end()
        return [
            replace(one, count=one.count + self.stock, period=one.period * 50 / (50 + self.stock))
            for one in found
        ]


def test_progress_is_counted_once_an_experiment_has_settled() -> None:
    program, engine = Program(), Queue()
    plan = replace(PLAN, settle=0.4)
    made = list(run(engine, program, plan))
    assert {(one.speedup, one.measured[0].period) for one in made} == {(0, 1e7), (0.5, 7e6)}
    assert program.slept[:3] == [0.4 * 0.5, 0.5, plan.pause] and engine.settled == 6
    assert all(0 < one.settled < one.duration for one in made)
    program, engine = Program(), Queue()
    made = list(run(engine, program, replace(plan, settle=0)))
    assert {(one.speedup, one.measured[0].period) for one in made} == {(0, 1e7), (0.5, 5e6)}
    assert program.slept[:2] == [0.5, plan.pause] and {one.settled for one in made} == {0}


def test_what_settles_is_a_part_of_the_length_as_that_grows() -> None:
    program = Program()
    list(run(Synthetic(counts=(2,)), program))
    assert program.slept[::3] == [pytest.approx(0.3 * one) for one in program.slept[1::3]]
    assert program.slept[1] == 0.5 and program.slept[-2] == 8


def test_too_little_progress_is_said_with_its_point() -> None:
    made = list(run(Synthetic(counts=(4, 50)), Program()))
    assert {one.reason for one in made} == {"point0 was passed 4 times, which is too few"}
    assert made[0].measured[1].count == 50


def test_an_experiment_that_did_not_find_its_region_is_dropped_unless_it_was_to_change_nothing() -> (
    None
):
    engine = Synthetic()
    engine.hits = 0
    made = list(run(engine, Program()))
    assert {(one.speedup, one.reason) for one in made} == {(0.0, ""), (0.5, controller.NOT_SAMPLED)}


def test_a_latency_needs_arrivals_and_departures() -> None:
    engine = Synthetic(counts=(), latencies=1)
    plan = Plan((Region("a"),), speedups=(0.0, 0.5), rounds=1)
    names = ["begin,end"]
    made = list(controller.experiments(engine, Program(), plan, names, finder=Known()))  # type: ignore[arg-type]
    assert all(one.valid and one.measured[0].departures == 48 for one in made)
    whole = engine.end()[0]
    for changed, reason in (
        ({"departures": 4}, "begin,end was passed 4 times, which is too few"),
        ({"period": float("nan")}, "how many were inside begin,end could not be counted"),
    ):
        judged = controller._judge([replace(whole, **changed)], names, 0.5, 0.5, 0.5)
        assert judged == reason


def test_what_is_left_is_known_from_the_time_or_from_the_rounds() -> None:
    told: list[controller.State] = []
    controller_run = controller.experiments(
        Synthetic(),
        Program(),
        PLAN,
        ["done"],
        finder=Known(),
        progress=told.append,  # type: ignore[arg-type]
    )
    list(controller_run)
    assert [state.total for state in told] == [6] * 6
    choice = told[0].choice
    assert controller.State(0, 0, 0, 0, 0.5, choice).remaining is None
    assert controller.State(2, 0, 3, 0, 0.5, choice, 6).remaining == pytest.approx(6)
    assert controller.State(2, 0, 3, 5, 0.5, choice, 6).remaining == pytest.approx(2)


def test_experiments_end_when_the_kernel_takes_the_scheduler_away() -> None:
    made = list(run(Synthetic(valid=2), Program()))
    assert [one.reason for one in made] == ["", "", "the kernel took the scheduler away"]


def test_experiments_end_with_the_target() -> None:
    for waits in (4, 5):  # while the second one settles, and while it is counted
        made = list(run(Synthetic(), Program(waits=waits)))
        assert [one.reason for one in made] == ["", "the target ended"]


def test_an_interrupt_gives_out_what_was_running_and_is_raised() -> None:
    engine = Synthetic()
    made: list[Experiment] = []
    with pytest.raises(KeyboardInterrupt):
        made.extend(run(engine, Program(interrupted=5)))
    assert [one.reason for one in made] == ["", "interrupted"]
    assert len(engine.begun) == 2


def test_a_region_that_is_nowhere_is_dropped_and_given_up() -> None:
    made = list(run(Synthetic(), Program(), missing=("a",)))
    assert [one.reason for one in made] == ["no function 'a'"] * 3
    plan = Plan((Region("a"), Region("b")), speedups=(0.5,), rounds=4)
    made = list(run(Synthetic(), Program(), plan, missing=("a",)))
    assert len(made) == 16 and sum(one.valid for one in made) == 8


def test_an_experiment_in_which_the_machine_stood_still_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(0, 10**15, 3 * 10**9))
    monkeypatch.setattr(controller.time, "monotonic_ns", lambda: next(now))
    made = next(run(Synthetic(), Program()))
    assert "stood still" in made.reason


def test_time_that_is_over_ends_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(controller.time, "monotonic", lambda: next(now))
    plan = Plan((Region("a"),), seconds=5)
    assert len(list(islice(run(Synthetic(), Program(), plan), 20))) == 4


def test_a_target_is_waited_for_until_it_ends() -> None:
    child = subprocess.Popen(["sleep", "60"])
    target = ProcessTarget(child.pid)
    try:
        assert target.pids() == [child.pid]
        assert target.wait(0.01)
        os.kill(child.pid, signal.SIGKILL)
        assert not target.wait(60)
    finally:
        target.close()
        child.kill()
        child.wait()
    with pytest.raises(TargetGone):
        ProcessTarget(child.pid)
