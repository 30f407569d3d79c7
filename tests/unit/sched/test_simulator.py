"""The simulated machine itself: known answers, equal runs, refused workloads."""

from __future__ import annotations

import pytest

from workbench.errors import RunFailed
from workbench.sched.simulator import Experiment, Machine, Program, Simulation, Workload

MS = 1_000_000


def period(workload: Workload, machine: Machine, hits: int = 300, **given: float) -> float:
    with Simulation(workload, machine) as simulation:
        return simulation.run(Experiment(**given), hits=hits, settle=100 * MS).period  # type: ignore[arg-type]


def test_a_pipeline_is_as_fast_as_its_slowest_stage() -> None:
    workload = Workload()
    first, second = workload.channel(4), workload.channel(4)
    workload.task(Program().repeat(Program().run(2 * MS).send(first)))
    workload.task(Program().repeat(Program().receive(first).run(5 * MS).send(second)))
    workload.task(Program().repeat(Program().receive(second).run(3 * MS).progress()))
    assert period(workload, Machine(cpus=3)) == pytest.approx(5 * MS, rel=1e-6)


def test_one_cpu_carries_everything_out_in_turn() -> None:
    workload = Workload()
    workload.task(Program().repeat(Program().run(2 * MS).progress()))
    workload.task(Program().repeat(Program().run(3 * MS)))
    # Both get half of the CPU: the first needs 2 ms of it per round.
    assert period(workload, Machine(cpus=1, switch_cost=0)) == pytest.approx(4 * MS, rel=0.01)


def test_a_lock_admits_one_at_a_time() -> None:
    workload = Workload()
    lock = workload.lock()
    workload.task(
        Program().repeat(Program().lock(lock).run(1 * MS).unlock(lock).run(0.1 * MS).progress()), 4
    )
    assert period(workload, Machine(cpus=4)) == pytest.approx(1 * MS, rel=0.01)


def test_children_are_joined_and_sleep_takes_its_time() -> None:
    workload = Workload()
    child = workload.add(Program().run(3 * MS))
    workload.task(
        Program().repeat(Program().spawn(child).spawn(child).join().sleep(2 * MS).progress())
    )
    assert period(workload, Machine(cpus=2, switch_cost=0)) == pytest.approx(5 * MS, rel=1e-3)


def test_equal_inputs_give_equal_outputs() -> None:
    def once(seed: int) -> object:
        workload = Workload()
        queue = workload.channel(2)
        workload.task(Program().repeat(Program().run(1 * MS, 1, 0.5).send(queue)), 2)
        workload.task(
            Program().repeat(
                Program().receive(queue).maybe(Program().run(2 * MS, 2, 0.5), 0.4).progress()
            )
        )
        with Simulation(workload, Machine(lost=0.2, wake_latency=10**5, seed=seed)) as simulation:
            return simulation.run(Experiment(region=1, speedup=0.5), hits=500)

    assert once(3) == once(3)
    assert once(3) != once(4)


def test_samples_stand_for_the_time_in_the_region() -> None:
    workload = Workload()
    workload.task(Program().repeat(Program().run(3 * MS, 1, 0.3).run(7 * MS, 2, 0.3).progress()))
    with Simulation(workload, Machine(lost=0.3)) as simulation:
        outcome = simulation.run(Experiment(region=1, speedup=0.5), hits=3000)
    assert outcome.lost > 0.25 * outcome.samples
    assert outcome.global_growth == pytest.approx(0.5 * outcome.region_time, rel=0.03)


@pytest.mark.parametrize(
    "operation",
    [(99, 0, 0, 0), (1, 64, 1, 0), (1, 0, -1, 0), (2, 1, 0, 0), (9, 50, 0, 0), (8, 8, 0, 0)],
)
def test_operations_that_do_not_exist_are_refused(operation: tuple[int, int, int, int]) -> None:
    workload = Workload()
    program = Program()
    program.operations.append(operation)
    workload.task(program)
    workload.operations = [operation, (0, 0, 0, 0)]
    with pytest.raises(ValueError, match="cannot be simulated"):
        Simulation(workload)


def test_a_workload_that_does_nothing_ends_with_an_error() -> None:
    workload = Workload()
    workload.task(Program().repeat(Program().progress()))
    with Simulation(workload) as simulation, pytest.raises(RunFailed, match="goes round"):
        simulation.run(Experiment(), hits=10**9)


def test_too_many_children_end_with_an_error() -> None:
    workload = Workload(room=8)
    child = workload.add(Program().run(100 * MS))
    workload.task(Program().repeat(Program().spawn(child).run(1000).progress()))
    with Simulation(workload) as simulation, pytest.raises(RunFailed, match="room"):
        simulation.run(Experiment())


def test_loops_nest_four_deep_at_most() -> None:
    program = Program().run(1)
    for _ in range(4):
        program = Program().repeat(program, 2)
    with pytest.raises(ValueError, match="four deep"):
        Program().repeat(program, 2)
