"""Random workloads for the simulator: the shapes that concurrent programs are made of, with random sizes.

`random_graph(seed)` gives a workload, the region that is to be examined in it and a machine; equal seeds give equal
graphs. What may be changed here: shapes may be added; changing one changes every recorded campaign.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from workbench.sched.simulator import Machine, Program, Workload

__all__ = ("SHAPES", "Graph", "random_graph")

_MS = 1_000_000.0


@dataclass(frozen=True)
class Graph:
    """A workload with what is examined in it; `warm` ns pass before anything is counted."""

    shape: str
    workload: Workload
    region: int
    machine: Machine
    warm: float


class _Draw:
    """Random sizes of one graph."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.regions = 0

    def time(self, low: float = 0.5, high: float = 8.0) -> float:
        """Nanoseconds between `low` and `high` ms, even in the logarithm."""
        return float(_MS * low * (high / low) ** self.random.random())

    def region(self) -> int:
        """A region that is not used yet."""
        self.regions += 1
        return self.regions

    def work(self, low: float = 0.5, high: float = 8.0) -> Program:
        """One or two stretches of work, each in a region of its own."""
        program = Program()
        for _ in range(self.random.choice((1, 1, 2))):
            program.run(self.time(low, high), self.region(), self.jitter())
        return program

    def jitter(self) -> float:
        return self.random.choice((0.0, 0.05, 0.1, 0.2, 0.4))


def _join(*programs: Program) -> Program:
    whole = Program()
    for program in programs:
        whole.then(program)
    return whole


def _phases(draw: _Draw, workload: Workload, cpus: int) -> None:
    """Workers between two barriers and a main thread that does serial work."""
    workers = draw.random.randint(2, max(2, min(8, cpus + 2)))
    start, end = workload.barrier(workers + 1), workload.barrier(workers + 1)
    for _ in range(workers):
        workload.task(
            Program().repeat(
                _join(Program().barrier(start), draw.work(1, 12), Program().barrier(end))
            )
        )
    workload.task(
        Program().repeat(
            _join(Program().barrier(start).barrier(end), draw.work(0.2, 2), Program().progress())
        )
    )


def _fork_join(draw: _Draw, workload: Workload, cpus: int) -> None:
    """A main thread that starts children every round and joins them."""
    children = [draw.work(1, 12) for _ in range(draw.random.randint(2, max(2, min(8, cpus + 1))))]
    body = Program()
    for child in children:
        body.spawn(workload.add(child))
    workload.task(Program().repeat(_join(body, draw.work(0.5, 6), Program().join().progress())))


def _pipeline(draw: _Draw, workload: Workload, cpus: int) -> None:
    """Stages joined by channels with room; a stage may have several workers."""
    stages = draw.random.randint(2, 5)
    channels = [workload.channel(draw.random.choice((1, 2, 4, 16))) for _ in range(stages - 1)]
    for number in range(stages):
        body = Program()
        if number:
            body.receive(channels[number - 1])
        body = _join(body, draw.work(0.3, 6))
        if number < stages - 1:
            body.send(channels[number])
        else:
            body.progress()
        workload.task(Program().repeat(body), draw.random.choice((1, 1, 1, 2, 3)))


def _locks(draw: _Draw, workload: Workload, cpus: int) -> None:
    """Threads that work alone and then under one of a few locks."""
    locks = [workload.lock() for _ in range(draw.random.randint(1, 2))]
    inside, outside = draw.region(), draw.region()
    held, free = draw.time(0.2, 3), draw.time(0.5, 8)
    for _ in range(draw.random.randint(2, max(2, min(10, cpus + 2)))):
        lock = draw.random.choice(locks)
        body = Program().run(free * draw.random.uniform(0.7, 1.3), outside, 0.2)
        workload.task(
            Program().repeat(body.lock(lock).run(held, inside, 0.2).unlock(lock).progress())
        )


def _producers(draw: _Draw, workload: Workload, cpus: int) -> None:
    """Producers and consumers with one queue between them."""
    queue = workload.channel(draw.random.choice((1, 4, 16, 64)))
    made, used = draw.work(0.5, 6), draw.work(0.5, 6)
    workload.task(Program().repeat(_join(made, Program().send(queue))), draw.random.randint(1, 4))
    workload.task(
        Program().repeat(_join(Program().receive(queue), used, Program().progress())),
        draw.random.randint(1, 4),
    )


def _pool(draw: _Draw, workload: Workload, cpus: int) -> None:
    """A dispatcher that hands jobs to a pool and collects the answers of a batch."""
    workers = draw.random.randint(2, max(2, min(12, cpus + 2)))
    jobs, answers = workload.channel(1024), workload.channel(1024)
    batch = draw.random.randint(workers, 3 * workers)
    workload.task(
        Program().repeat(
            _join(Program().receive(jobs), draw.work(0.5, 6), Program().send(answers))
        ),
        workers,
    )
    send = Program().repeat(_join(draw.work(0.05, 0.5), Program().send(jobs)), batch)
    collect = Program().repeat(Program().receive(answers), batch)
    workload.task(Program().repeat(_join(send, collect, draw.work(0.2, 2), Program().progress())))


def _waits(draw: _Draw, workload: Workload, cpus: int) -> None:
    """Threads that compute and wait for a device, some also for each other."""
    tasks = draw.random.randint(2, max(2, min(8, cpus + 1)))
    end = workload.barrier(tasks)
    for number in range(tasks):
        body = draw.work(0.5, 6)
        if draw.random.random() < 0.7:
            body.sleep(draw.time(0.5, 8), draw.jitter())
        body = _join(body, draw.work(0.3, 4), Program().barrier(end))
        if not number:
            body.progress()
        workload.task(Program().repeat(body))


def _pipes(draw: _Draw, workload: Workload, cpus: int) -> None:
    """Processes in pairs: a client sends a request over a pipe and waits for the answer of a shared server."""
    server = workload.channel(64)
    clients = draw.random.randint(1, 6)
    first, think = draw.work(0.3, 4), draw.work(0.3, 6)
    answers = workload.channel(64)
    for _ in range(clients):
        workload.task(
            Program().repeat(_join(think, Program().send(server).receive(answers).progress()))
        )
    workload.task(Program().repeat(_join(Program().receive(server), first, Program().send(answers))),
                  draw.random.choice((1, 1, 2)))  # fmt: skip


SHAPES = {
    "phases": _phases,
    "fork and join": _fork_join,
    "pipeline": _pipeline,
    "locks": _locks,
    "producers": _producers,
    "pool": _pool,
    "waits": _waits,
    "pipes": _pipes,
}


def random_graph(seed: int, *, shape: str | None = None) -> Graph:
    """A workload of a random shape and size with a random region of it, for a machine of 1 to 16 CPUs.

    The machine's costs are drawn from what was measured in virtual machines: 20 to 150 us to wake a CPU, 20 to 150 us
    to stop a task, up to 150 us of CPU lost per stop, up to 20 % of samples lost.
    """
    draw = _Draw(seed)
    pick = draw.random
    chosen = shape or pick.choice(sorted(SHAPES))
    cpus = pick.choice((1, 2, 2, 4, 4, 8, 16))
    workload = Workload()
    SHAPES[chosen](draw, workload, cpus)
    machine = Machine(
        cpus=cpus,
        wake_latency=round(pick.uniform(5e3, 150e3)),
        stop_latency=round(pick.uniform(5e3, 150e3)),
        stop_cost=round(pick.uniform(0, 150e3)),
        timer_latency=round(pick.uniform(5e3, 100e3)),
        lost=pick.choice((0.0, 0.05, 0.1, 0.2)),
        seed=seed,
    )
    return Graph(chosen, workload, pick.randint(1, draw.regions), machine, 200 * _MS)
