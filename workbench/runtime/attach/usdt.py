"""USDT marks of a process: a name stands for several places, each with its semaphore and argument description."""

from __future__ import annotations

from dataclasses import replace

from workbench.errors import UnknownSymbol
from workbench.frames.symbols.usdt import Mark, read_marks
from workbench.runtime.attach.link import Request
from workbench.runtime.attach.modules import Module, Modules

__all__ = ("expand", "marks")


def marks(module: Module) -> list[Mark]:
    """The marks of a mapped file, addresses as in the process."""
    try:
        found = read_marks(module.place)
    except UnknownSymbol:
        return []
    return [
        replace(
            one,
            address=one.address + module.bias,
            semaphore=one.semaphore + module.bias if one.semaphore else 0,
        )
        for one in found
    ]


def expand(request: Request, modules: Modules) -> list[Request]:
    """A request for ``[library:]provider:name`` as one request for each of the mark's places; others as they are.

    Raises
    ------
    UnknownSymbol
        No mapped file has such a mark.
    """
    if request.kind != "usdt" or not isinstance(request.site, str):
        return [request]
    *library, provider, name = request.site.split(":")
    where = [modules.named(library[0])] if library and library[0] else modules.all
    known: list[str] = []
    for module in where:
        found = marks(module)
        if same := [one for one in found if (one.provider, one.name) == (provider, name)]:
            return [
                replace(request, site=one.address, semaphore=one.semaphore, arguments=one.arguments)
                for one in same
            ]
        known += sorted({f"{one.provider}:{one.name}" for one in found})
    raise UnknownSymbol(
        f"process {modules.pid} has no USDT mark {request.site!r}",
        f"it has {', '.join(known[:20])}" if known else "no mapped file has any mark",
    )
