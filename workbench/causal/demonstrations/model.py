"""What a demonstration is: processes under load, a bottleneck that is known, and the knob that really takes it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ("CLIENT", "Demonstration", "Place", "Process", "Spot", "client")

CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a demonstration runs: `programs`, the folder of the project's own programs and libraries; `folder`, an
    empty one of its own; `knobs`, the file of numbers that planted work and the client read.
    """

    programs: Path
    folder: Path
    knobs: Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a demonstration.

    Attributes
    ----------
    name : str
    command : callable
        Of a `Place`: the command.
    environment : callable, optional
        Of a `Place`: variables on top of the own ones.
    port : int
        Wait until it accepts connections there; 0: do not.
    requests : tuple of (bytes, bytes)
        Sent there before the load begins, each with the end of its answer.
    feeds : str
        Its output is the input of the process of this name, which is started before it.
    """

    name: str
    command: Callable[[Place], Sequence[str]]
    environment: Callable[[Place], Mapping[str, str]] | None = None
    port: int = 0
    requests: tuple[tuple[bytes, bytes], ...] = ()
    feeds: str = ""


@dataclass(frozen=True, slots=True)
class Spot:
    """A region as a reader knows it: `name`, and `spec` as in `workbench.causal.regions`, or ``text:MODULE``, all code
    of a file that is mapped.
    """

    name: str
    spec: str


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A server under load.

    Attributes
    ----------
    name, about : str
        `about` names the bottleneck.
    processes : tuple of Process
        In the order in which they are started.
    progress : tuple of (str, str)
        Process and function that is passed once per unit of work.
    spots : tuple of Spot
        Regions that are compared; the first one is the bottleneck.
    knobs : mapping of int to int
        As the load is.
    fix : callable
        Of the fraction by which the bottleneck is really made shorter: the knobs that change.
    fractions : tuple of float
        What can really be done: speed-ups that have a truth.
    prepare : callable, optional
        Of a `Place`, before anything is started: writes files.
    planted : bool
        The bottleneck was put in; else it is the server's own.
    cgroup : bool
        All processes run in a cgroup of their own, limited as a container is, which is the scope.
    """

    name: str
    about: str
    processes: tuple[Process, ...]
    progress: tuple[str, str]
    spots: tuple[Spot, ...]
    knobs: Mapping[int, int]
    fix: Callable[[float], Mapping[int, int]]
    fractions: tuple[float, ...] = (0.5, 1.0)
    prepare: Callable[[Place], None] | None = None
    planted: bool = True
    cgroup: bool = False


def client(port: int, connections: int, *exchanges: str) -> Process:
    """The load: workbench/native/workloads/load_client.c; `exchanges` are requests and ends of answers in turns."""
    return Process(
        CLIENT,
        lambda place: [
            str(place.programs / "load_client"),
            str(port),
            str(connections),
            str(place.knobs),
            *exchanges,
        ],
    )
