"""Regions: the part of a program whose speed-up is asked for, and where it lies in each process.

A region is named `FUNCTION`, `LIBRARY:FUNCTION`, `FILE:LINE` (a source line, with debug information), `0xLOW-0xHIGH`
(run-time addresses of the process) or `LIBRARY:0xLOW-0xHIGH` (addresses in that file).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from workbench.causal.lines import line_ranges, split_line
from workbench.collectors.modules import Modules
from workbench.collectors.resolve import resolve_function, split_location
from workbench.errors import BadSpec, NotPermitted, TargetGone, UnknownSymbol
from workbench.sched.schedcoz import PIECES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("Finder", "Pieces", "Region", "locate")

Pieces: TypeAlias = tuple[tuple[int, int], ...]
"""Addresses [low, high) of code."""

_RANGE = re.compile(r"(0x[0-9a-fA-F]+)-(0x[0-9a-fA-F]+)")


@dataclass(frozen=True, slots=True)
class Region:
    """What is sped up: `spec` as the user wrote it, which is also its name in every frame."""

    spec: str

    def __post_init__(self) -> None:
        if not self.spec.strip():
            raise BadSpec(
                "a region has no name", "FUNCTION, LIBRARY:FUNCTION, FILE:LINE or 0xLOW-0xHIGH"
            )


def locate(modules: Modules, region: Region) -> Pieces:
    """Run-time addresses of a region in one process: pieces [low, high), of a source line often several.

    Parameters
    ----------
    modules : Modules
        Files that the process has mapped.
    region : Region

    Raises
    ------
    UnknownSymbol
        The process has no such function, line or address; or the code of the line is in more than eight pieces.
    BadSpec
        The specification makes no sense.
    """
    spec = region.spec.strip()
    library, name = split_location(spec)
    if match := _RANGE.fullmatch(name):
        return (_addresses(modules, library, int(match[1], 16), int(match[2], 16)),)
    if found := split_line(spec):
        return _line(modules, *found)
    if re.search(r"[*?\[]", name):
        raise BadSpec(f"the region {spec!r} is a pattern", "give --region once for each function")
    place = resolve_function(modules, spec)[0]
    if place.address is None:
        raise UnknownSymbol(
            f"{place.module} is not mapped by process {modules.pid} yet",
            "a region can be used from when its library is loaded: attach then",
        )
    if not place.size:
        raise UnknownSymbol(
            f"{spec} is a function of unknown size", "give its addresses: LIBRARY:0xLOW-0xHIGH"
        )
    return ((place.address, place.address + place.size),)


def _addresses(modules: Modules, library: str, low: int, high: int) -> tuple[int, int]:
    if low >= high:
        raise BadSpec(f"the range {low:#x}-{high:#x} is empty", "the first address comes first")
    if not library:
        return low, high
    module = modules.find_module(library)
    if module.bias is None:
        raise UnknownSymbol(f"{module.path} is not mapped by process {modules.pid}")
    return low + module.bias, high + module.bias


def _line(modules: Modules, file: str, line: int) -> Pieces:
    missing: UnknownSymbol | None = None
    for module in modules:
        if module.bias is None:
            continue
        try:
            ranges = line_ranges(module, file, line)
        except UnknownSymbol as error:
            missing = missing or error  # the program's own says the most
            continue
        if len(ranges) > PIECES:
            raise UnknownSymbol(
                f"the code of {file}:{line} is in {len(ranges)} pieces, more than {PIECES}",
                "give one of them as LIBRARY:0xLOW-0xHIGH, or the function that holds them all",
            )
        return tuple((low + module.bias, high + module.bias) for low, high in ranges)
    raise missing or UnknownSymbol(f"process {modules.pid} has no code of {file}:{line}")


class Finder:
    """Where regions lie in each process; what was found is kept until the process executes another program."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, str], Pieces] = {}

    def places(self, pids: Iterable[int], region: Region) -> dict[int, Pieces]:
        """Pieces [low, high) by process, for those that have the region; processes that are gone are left out.

        Raises
        ------
        UnknownSymbol
            No process has it: that of the first process that could be looked at.
        """
        found: dict[int, Pieces] = {}
        missing: UnknownSymbol | None = None
        for pid in pids:
            try:
                # The first mapping tells two programs of one process apart, and two processes of one number.
                identity = _first_mapping(pid)
                key = (pid, identity, region.spec)
                if key not in self._known:
                    self._known[key] = locate(Modules(pid), region)
                found[pid] = self._known[key]
            except (TargetGone, NotPermitted, OSError):
                continue
            except UnknownSymbol as error:
                missing = missing or error
        if not found and missing is not None:
            raise missing
        return found


def _first_mapping(pid: int) -> str:
    with open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123
        line = maps.readline()
    with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
        born = stat.read().rsplit(b")", 1)[-1].split()[19]
    return f"{line.decode(errors='replace')} {born.decode()}"
