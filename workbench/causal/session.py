"""A causal profile of a command or a process: from what the user names to a recording."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.causal.backend import choose, start
from workbench.causal.candidates import candidates
from workbench.causal.controller import experiments
from workbench.causal.plan import Plan
from workbench.causal.points import resolve_points
from workbench.causal.regions import Finder, Region
from workbench.causal.results import FRAMES, Results
from workbench.causal.target import CgroupTarget, ProcessTarget
from workbench.collectors.modules import Modules
from workbench.collectors.target import HeldCommand, attach_target
from workbench.errors import BadSpec, RunFailed, TargetGone, UnknownSymbol
from workbench.frames.writer import RecordingWriter
from workbench.sched.cgroups import MadeCgroup, move, parse_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workbench.causal.points import Point
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
    scope: str = "pid",
    backend: str = "auto",
    output: str | Path,
    plan: Plan | None = None,
    parameters: Parameters | None = None,
    sampling: float = 1.0,
    tolerance: float = 3.0,
    overwrite: bool = False,
    stdout: int | None = None,
    say: Callable[[str], None] | None = None,
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

    Returns
    -------
    Recording
        With frames `experiments`, `progress` and `causal_profile`. ``manifest.notes["gate"]`` says whether the run can
        be believed, ``notes["warnings"]`` what is odd about it. It is ``interrupted`` after Ctrl-C.

    Raises
    ------
    MissingCapability, NotPermitted, VerifierRejected
        The kernel cannot carry experiments out, or this user may not.
    UnknownSymbol
        A region or a progress point is not in the target.
    RunFailed
        Nothing was measured.
    """
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
        points = _points(target, list(progress))
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
            ranked = candidates(root, sampling)
            chosen, weights = list(ranked), tuple(map(float, ranked.values()))
            tell("regions: " + ", ".join(f"{one.spec} ({n} samples)" for one, n in ranked.items()))
        whole = replace(plan or Plan(tuple(chosen)), regions=tuple(chosen), weights=weights)
        writer = RecordingWriter(
            output,
            command=tuple(command),
            pid=root,
            collectors=["causal"],
            options={"progress": list(progress), "regions": [one.spec for one in chosen]},
            frames=FRAMES,
            seed=whole.seed,
            overwrite=overwrite,
        )
        names = [point.name for point in points]
        results = Results(writer, names)
        status: Status = "complete"
        reason = ended = ""
        try:
            writer.note(backend={"name": chosen_backend.name, "why": chosen_backend.why})
            if held and chosen_backend.name == "userspace":
                held.held.park()
            engine = start(chosen_backend, stack, target, points, parameters, folder)
            if held:
                held.release()
            for done in experiments(
                engine, target, whole, names, progress=lambda state: tell(str(state))
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
        stack.close()  # the machine is back on its own scheduler before anything is computed
        if not len(results):
            writer.discard()
            raise RunFailed("nothing was measured", "the target ended before the first experiment")
        return results.finish(status, reason, seed=whole.seed, tolerance=tolerance, ended=ended)


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


def _points(target: Target, progress: list[str]) -> list[Point]:
    """Progress points in the first process of the target that has them, which is where names are looked up then."""
    missing: UnknownSymbol | None = None
    for pid in [target.pid, *[pid for pid in target.pids() if pid != target.pid]]:
        try:
            points = resolve_points(Modules(pid), progress)
        except UnknownSymbol as error:
            missing = missing or error
        except TargetGone:
            if pid == target.pid and len(target.pids()) < 2:
                raise
        else:
            target.pid = pid
            return points
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
