"""Measure a demonstration: experiments on its regions, and its bottleneck really taken out, in turns in one process."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from workbench.causal.demonstrations.gains import FULL, Gain, Trial, gains
from workbench.causal.demonstrations.model import Place
from workbench.causal.demonstrations.running import Running
from workbench.causal.points import resolve_points
from workbench.causal.regions import Finder, Region
from workbench.collectors.modules import Modules
from workbench.errors import RunFailed, TargetGone, UnknownSymbol
from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workbench.causal.demonstrations.model import Demonstration, Spot
    from workbench.causal.regions import Pieces
    from workbench.frames.recording import Recording
    from workbench.sched.schedcoz import Parameters, SchedCoz

__all__ = ("FRAMES", "code_of", "measure", "places")

FRAMES = ("demonstration_trials", "demonstration_gains")
_ENOUGH = 5  # passes of the progress point
_SETTLE = 0.02  # seconds after a knob was turned
_TEXT = "text:"


def measure(
    what: Demonstration,
    programs: Path,
    folder: Path,
    output: Path,
    *,
    rounds: int = 3,
    seconds: float = 0.2,
    parameters: Parameters | None = None,
    seed: int = 1,
    say: Callable[[str], None] | None = None,
) -> tuple[Recording, list[Gain]]:
    """Predict what each region is worth and measure what taking the bottleneck out is worth.

    All conditions follow each other in an order that is drawn anew every round, in one run of the servers, under the
    scheduler throughout; the load's client is in scope as the servers are, because both wait for each other.

    Parameters
    ----------
    what : Demonstration
    programs : path
        Folder of the project's own programs and libraries.
    folder : path
        An empty folder to work in.
    output : path
        Of the recording, with frames `demonstration_trials` and `demonstration_gains`.
    rounds : int
    seconds : float
        Of each experiment.
    parameters : Parameters, optional
    seed : int
    say : callable, optional
        Called with a line of text before each round.

    Raises
    ------
    MissingCapability, NotPermitted
        The kernel cannot do it, or a program is missing.
    RunFailed
        A process ended, or the kernel took the scheduler away.
    """
    from workbench.objects.model import builtin
    from workbench.sched.schedcoz import Parameters, SchedCoz

    tell = say or (lambda text: None)
    place = Place(programs.absolute(), folder.absolute(), folder.absolute() / "knobs")
    trials: list[Trial] = []
    with Running(what, place) as running:
        process, point = what.progress
        points = resolve_points(Modules(running.pid(process)), [point])
        given = parameters or Parameters(period=200_000)
        with SchedCoz(
            builtin("schedcoz"), [(p.path, p.offset, p.semaphore) for p in points], given
        ) as engine:
            if running.cgroup:
                engine.scheduler.take_cgroup(running.cgroup)
            else:
                for pid in running.pids():
                    engine.take(pid)
            # Looked up once: in a guest this takes longer than an experiment does.
            where = {spot: places(running.pids(), spot.spec) for spot in what.spots}
            random = Random(seed)
            for number in range(rounds):
                tell(f"{what.name}: round {number + 1} of {rounds}")
                order = _conditions(what)
                random.shuffle(order)
                for spot, speedup, removed in order:
                    number_of = len(trials) + 1
                    trials.append(
                        _trial(
                            engine, running, where[spot], spot, speedup, removed, seconds, number_of
                        )
                    )
            if not engine.scheduler.in_charge:
                raise RunFailed(
                    f"the kernel took the scheduler away: {engine.scheduler.exit}", "try again"
                )
    found = gains(trials, what.spots[0].name, seed=seed)
    return _write(what, trials, found, output, seed), found


def _conditions(what: Demonstration) -> list[tuple[Spot, float, float]]:
    """Spot, virtual speed-up, part that is really removed; one round of them."""
    known = what.spots[0]
    some: list[tuple[Spot, float, float]] = [(known, 0.0, 0.0)] * 2
    some += [(known, speedup, 0.0) for speedup in sorted({*what.fractions, FULL})]
    some += [(known, 0.0, removed) for removed in what.fractions]
    return [*some, *((spot, FULL, 0.0) for spot in what.spots[1:])]


def _trial(
    engine: SchedCoz,
    running: Running,
    where: dict[int, Pieces],
    spot: Spot,
    speedup: float,
    removed: float,
    seconds: float,
    number: int,
) -> Trial:
    running.check()
    running.turn(dict(running.what.fix(removed)) if removed else {})
    engine.select(where)
    time.sleep(_SETTLE)
    engine.begin(speedup)
    time.sleep(seconds)
    one = engine.end()[0]
    return Trial(
        number, spot.name, spot.spec, speedup, removed, one.count, one.period, one.real_period,
        one.samples, one.hits, one.payments, one.paid, one.valid and one.count >= _ENOUGH,
    )  # fmt: skip


def places(pids: Iterable[int], spec: str) -> dict[int, Pieces]:
    """Where a region is in these processes; ``text:MODULE`` is all code of a file (see `code_of`).

    Raises
    ------
    UnknownSymbol
        None of them has it.
    """
    if not spec.startswith(_TEXT):
        return Finder().places(pids, Region(spec))
    found: dict[int, Pieces] = {}
    for pid in pids:
        try:
            found[pid] = code_of(Modules(pid), spec.removeprefix(_TEXT))
        except (TargetGone, UnknownSymbol):
            continue
    if not found:
        raise UnknownSymbol(f"no process has mapped {spec.removeprefix(_TEXT)}")
    return found


def code_of(modules: Modules, name: str) -> Pieces:
    """The code of the file of this name, or else of the first one whose name begins so.

    Raises
    ------
    UnknownSymbol
        The process has mapped no such file.
    """
    mapped = [one for one in modules if one.mapping]
    names = [Path(one.path).name for one in mapped]
    for fits in (str.__eq__, str.startswith):
        for module, file in zip(mapped, names, strict=True):
            if fits(file, name) and module.mapping:
                return ((module.mapping[0], module.mapping[1]),)
    raise UnknownSymbol(f"process {modules.pid} has mapped no {name}", f"it has {', '.join(names)}")


def _write(
    what: Demonstration, trials: list[Trial], found: list[Gain], output: Path, seed: int
) -> Recording:
    writer = RecordingWriter(
        output, command=("workbench", "bench", "causal-servers"), collectors=["causal"],
        options={"demonstration": what.name, "about": what.about, "planted": what.planted},
        frames=FRAMES, seed=seed, overwrite=True,
    )  # fmt: skip
    for frame, rows in zip(
        FRAMES, ([asdict(one) for one in trials], [asdict(one) for one in found]), strict=True
    ):
        if rows:
            writer.append(frame, {name: [row[name] for row in rows] for name in rows[0]})
    return writer.finish("complete", "")
