"""How well the rules predict: many random graphs, each prediction beside the truth of really shortening the region."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

from workbench.sched.graphs import random_graph
from workbench.sched.simulator import Experiment, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pandas as pd

    from workbench.sched.graphs import Graph

__all__ = ("FINE", "SPEEDUPS", "campaign", "gains", "summary")

SPEEDUPS = (0.25, 0.5, 0.9)
#: Experiments as a machine with cheap interrupts can carry them out: 10,000 samples a second on each CPU, and clocks
#: kept closer together than the shortest time for which the graphs hold a lock (0.2 ms).
FINE = Experiment(period=100_000, min_debt=25_000)
#: A region that really shortening changes the period by less than this (per cent) has a true gain of zero.
ZERO = 0.2
#: Points that a prediction may be off where the true gain is zero.
NEAR = 1.5


def gains(
    graph: Graph,
    speedups: Sequence[float] = SPEEDUPS,
    experiment: Experiment = FINE,
    *,
    hits: int = 800,
) -> list[tuple[float, float, float]]:
    """Predicted and true gain of the graph's region at each speed-up.

    Returns (speed-up, predicted, true): the change of the progress period in per cent of the period at 0 %, negative
    when the program gets faster. Every one comes from a run of its own over the same random durations; the cost of
    stopping a task is credited as the machine has it.
    """
    base = replace(experiment, region=graph.region, stop_cost=graph.machine.stop_cost)

    def period(given: Experiment) -> float:
        with Simulation(graph.workload, graph.machine) as simulation:
            return simulation.run(given, hits=hits, settle=graph.warm).period

    zero = period(base)
    rows = []
    for speedup in speedups:
        virtual = period(replace(base, speedup=speedup))
        real = period(replace(base, shortened=speedup))
        rows.append((speedup, 100 * (virtual / zero - 1), 100 * (real / zero - 1)))
    return rows


def _one(given: tuple[int, Experiment, int]) -> list[tuple[object, ...]]:
    seed, experiment, hits = given
    graph = random_graph(seed)
    return [
        (
            seed,
            graph.shape,
            graph.machine.cpus,
            len(graph.workload.starts),
            speedup,
            predicted,
            true,
        )
        for speedup, predicted, true in gains(graph, experiment=experiment, hits=hits)
    ]


def campaign(
    seeds: Iterable[int],
    experiment: Experiment = FINE,
    *,
    hits: int = 800,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Predict and measure one region of each seed's graph at the speed-ups of `SPEEDUPS`.

    Parameters
    ----------
    seeds
        Of `workbench.sched.graphs.random_graph`.
    experiment
        Sample period, minimum debt and rules that are switched off; region, speed-up and stop cost are set per graph.
    workers
        Processes; 1 works in this one. As many as there are CPUs by default; a script that asks for several has to
        guard its main part (``if __name__ == "__main__":``), as they are spawned.
    progress
        Called with the number of graphs done.

    Returns
    -------
    DataFrame
        One row per graph and speed-up: seed (int64), shape, cpus (int64), tasks (int64), speedup (fraction),
        predicted, true (per cent of the period at 0 %), error (points).
    """
    import pandas as pd

    jobs = [(seed, experiment, hits) for seed in seeds]
    rows: list[tuple[object, ...]] = []
    for done, found in enumerate(_results(jobs, workers or os.cpu_count() or 1), 1):
        rows.extend(found)
        if progress:
            progress(done)
    frame = pd.DataFrame(
        rows, columns=["seed", "shape", "cpus", "tasks", "speedup", "predicted", "true"]
    )
    frame["error"] = frame["predicted"] - frame["true"]
    return frame


def _results(
    jobs: list[tuple[int, Experiment, int]], workers: int
) -> Iterator[list[tuple[object, ...]]]:
    if workers == 1:
        yield from map(_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_one, jobs, chunksize=4)


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Median, 95th percentile and maximum of the absolute error in points.

    And where the true gain is zero: how many predictions, the largest error, the fraction within `NEAR`.
    """
    size = frame["error"].abs()
    zeros = size[frame["true"].abs() < ZERO]
    return {
        "median": float(size.median()),
        "percentile_95": float(size.quantile(0.95)),
        "maximum": float(size.max()),
        "zeros": float(len(zeros)),
        "largest_at_zero": float(zeros.max()) if len(zeros) else 0.0,
        "zeros_within": float((zeros <= NEAR).mean()) if len(zeros) else 1.0,
    }
