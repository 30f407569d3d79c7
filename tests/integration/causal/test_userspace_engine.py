"""Experiments in the threads of one process, without the scheduler.

A busy machine changes how long everything takes, so what is asserted is what the books must say whatever the time was:
what was credited for the region, who paid, whose clock was taken over.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shaped_target import Shaped

from workbench.causal.points import resolve_points
from workbench.causal.regions import Finder, Region
from workbench.causal.session import profile
from workbench.causal.userspace import DEFAULTS, UserspaceEngine
from workbench.cli import main
from workbench.collectors.modules import Modules
from workbench.errors import MissingCapability
from workbench.frames.recording import load
from workbench.objects.model import builtin
from workbench.sched.schedcoz import Measured, Parameters

A_MS = 24_000
"""Turns of the workload that take about a millisecond on a machine of today."""


def engine_of(target: Shaped, parameters: Parameters = DEFAULTS) -> UserspaceEngine:
    modules = Modules(target.pid)
    points = [
        (one.path, one.offset, one.semaphore) for one in resolve_points(modules, ["progress"])
    ]
    return UserspaceEngine(builtin("causal"), target.pid, points, parameters, modules=modules)


def cpu_time(pid: int) -> int:
    """CPU time of a process, threads that have ended included, ns (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def experiment(
    engine: UserspaceEngine, target: Shaped, region: str, speedup: float, rounds: int = 12
) -> Measured:
    engine.select(Finder().places([target.pid], Region(region)))
    engine.begin(speedup)
    target.make_rounds(rounds)
    (found,) = engine.end()
    assert found.valid and found.count >= rounds - 1
    return found


def test_one_thread_gains_what_its_region_took_and_nothing_from_code_that_never_runs(
    tmp_path: Path,
) -> None:
    with Shaped("serial", tmp_path, 4 * A_MS, 2 * A_MS) as target, engine_of(target) as engine:
        half = experiment(engine, target, "region_a", 0.5)
        none = experiment(engine, target, "region_a", 0.0)
        null = experiment(engine, target, "region_c", 0.75)
        again = experiment(engine, target, "region_b", 0.5)
    for one in (none, null):
        assert one.period == one.real_period and not one.paid and not one.grown
    assert none.hits and not null.hits and null.samples
    for one in (half, again):
        credited = (one.real_period - one.period) * (one.count - 1)
        assert one.grown == pytest.approx(one.weighted / 2, rel=0.01)
        assert credited == pytest.approx(
            one.grown, rel=0.2
        )  # but for what was before the first and after the last
        assert not one.payments  # nobody else is there
    # a is twice as long as b, and both are all there is.
    assert 0.5 < half.hits / half.samples < 0.8 and 0.2 < again.hits / again.samples < 0.5
    assert half.period / half.real_period < null.period / null.real_period


def test_who_slept_pays_what_accrued_and_who_joins_takes_it_over(tmp_path: Path) -> None:
    # A thread that runs region_a, beside one that sleeps longer: both are joined every round.
    with (
        Shaped("timer", tmp_path, 4 * A_MS, 0, 0, 30_000_000) as target,
        engine_of(target) as engine,
    ):
        none = experiment(engine, target, "region_a", 0.0, rounds=5)
        null = experiment(engine, target, "region_a", 1.0)
    assert none.period == none.real_period and not none.payments
    assert null.merges and null.payments >= null.count - 1  # the sleeper, at its end, at least
    assert null.grown == pytest.approx(null.weighted, rel=0.1)
    assert null.paid > null.grown / 2
    taken_over = (null.real_period - null.period) * (null.count - 1)
    assert null.grown / 2 < taken_over < 2 * null.grown


@pytest.mark.needs("sigtrap breakpoint")
def test_samples_stand_for_all_of_the_time_of_threads_that_live_for_a_few_of_them(
    tmp_path: Path,
) -> None:
    """What is after the last sample of a thread, half a period on average, counts."""
    sampled, took = 0, 0.0
    with (
        Shaped("join", tmp_path, 0, 0) as target,
        engine_of(target, replace(DEFAULTS, period=1_000_000)) as engine,
    ):
        engine.select(Finder().places([target.pid], Region("region_a")))

        def measure(turns: int, rounds: int) -> tuple[int, float, int]:
            """ns that the samples in the region stand for, CPU time of all threads, and rounds."""
            target.numbers[0] = turns
            target.make_rounds(2)
            before, begun = target.rounds, cpu_time(target.pid)
            engine.begin(0.0)
            target.make_rounds(rounds)
            [found] = engine.end()
            return found.weighted, cpu_time(target.pid) - begun, target.rounds - before

        _, cpu, rounds = measure(0, 200)
        beside = cpu / rounds
        for turns in np.linspace(3 * A_MS, 4 * A_MS, 10, dtype=int):
            stands_for, cpu, rounds = measure(int(turns), 20)
            sampled, took = sampled + stands_for, took + cpu - rounds * beside
    # Three in a hundred go to the kernel and to the sampling itself. Without the first sample's half, 0.83.
    assert 0.89 < sampled / took < 1.08


def test_threads_that_compute_beside_the_region_are_delayed(tmp_path: Path) -> None:
    with (
        Shaped("barrier", tmp_path, 4 * A_MS, 3 * A_MS, A_MS) as target,
        engine_of(target) as engine,
    ):
        none = experiment(engine, target, "region_b", 0.0, rounds=5)
        null = experiment(engine, target, "region_b", 0.75)
    assert not none.payments and none.merges  # who waits at the barrier is woken
    assert null.payments and null.paid and null.merges
    assert null.real_period > null.period
    # No payment without a debt: three threads, each of which owes at most what accrued (and sleeps longer than asked).
    assert null.paid < 20 * null.grown


def test_a_run_without_sched_ext_says_what_carried_it_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = Shaped("serial", tmp_path, 2 * A_MS, A_MS)
    words = [
        "-p",
        "progress",
        "-r",
        "region_a",
        "--speedups",
        "0,0.5",
        "--rounds",
        "2",
        "--shortest",
        "0.15",
    ]
    words += ["--tolerance", "1000", "--backend", "userspace", "-o", str(tmp_path / "made")]
    status = main(["causal", "run", "--json", *words, "--", *target.command])
    printed = capfd.readouterr()
    document = json.loads(printed.out)
    assert status in (0, 1) and document["backend"] == {"name": "userspace", "why": "as asked for"}
    assert "backend: userspace" in printed.err
    recording = load(tmp_path / "made")
    assert recording.manifest.notes["backend"]["name"] == "userspace"
    experiments = recording.frame("experiments")
    assert len(experiments) == 4 and set(experiments["region"]) == {"region_a"}
    sped = experiments[experiments["speedup"] > 0]
    assert (sped["hits"] > 0).all() and (sped["growth"] > 0).all()
    assert not math.isnan(recording.frame("progress")["period"].iloc[0])


def test_several_processes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with (
        Shaped("pipe", tmp_path, A_MS, A_MS) as target,
        pytest.raises(MissingCapability, match="one process") as error,
    ):
        profile(
            ["progress"],
            ["region_a"],
            pid=target.pid,
            output=tmp_path / "made",
            backend="userspace",
        )
    assert "--lab" in error.value.hint and "sched_ext" in error.value.hint
    assert not (tmp_path / "made").exists()
