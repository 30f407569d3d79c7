"""The rules of causal profiling: each is needed, and together they predict what really shortening a region gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workbench.sched.fidelity import FINE, campaign, gains, summary
from workbench.sched.graphs import Graph, random_graph
from workbench.sched.simulator import Experiment, Machine, Program, Simulation, Workload

MS = 1_000_000
WITHOUT = {"weight": 1, "credit": 2, "inheritance": 4, "hand-off": 8, "holding": 16, "service": 32}
#: What a virtual machine costs: time to wake, to stop, to be stopped, and samples that are lost.
COSTLY = Machine(
    wake_latency=120_000, stop_latency=120_000, stop_cost=120_000, timer_latency=60_000, lost=0.2
)
COARSE = Experiment(period=1_000_000, min_debt=500_000)


def workers(first: float, second: float, machine: Machine, region: int) -> Graph:
    """Two workers between two barriers and a main thread that makes progress."""
    workload = Workload()
    start, end = workload.barrier(3), workload.barrier(3)
    for number, time in enumerate((first, second), 1):
        workload.task(Program().repeat(Program().barrier(start).run(time, number).barrier(end)))
    workload.task(Program().repeat(Program().barrier(start).barrier(end).run(0.3 * MS).progress()))
    return Graph("workers", workload, region, machine, 50 * MS)


def errors(graph: Graph, experiment: Experiment) -> list[float]:
    return [
        abs(predicted - true)
        for _, predicted, true in gains(graph, experiment=experiment, hits=600)
    ]


@pytest.mark.parametrize(
    "machine", [Machine(), COSTLY, replace(COSTLY, wake_latency=400_000, stop_latency=400_000)]
)
@pytest.mark.parametrize("region", [1, 2])
def test_workers_at_a_barrier(machine: Machine, region: int) -> None:
    assert max(errors(workers(12 * MS, 8.4 * MS, machine, region), COARSE)) < 1.5


def test_the_gain_ends_where_the_other_worker_is_the_longer_one() -> None:
    rows = gains(workers(12 * MS, 8.4 * MS, Machine(), 1), (0.25, 0.5, 0.75), COARSE, hits=600)
    period = 12.3
    for (_, predicted, true), expected in zip(rows, (9.3, 8.7, 8.7), strict=True):
        assert true == pytest.approx(100 * (expected / period - 1), abs=0.1)
        assert predicted == pytest.approx(true, abs=0.4)


def test_without_credit_and_weight_gains_are_too_small_and_nulls_slow_down() -> None:
    old = replace(COARSE, min_debt=50_000, without=WITHOUT["credit"] | WITHOUT["weight"])
    critical = gains(workers(12 * MS, 8.4 * MS, COSTLY, 1), (0.5,), old, hits=600)[0]
    null = gains(workers(12 * MS, 8.4 * MS, COSTLY, 2), (0.5,), old, hits=600)[0]
    assert critical[1] > critical[2] + 5
    assert null[1] > 4


def crowd(machine: Machine) -> Graph:
    """More tasks than CPUs, which take turns: a CPU is handed from task to task, in slices."""
    workload = Workload()
    children = [
        workload.add(Program().run(3.6 * MS, 1, 0.2)),
        workload.add(Program().run(11.5 * MS, 2, 0.2)),
        workload.add(Program().run(6.3 * MS, 4, 0.2)),
    ]
    body = Program()
    for child in children:
        body.spawn(child)
    workload.task(Program().repeat(body.run(4 * MS, 3, 0.2).join().progress()))
    return Graph("crowd", workload, 3, machine, 100 * MS)


@pytest.mark.parametrize(("cpus", "race"), [(1, False), (2, False), (2, True)])
def test_more_tasks_than_cpus(cpus: int, race: bool) -> None:
    graph = crowd(replace(COSTLY, cpus=cpus, race=race))
    assert max(errors(graph, FINE)) < 2
    assert max(errors(graph, replace(FINE, without=WITHOUT["hand-off"]))) > 4


@pytest.fixture(scope="module")
def with_all_rules() -> float:
    return summary(campaign(range(24), hits=400, workers=1))["percentile_95"]


@pytest.mark.parametrize("rule", ["weight", "credit", "hand-off"])
def test_each_rule_is_needed(rule: str, with_all_rules: float) -> None:
    """Over many graphs: without the rule the errors grow by far."""
    found = summary(campaign(range(24), replace(FINE, without=WITHOUT[rule]), hits=400, workers=1))
    assert with_all_rules < 1.5
    assert found["percentile_95"] > max(2.5, 2 * with_all_rules)


@pytest.mark.parametrize(
    ("seed", "speedups"),
    [(426, (0.25,)), (1166, (0.25, 0.5)), (266, (0.25, 0.5, 0.9)), (72, (0.25,))],
)
def test_true_zeros_are_predicted_as_such(seed: int, speedups: tuple[float, ...]) -> None:
    """Graphs that were predicted wrong by 2 to 6 points.

    A payer lost its place in the queue (426), a task paid for a CPU that had been withheld from it (1166), a saturated
    lock that is held for less than a millisecond (266), stops that follow each other closely (72).
    """
    for _, predicted, true in gains(random_graph(seed), speedups):
        assert abs(true) < 0.3
        assert abs(predicted - true) < 1.2


def test_a_lock_may_be_taken_while_its_next_holder_is_withheld() -> None:
    """The largest error of 2,000 graphs where nothing is gained: four threads, one lock, 1.7 points at 50 %.

    A holder that owes is stopped late and gives the lock back before. Whom it wakes owes as much and is withheld, and a
    thread whose clock is behind takes the lock: on the clocks two hold it. Holders that are stopped at once do not.
    """
    graph = random_graph(1852)
    assert abs(gains(graph, (0.5,))[0][2]) < 0.3
    at_once = replace(graph, machine=replace(graph.machine, stop_latency=0))
    assert max(errors(graph, FINE)) < 2.5
    assert max(errors(at_once, FINE)) < 0.8


@pytest.mark.parametrize("seed", [607, 1979])
def test_convoys_at_a_lock_hang_on_how_long_a_wake_up_takes(seed: int) -> None:
    """Known limit: threads that are back at a lock before whoever they woke is there.

    Really shortened, they are (90 %: in 45 and 70 us; waking takes 90 and 110). Virtually they are not: a wake-up under
    way is not withheld, and they need ten times as long. The error is gone where waking takes little time.
    """
    graph = random_graph(seed)
    assert errors(graph, FINE)[-1] > 8
    quick = replace(graph, machine=replace(graph.machine, wake_latency=10_000))
    assert errors(quick, FINE)[-1] < 3.5


def queue(machine: Machine, region: int) -> Graph:
    """A producer, and a consumer that takes longer, with a queue of four between them: it is full."""
    workload = Workload()
    channel = workload.channel(4)
    workload.task(Program().repeat(Program().run(5.3 * MS, 1, 0.02).send(channel)))
    workload.task(Program().repeat(Program().receive(channel).run(8.8 * MS, 2, 0.02).progress()))
    return Graph("queue", workload, region, machine, 300 * MS)


def test_where_nothing_is_gained_only_the_cost_of_stops_matters() -> None:
    for costs in ({"wake_latency": 150_000}, {"stop_latency": 500_000}, {"lost": 0.3}, {}):
        machine = replace(Machine(), **costs)
        for _, predicted, true in gains(queue(machine, 1), (0.25, 0.5), COARSE, hits=400):
            assert (predicted, true) == pytest.approx((0, 0), abs=0.5)
    machine = Machine(stop_cost=150_000)
    credited = gains(queue(machine, 1), (0.5,), COARSE, hits=400)[0][1]
    free = replace(COARSE, without=WITHOUT["credit"])
    assert credited == pytest.approx(0, abs=0.5)
    assert gains(queue(machine, 1), (0.5,), free, hits=400)[0][1] > 2


def test_the_stock_of_a_queue_is_used_up_before_the_gain_is_what_it_stays() -> None:
    """The consumer is faster only while there is something left: the beginning of an experiment must not be counted."""
    graph = queue(COSTLY, 2)
    experiment = replace(COARSE, region=2, stop_cost=COSTLY.stop_cost)
    with Simulation(graph.workload, graph.machine) as simulation:
        zero = simulation.run(experiment, hits=60, settle=graph.warm).period
        faster = replace(experiment, speedup=0.75)
        at_once = simulation.run(faster, hits=10**9, limit=400 * MS).period
        later = simulation.run(faster, hits=10**9, limit=400 * MS).period
    true = 5.3 / 8.8 - 1
    assert later / zero - 1 == pytest.approx(true, abs=0.01)
    assert at_once / zero - 1 < true - 0.05


@pytest.mark.parametrize(
    ("rule", "seed", "min_debt"),
    [("inheritance", 16, 500_000), ("holding", 20, 100_000), ("service", 57, 100_000)],
)
def test_rules_that_matter_on_machines_without_costs(rule: str, seed: int, min_debt: int) -> None:
    """Effects of a few points, seen where nothing else disturbs: exact with all rules, wrong without this one."""
    graph = random_graph(seed)
    costs = {"wake_latency": 0, "stop_latency": 0, "stop_cost": 0, "timer_latency": 0}
    graph = replace(graph, machine=replace(graph.machine, lost=0.0, **costs))
    experiment = Experiment(period=100_000, min_debt=min_debt)
    assert max(errors(graph, experiment)) < 0.4
    assert max(errors(graph, replace(experiment, without=WITHOUT[rule]))) > 2


def test_random_graphs() -> None:
    """The seeded part of the campaign: `workbench bench causal` runs thousands."""
    found = summary(campaign(range(1000, 1030), hits=500, workers=1))
    assert found["median"] <= 1
    assert found["percentile_95"] <= 3
    assert found["zeros"] > 5
    assert found["largest_at_zero"] <= 1.5


def test_a_neighbour_out_of_scope_is_left_alone() -> None:
    """It never pays and is never charged; its rounds stay what they are beside the same load."""
    rates = []
    for speedup in (0.0, 0.9):
        workload = Workload()
        workload.task(Program().repeat(Program().run(3 * MS, 1, 0.1).progress()))
        workload.task(Program().repeat(Program().run(2 * MS, 2, 0.1)))
        workload.task(Program().repeat(Program().run(1 * MS, 3).progress(1)), scoped=False)
        with Simulation(workload, Machine(cpus=4)) as simulation:
            outcome = simulation.run(
                Experiment(region=1, speedup=speedup), point=1, hits=2000, settle=50 * MS
            )
        rates.append(outcome.elapsed_period)
    assert rates[1] == pytest.approx(rates[0], rel=0.001)
