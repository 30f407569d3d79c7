"""Which collectors there are: name -> class, imported on first use.

A collector class has `SUMMARY` (one line), `USAGE` (its specification with options) and
`from_spec(spec: Spec) -> Collector`.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.collectors.spec import Spec, parse
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from workbench.collectors.base import Collector

__all__ = ("COLLECTORS", "make", "summary")

COLLECTORS: dict[str, str] = {
    "cpu": "workbench.collectors.cpu:CpuCollector",
    "uprobe": "workbench.collectors.uprobe:UprobeCollector",
    "uretprobe": "workbench.collectors.uprobe:UprobeCollector",
    "usdt": "workbench.collectors.uprobe:UprobeCollector",
    "watch": "workbench.collectors.watch:WatchCollector",
    "rwatch": "workbench.collectors.watch:WatchCollector",
    "gpu": "workbench.collectors.gpu:GpuCollector",
    "sched": "workbench.collectors.sched:SchedCollector",
    "syscalls": "workbench.collectors.syscalls:SyscallsCollector",
    "pages": "workbench.collectors.pages:PagesCollector",
}


def _class(name: str) -> Any:
    if name not in COLLECTORS:
        near = difflib.get_close_matches(name, COLLECTORS, 1)
        raise BadSpec(
            f"there is no collector {name!r}",
            (f"did you mean {near[0]!r}? " if near else "")
            + f"collectors: {', '.join(COLLECTORS)}",
        )
    module, _, attribute = COLLECTORS[name].partition(":")
    return getattr(import_module(module), attribute)


def make(spec: Spec | str) -> Collector:
    """The collector that a specification asks for.

    Raises
    ------
    BadSpec
        Unknown collector, unknown option or bad value.
    """
    if isinstance(spec, str):
        spec = parse(spec)
    collector: Collector = _class(spec.name).from_spec(spec)
    return collector


def summary() -> list[tuple[str, str, str]]:
    """(name, summary, usage) of every collector, for `workbench record --help`."""
    return [(name, _class(name).SUMMARY, _class(name).USAGE) for name in COLLECTORS]
