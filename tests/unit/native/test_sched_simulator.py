"""The scheduler simulator under the sanitizers: random operation tables and random graphs."""

from __future__ import annotations

from collections.abc import Callable


def damaged(seed: int) -> str:
    """A script that runs random operation tables, most of them senseless, for a bounded number of events."""
    return (
        "import random\n"
        "from workbench.errors import RunFailed\n"
        "from workbench.sched.graphs import random_graph\n"
        "from workbench.sched.simulator import Experiment, Machine, Simulation, Workload\n"
        f"rng = random.Random({seed})\n"
        "accepted = 0\n"
        "for number in range(300):\n"
        "    workload = Workload(objects=[rng.randrange(4) for _ in range(3)], room=16)\n"
        "    limit = rng.randrange(1, 12)\n"
        "    value = lambda: rng.choice((0, 1, 2, limit - 1, rng.randrange(10**6), -1, 2**62)) "
        "if rng.random() < 0.1 else rng.randrange(3)\n"
        "    workload.operations = [(rng.randrange(13), value(), rng.randrange(1000), rng.randrange(3)) "
        "for _ in range(limit)] + [(0, 0, 0, 0)]\n"
        "    workload.starts = [rng.choice((0, rng.randrange(limit + 1), -1, 10**6 if rng.random() < 0.02 else 0)) "
        "for _ in range(4)]\n"
        "    try:\n"
        "        simulation = Simulation(workload, Machine(cpus=rng.randrange(1, 5), wake_latency=1000, lost=0.1))\n"
        "    except ValueError:\n"
        "        continue\n"
        "    accepted += 1\n"
        "    with simulation:\n"
        "        try:\n"
        "            given = Experiment(region=1, speedup=rng.random())\n"
        "            simulation.run(given, hits=10**9, limit=1e9, max_events=20000)\n"
        "        except RunFailed:\n"
        "            pass\n"
        "for seed in range(16):\n"
        "    graph = random_graph(seed)\n"
        "    with Simulation(graph.workload, graph.machine) as simulation:\n"
        "        simulation.run(Experiment(region=graph.region, speedup=0.7), hits=60)\n"
        "assert accepted > 50, accepted\n"
        "print('clean')\n"
    )


def test_random_tables_in_bounds(run_sanitized: Callable[..., str]) -> None:
    assert run_sanitized(damaged(7)).strip().endswith("clean")
