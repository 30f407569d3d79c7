"""Progress points: places whose passing means that a unit of work is done.

A latency is named by where it begins and where it ends, `BEGIN,END`, each named as a point.

A point is named like a function for a probe, `FUNCTION`, `LIBRARY:FUNCTION` or `LIBRARY:0xADDRESS` (`uprobe:` may stand
before it); `FILE:LINE`, a source line; or `usdt:[LIBRARY:]PROVIDER:NAME`, a mark that the program brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.causal.lines import line_ranges, split_line
from workbench.collectors.resolve import resolve_function
from workbench.errors import BadSpec, UnknownSymbol
from workbench.frames.symbols.usdt import read_marks

if TYPE_CHECKING:
    from workbench.collectors.modules import Module, Modules

__all__ = ("Latency", "Point", "resolve_latencies", "resolve_points")

_MOST = 16  # progress points that the scheduler counts


@dataclass(frozen=True, slots=True)
class Point:
    """One instruction whose passing is progress.

    Attributes
    ----------
    name : str
        As the user wrote it; with ``#N`` where one specification names several places.
    path : str
        File, as this process can open it.
    offset : int
        Byte in the file: what the probe is attached to.
    semaphore : int
        Byte of a mark's semaphore, which must be counted up for the mark to be passed; 0: none.
    """

    name: str
    path: str
    offset: int
    semaphore: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """The time from passing one of the points `begin` to passing one of `end`; `name` as the user wrote it."""

    name: str
    begin: tuple[Point, ...]
    end: tuple[Point, ...]


def resolve_latencies(modules: Modules, specs: list[str]) -> list[Latency]:
    """Places of latencies in the files of a target; parameters and errors as for `resolve_points`."""
    found = []
    for spec in specs:
        begin, comma, end = spec.partition(",")
        if not (begin.strip() and comma and end.strip()) or "," in end:
            raise BadSpec(
                f"the latency {spec!r} is not of two points",
                "--latency BEGIN,END: what is passed when something begins, and when it ends",
            )
        ends = [tuple(_resolve(modules, one.strip())) for one in (begin, end)]
        if {(p.path, p.offset) for p in ends[0]} & {(p.path, p.offset) for p in ends[1]}:
            raise BadSpec(f"the latency {spec!r} begins where it ends", "name two places")
        found.append(Latency(spec.strip(), ends[0], ends[1]))
    return found


def resolve_points(modules: Modules, specs: list[str]) -> list[Point]:
    """Places of progress points in the files of a target.

    Parameters
    ----------
    modules : Modules
        Of a process that is running or held at its start, or of files.
    specs : list of str
        See the module's description.

    Raises
    ------
    UnknownSymbol
        A specification names nothing; says what is near.
    BadSpec
        None is given, or they are more than 16 places.
    """
    points = [point for spec in specs for point in _resolve(modules, spec.strip())]
    if not points:
        raise BadSpec(
            "no progress point is given",
            "--progress FUNCTION: what is passed once per unit of work",
        )
    if len(points) > _MOST:
        raise BadSpec(
            f"{len(points)} progress points are too many: {', '.join(specs)}", f"{_MOST} at most"
        )
    return points


def _resolve(modules: Modules, spec: str) -> list[Point]:
    if spec.startswith("usdt:"):
        return _marks(modules, spec)
    name = spec.removeprefix("uprobe:")
    if found := split_line(name):
        return [_line(modules, spec, *found)]
    places = resolve_function(modules, name)
    return _named(spec, [(place.path, place.file_offset, 0) for place in places])


def _named(spec: str, places: list[tuple[str, int, int]]) -> list[Point]:
    if len(places) == 1:
        return [Point(spec, *places[0])]
    return [Point(f"{spec}#{number}", *place) for number, place in enumerate(places)]


def _line(modules: Modules, spec: str, file: str, line: int) -> Point:
    missing: UnknownSymbol | None = None
    for module in modules:
        try:
            low = line_ranges(module, file, line)[0][0]
        except UnknownSymbol as error:
            missing = missing or error
            continue
        return Point(spec, module.place, _offset(module, low))
    raise missing or UnknownSymbol(f"there is no code of {file}:{line}")


def _marks(modules: Modules, spec: str) -> list[Point]:
    parts = spec.split(":")[1:]
    if len(parts) < 2 or not all(parts):
        raise BadSpec(f"{spec!r} is no mark", "usdt:PROVIDER:NAME or usdt:LIBRARY:PROVIDER:NAME")
    library, provider, name = ":".join(parts[:-2]), parts[-2], parts[-1]
    searched = modules.find_modules(library) if library else list(modules)
    seen: dict[str, None] = {}
    places = []
    for module in searched:
        try:
            marks = read_marks(module.place)
        except UnknownSymbol:
            continue
        seen.update(dict.fromkeys(f"{one.provider}:{one.name}" for one in marks))
        places += [
            (module.place, _offset(module, one.address), _semaphore(module, one.semaphore))
            for one in marks
            if (one.provider, one.name) == (provider, name)
        ]
    if not places:
        raise UnknownSymbol(
            f"no USDT mark {provider}:{name} in the program and its libraries",
            f"marks there: {', '.join(list(seen)[:10])}" if seen else "they have none at all",
        )
    return _named(spec, places)


def _offset(module: Module, address: int) -> int:
    where, found = module.symbols.vaddr_to_offset(np.array([address], np.uint64))
    if not found[0]:
        raise UnknownSymbol(f"{address:#x} is not in {module.path}")
    return int(where[0])


def _semaphore(module: Module, address: int) -> int:
    return _offset(module, address) if address else 0
