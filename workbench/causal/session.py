"""A causal profile of a command or a process: from what the user names to a recording."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.causal.backend import choose, defaults, start
from workbench.causal.baseline import measure_baseline
from workbench.causal.candidates import candidates
from workbench.causal.checks import ALL, machine_calibration
from workbench.causal.controller import experiments
from workbench.causal.plan import Plan
from workbench.causal.points import resolve_latencies, resolve_points
from workbench.causal.regions import Finder, Region
from workbench.causal.results import FRAMES, Results
from workbench.causal.samples import Names, Sampling
from workbench.causal.target import CgroupTarget, ProcessTarget
from workbench.collectors.modules import Modules
from workbench.collectors.target import HeldCommand, attach_target
from workbench.errors import BadSpec, RunFailed, TargetGone, UnknownSymbol
from workbench.frames.writer import RecordingWriter
from workbench.sched.cgroups import MadeCgroup, move, parse_scope
from workbench.sched.schedcoz import SchedCoz

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workbench.causal.checks import Checks
    from workbench.causal.controller import State
    from workbench.causal.points import Latency, Point
    from workbench.causal.target import Target
    from workbench.frames.manifest import Status
    from workbench.frames.recording import Recording
    from workbench.sched.schedcoz import Parameters

__all__ = ("profile",)


def profile(
    progress: Sequence[str],
    regions: Sequence[str] = (),
    *,
    command: Sequence[str] = (),
    pid: int | None = None,
    latency: Sequence[str] = (),
    within: Sequence[str] = (),
    scope: str = "pid",
    backend: str = "auto",
    output: str | Path,
    plan: Plan | None = None,
    parameters: Parameters | None = None,
    checks: Checks = ALL,
    sampling: float = 1.0,
    tolerance: float = 3.0,
    overwrite: bool = False,
    stdout: int | None = None,
    say: Callable[[str], None] | None = None,
    watch: Callable[[Results, State], None] | None = None,
) -> Recording:
    """Run experiments on a command or a process and record them.

    Parameters
    ----------
    progress : sequence of str
        Progress points; see `workbench.causal.points`.
    regions : sequence of str
        What to speed up; see `workbench.causal.regions`. None: chosen by sampling.
    command : sequence of str
        A command to start; it is ended when the plan is done.
    pid : int, optional
        A running process, which goes on afterwards.
    latency : sequence of str
        Times from one point to another, ``BEGIN,END``. One of these or of `progress` is needed.
    within : sequence of str
        With `Parameters.frames`: files (patterns of names or paths) whose code is in scope. A sample belongs to its
        innermost frame there, as in Coz; none: the program itself. Regions are in scope in any case.
    scope : str
        ``pid``: the command or process with what it forks. ``cgroup``: the command in a cgroup made for it, with all
        that enters it; the run goes on until that is empty. ``cgroup:DIR``: what is in this cgroup and those below, and
        what enters them; a command is started in it, without one the run goes on until it is empty.
    backend : {"auto", "scheduler", "userspace"}
        See `workbench.causal.backend.choose`; ``manifest.notes["backend"]`` says which it was, and why.
    output : path
        Folder of the recording. It holds the profile in Coz's format as well (`recording.file("profile.coz")`).
    plan : Plan, optional
        Its regions are replaced by those found.
    parameters : Parameters, optional
        How experiments are carried out; by default `workbench.causal.backend.defaults`.
    checks : Checks
        What is measured about the machine and the scheduler first: a run that does not pass is void.
    sampling : float
        Seconds in which regions are chosen.
    tolerance : float
        See `workbench.causal.analysis.gate`.
    overwrite : bool
        Replace an earlier recording.
    stdout : int, optional
        Descriptor for what the command prints.
    say : callable, optional
        Called with a line of text when there is something to tell.
    watch : callable, optional
        Called before each experiment with the results so far and how far the run is.

    Returns
    -------
    Recording
        With frames `experiments`, `progress`, `causal_profile` and, of the scheduler, `causal_samples`.
        ``manifest.notes["gate"]`` says whether the run can be believed, ``notes["warnings"]`` what is odd about it. It
        is ``interrupted`` after Ctrl-C.

    Raises
    ------
    MissingCapability, NotPermitted, VerifierRejected
        The kernel cannot carry experiments out, or this user may not.
    UnknownSymbol
        A region or a progress point is not in the target.
    RunFailed
        Nothing was measured.
    """
    if not progress and not latency:
        raise BadSpec(
            "no progress point is given",
            "--progress FUNCTION: what is passed once per unit of work; or --latency BEGIN,END",
        )
    folder = _checked(command, pid, scope)
    chosen_backend = choose(backend, scope)
    tell = say or (lambda text: None)
    tell(f"backend: {chosen_backend}")
    with ExitStack() as stack:
        held, made = None, None
        if command:
            if scope == "cgroup":
                made = MadeCgroup()
                stack.callback(made.remove)
                stack.callback(made.end)
                folder = made.folder
            held = _Command(HeldCommand(tuple(command), stdout=stdout))
            stack.callback(held.end)
            if folder:
                move(held.held.pid, folder)
        target = _target(held.held.pid if held else pid, folder, until_empty=not held or bool(made))
        stack.callback(target.close)
        points, latencies = _points(target, list(progress), list(latency))
        root = target.pid
        chosen = [Region(one) for one in regions]
        weights: tuple[float, ...] = ()
        if chosen:
            for one in chosen:
                Finder().places(
                    target.pids(), one
                )  # what is not there is said before anything begins
        else:
            tell(f"sampling for {sampling:g} s to choose regions")
            if held:
                held.release()
            ranked = candidates(root, sampling, within=within if _callers(parameters) else None)
            chosen, weights = list(ranked), tuple(map(float, ranked.values()))
            tell("regions: " + ", ".join(f"{one.spec} ({n} samples)" for one, n in ranked.items()))
        whole = replace(plan or Plan(tuple(chosen)), regions=tuple(chosen), weights=weights)
        writer = RecordingWriter(
            output,
            command=tuple(command),
            pid=root,
            collectors=["causal"],
            options={
                "progress": list(progress),
                "latency": list(latency),
                "regions": [one.spec for one in chosen],
            },
            frames=FRAMES,
            seed=whole.seed,
            overwrite=overwrite,
        )
        names = [one.name for one in points] + [one.name for one in latencies]
        results = Results(writer, names)
        finder = Finder()
        sampling_of = Sampling(Names(chosen, finder), within if _callers(parameters) else None)
        status: Status = "complete"
        reason = ended = ""

        def show(state: State) -> None:
            tell(str(state))
            if watch is not None:
                watch(results, state)

        try:
            writer.note(backend={"name": chosen_backend.name, "why": chosen_backend.why})
            if held and chosen_backend.name == "userspace":
                held.held.park()
            known = _scoped(parameters or defaults(chosen_backend))
            if checks.machine and chosen_backend.name == "scheduler":
                known = _calibrated(known, results, tell)
            engine = start(
                chosen_backend,
                stack,
                target,
                points,
                known,
                folder,
                latencies,
            )
            sampling_of.begin(engine)
            if held:
                held.release()
            if checks.pairs and isinstance(engine, SchedCoz) and points:
                tell("comparing with the kernel's own scheduler")
                _compare(engine, target, [one.name for one in points], checks.pairs, whole, results)
            for done in experiments(
                engine,
                target,
                whole,
                names,
                finder=finder,
                progress=show,
                before=sampling_of.look,
            ):
                results.add(done)
            ended = engine.why_ended
        except KeyboardInterrupt:
            status, reason = "interrupted", "interrupted by the user"
        except BaseException as error:
            if not len(results):
                writer.discard()
                raise
            status, reason = "failed", str(error).splitlines()[0]
        samples = sampling_of.end()
        stack.close()  # the machine is back on its own scheduler before anything is computed
        if not len(results):
            writer.discard()
            raise RunFailed("nothing was measured", "the target ended before the first experiment")
        return results.finish(
            status,
            reason,
            seed=whole.seed,
            tolerance=tolerance,
            ended=ended,
            samples=samples,
        )


def _calibrated(
    parameters: Parameters, results: Results, tell: Callable[[str], None]
) -> Parameters:
    """With the cost of a stop as measured on this machine, whose gate becomes the run's."""
    found = machine_calibration(parameters, say=tell)
    if found is None:
        return parameters
    results.writer.note(calibration=found.to_json())
    results.refused += [f"this machine: {reason}" for reason in found.reasons]
    return replace(parameters, stop_cost=round(max(found.stop_cost, 0.0)))


def _compare(
    engine: SchedCoz,
    target: Target,
    points: Sequence[str],
    pairs: int,
    plan: Plan,
    results: Results,
) -> None:
    found = measure_baseline(
        engine, engine.lent, target, points, pairs=pairs, seconds=plan.shortest, seed=plan.seed
    )
    engine.forget_locations()  # no experiment was made yet that they could be of
    if found is not None:
        results.writer.note(baseline=found.to_json() | {"text": str(found)})
        if not found.comparable:
            results.refused.append(str(found))


def _callers(parameters: Parameters | None) -> int:
    return parameters.frames if parameters else 0


def _scoped(parameters: Parameters) -> Parameters:
    """Progress is what the target makes, not what others make who run the same library."""
    return replace(parameters, only_scoped=True)


def _checked(command: Sequence[str], pid: int | None, scope: str) -> Path | None:
    """The cgroup that is the scope, if it is one that exists."""
    kind, folder = parse_scope(scope)
    if (bool(command) + (pid is not None) != 1 and not (folder and pid is None)) or (
        pid is not None and kind != "pid"
    ):
        raise BadSpec(
            "give a command, a pid or a cgroup",
            "profile(..., command=[...]), profile(..., pid=...) or profile(..., scope='cgroup:DIR')",
        )
    return folder


def _target(pid: int | None, folder: Path | None, *, until_empty: bool) -> Target:
    if folder and until_empty:
        return CgroupTarget(folder, pid)
    assert pid is not None
    attach_target(pid)
    return ProcessTarget(pid, folder)


def _points(
    target: Target, progress: list[str], latency: list[str]
) -> tuple[list[Point], list[Latency]]:
    """Points and latencies in the first process of the target that has them, where names are looked up then."""
    missing: UnknownSymbol | None = None
    for pid in [target.pid, *[pid for pid in target.pids() if pid != target.pid]]:
        try:
            modules = Modules(pid)
            points = resolve_points(modules, progress) if progress else []
            found = points, resolve_latencies(modules, latency)
        except UnknownSymbol as error:
            missing = missing or error
        except TargetGone:
            if pid == target.pid and len(target.pids()) < 2:
                raise
        else:
            target.pid = pid
            return found
    raise missing or TargetGone("the target ended before its first experiment", "does it run on?")


class _Command:
    """A command that is asked to end if it ran, and just ended if it did not."""

    def __init__(self, held: HeldCommand) -> None:
        self.held, self.running = held, False

    def release(self) -> None:
        """Let it run."""
        self.running = True
        self.held.release()

    def end(self) -> None:
        """End it."""
        if self.running and self.held.process.poll() is None:
            self.held.end()
        self.held.kill()
