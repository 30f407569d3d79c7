"""Who carries experiments out: the kernel's scheduler (sched_ext), or the userspace runtime in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.causal.target import CgroupTarget
from workbench.collectors.modules import Modules
from workbench.errors import BadSpec, MissingCapability, TargetGone
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from workbench.causal.controller import Engine
    from workbench.causal.points import Latency, Point
    from workbench.causal.target import Target
    from workbench.sched.schedcoz import Parameters

__all__ = ("BACKENDS", "Backend", "choose", "defaults", "require_scheduler", "start")

BACKENDS = ("auto", "scheduler", "userspace")


@dataclass(frozen=True, slots=True)
class Backend:
    """`name` is "scheduler" or "userspace"; `why` it was chosen."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def require_scheduler() -> None:
    """Raise MissingCapability, with what to do, unless this machine's kernel can carry experiments out."""
    from workbench.sched.state import read_state

    try:
        state = read_state()
    except MissingCapability as error:
        raise MissingCapability(
            "this needs a kernel with sched_ext, which this one is without",
            "add --lab to run it in a guest that has it (`workbench lab prepare` makes one ready), boot a kernel with "
            "CONFIG_SCHED_CLASS_EXT (Linux 6.12 or newer), or, for the threads of one process, --backend userspace",
        ) from error
    if state.enabled:
        raise MissingCapability(
            f"the scheduler {state.name or 'of somebody else'!r} is {state.state} on this machine",
            "there can be one at a time: end it, or add --lab to run in a guest",
        )


def choose(asked: str = "auto", scope: str = "pid") -> Backend:
    """The backend of a run.

    Parameters
    ----------
    asked : {"auto", "scheduler", "userspace"}
        auto: the scheduler where the kernel has sched_ext, else the userspace runtime.
    scope : str
        Of the run. Another one than ``pid`` takes the scheduler.

    Raises
    ------
    MissingCapability
        The scheduler is asked for, or needed by the scope, or the kernel has sched_ext, and it cannot be used.
    BadSpec
        There is no such backend, or the scope is not one for it.
    """
    from workbench.sched.state import read_state

    if asked not in BACKENDS:
        raise BadSpec(f"there is no backend {asked!r}", ", ".join(BACKENDS))
    if asked == "userspace":
        if scope != "pid":
            raise BadSpec(
                f"the scope {scope} is the scheduler's alone",
                "--backend userspace is for the threads of one process: leave --scope away, or use --lab",
            )
        return Backend("userspace", "as asked for")
    if asked == "auto" and scope == "pid":
        try:
            read_state()
        except MissingCapability:
            return Backend("userspace", "the kernel has no sched_ext")
    require_scheduler()
    return Backend("scheduler", "as asked for" if asked != "auto" else "the kernel has sched_ext")


def defaults(backend: Backend) -> Parameters:
    """How experiments are carried out if nothing else is said."""
    from workbench.causal.userspace import DEFAULTS
    from workbench.sched.schedcoz import Parameters

    return DEFAULTS if backend.name == "userspace" else Parameters()


def start(
    backend: Backend,
    stack: ExitStack,
    target: Target,
    points: Sequence[Point],
    parameters: Parameters | None,
    folder: Path | None = None,
    latencies: Sequence[Latency] = (),
) -> Engine:
    """The engine of a run, with the target brought into its scope; `stack` ends it.

    Parameters
    ----------
    backend : Backend
    stack : ExitStack
    target : Target
        Held, or running.
    points : sequence of Point
    parameters : Parameters, optional
        By default the backend's `defaults`.
    folder : path, optional
        Cgroup that is the scope.
    latencies : sequence of Latency
        For the scheduler alone.
    """
    from workbench.causal.userspace import UserspaceEngine, refuse_processes
    from workbench.sched import schedcoz

    def place(one: Point) -> tuple[str, int, int]:
        return one.path, one.offset, one.semaphore

    places = [place(one) for one in points]
    if backend.name == "userspace":
        if latencies or (parameters and parameters.frames):
            raise BadSpec(
                "latencies and callers are the scheduler's alone",
                "leave --latency and --callers away, or use --lab",
            )
        refuse_processes(target.pids())
        return stack.enter_context(
            UserspaceEngine(
                builtin("causal"), target.pid, places, parameters, modules=Modules(target.pid)
            )
        )
    ends = [(tuple(map(place, one.begin)), tuple(map(place, one.end))) for one in latencies]
    engine = stack.enter_context(
        schedcoz.SchedCoz(builtin("schedcoz"), places, parameters, latencies=ends)
    )
    if folder:
        engine.scheduler.take_cgroup(folder)
        if isinstance(target, CgroupTarget):
            return engine
    for pid in target.pids():
        try:
            engine.take(pid)
        except TargetGone:
            if pid == target.pid:
                raise
    return engine
