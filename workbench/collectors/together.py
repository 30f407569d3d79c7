"""What the recorder does with all its collectors at once. Some methods of a collector are optional: asked for here.

Optional: ``prepare_environment(variables)`` before a command is started, ``notes()`` for the manifest, ``mapped(pid,
path)`` when a process in scope has mapped a file, ``checkpoint(sink)``: the rows that `finish` would append of what
is counted in maps, `overhead` left out.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from workbench.collectors.spec import Spec
from workbench.errors import WorkbenchError
from workbench.frames.manifest import CollectorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from workbench.collectors.base import Collector, Sink
    from workbench.collectors.processes import Processes

__all__ = ("checkpoint", "counting", "drain", "each", "environment", "infos", "notes", "undo")


def infos(
    specs: Sequence[str | Spec | Collector], collectors: Sequence[Collector]
) -> list[CollectorInfo]:
    """Names and options for the manifest."""
    found = []
    for spec, one in zip(specs, collectors, strict=True):
        text = str(spec) if isinstance(spec, Spec) else one.name
        options = {"spec": text} | (dict(spec.options) if isinstance(spec, Spec) else {})
        found.append(CollectorInfo(one.name, options))
    return found


def environment(collectors: Iterable[Collector], variables: dict[str, str]) -> dict[str, str]:
    """The environment of a command, with what collectors need in it."""
    for one in collectors:
        prepare = getattr(one, "prepare_environment", None)
        if prepare is not None:
            prepare(variables)
    return variables


def notes(collectors: Iterable[Collector]) -> dict[str, Any]:
    """What the recording should remember of each."""
    found: dict[str, Any] = {}
    for one in collectors:
        tell = getattr(one, "notes", None)
        if tell is not None:
            found |= tell()
    return found


def drain(collectors: Sequence[Collector], processes: Processes) -> None:
    """News of processes first, then what every collector has."""
    for pid in processes.drain():
        for one in collectors:
            with contextlib.suppress(WorkbenchError):  # gone already, or its library is not mapped yet
                one.attach_process(pid)
    listening = [one.mapped for one in collectors if hasattr(one, "mapped")]
    for hear in listening:
        for pid, path in processes.mapped:
            with contextlib.suppress(WorkbenchError):  # it exited already
                hear(pid, path)
    for one in collectors:
        one.drain()


def checkpoint(collectors: Iterable[Collector], sink: Sink) -> None:
    """What is counted in maps, as it is now."""
    for one in collectors:
        keep = getattr(one, "checkpoint", None)
        if keep is not None:
            keep(sink)


def counting(collectors: Iterable[Collector]) -> list[str]:
    """Collectors that count in maps."""
    return [
        getattr(getattr(one, "options", None), "text", one.name)
        for one in collectors
        if hasattr(one, "checkpoint")
    ]


def each(collectors: Iterable[Collector], step: str) -> Iterator[Exception]:
    """Do one step with every collector; the errors. One collector's failure must not cost the data of the others."""
    for one in collectors:
        try:
            getattr(one, step)()
        except Exception as error:
            yield error


def undo(collectors: Sequence[Collector]) -> None:
    """Detach those that had attached when something failed; that failure is the one to report."""
    for one in reversed(collectors):
        for step in (one.detach, one.finish):
            with contextlib.suppress(Exception):
                step()
