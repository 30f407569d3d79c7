"""Where the samples of a run were: from addresses to the regions that were asked for, else to functions."""

from __future__ import annotations

import contextlib
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.causal.controller import Sampler
from workbench.collectors.modules import Modules
from workbench.errors import NotPermitted, TargetGone, UnknownSymbol
from workbench.frames.symbols.mappings import parse_maps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from workbench.causal.regions import Finder, Pieces, Region
    from workbench.collectors.modules import Module
    from workbench.sched.measured import Located

__all__ = ("Names", "Sampling", "code_of", "table")

_MOST = 8  # pieces that the scheduler takes for a process


class Names:
    """Names of addresses of a target's processes: of regions that were asked for first, else of functions.

    Processes are looked at while they run (`look`), because their samples are read when they may be gone.

    Parameters
    ----------
    regions : sequence of Region
    finder : Finder
    """

    def __init__(self, regions: Sequence[Region], finder: Finder) -> None:
        self.regions, self.finder = regions, finder
        self._modules: dict[int, Modules] = {}
        self._pieces: dict[int, list[tuple[str, Pieces]]] = {}

    def look(self, pids: Iterable[int]) -> None:
        """Remember what these processes have mapped."""
        for pid in pids:
            if pid in self._modules:
                continue
            try:
                self._modules[pid] = Modules(pid)
            except (TargetGone, NotPermitted, OSError):
                continue
            self._pieces[pid] = []
            for region in self.regions:
                try:
                    places = self.finder.places([pid], region)
                except UnknownSymbol:
                    continue
                if pid in places:
                    self._pieces[pid].append((region.spec, places[pid]))

    def name(self, pid: int, address: int) -> str:
        """A region's specification, a function as a region would be specified, or an address of a file; "" for 0."""
        if not address:
            return ""
        # A process that was not looked at was forked by one that was, and has its code where that has it.
        known = pid if pid in self._modules else next(iter(self._modules), 0)
        for spec, pieces in self._pieces.get(known, ()):
            if any(low <= address < high for low, high in pieces):
                return spec
        for module in self._modules[known].mapped if known else ():
            if module.mapping and module.mapping[0] <= address < module.mapping[1]:
                return _function(module, address)
        return f"{address:#x}"


def _function(module: Module, address: int) -> str:
    prefix = "" if module.main else f"{Path(module.path).name}:"
    try:
        bias = module.bias
        if bias is None:
            return f"{prefix}{address:#x}"
        index = module.symbols.find_address(np.array([address - bias], np.uint64))
        if index[0] < 0:
            return f"{prefix}{address - bias:#x}"
        return prefix + module.symbols.name(int(index[0]))
    except UnknownSymbol:
        return f"{prefix}{address:#x}"


class Sampling:
    """Samples of a run: keeps the engine's scope in step with the target's processes, and reads where samples were.

    Parameters
    ----------
    names : Names
    within : sequence of str, optional
        See `code_of`; None: a sample belongs to its instruction.
    """

    def __init__(self, names: Names, within: Sequence[str] | None) -> None:
        self.names, self.within = names, within
        self._engine: Sampler | None = None
        self._limited: dict[int, Pieces] = {}

    def begin(self, engine: object) -> None:
        """The engine is there; of one that does not say where samples were, nothing is read."""
        self._engine = engine if isinstance(engine, Sampler) else None

    def look(self, pids: Sequence[int]) -> None:
        """These are the target's processes now."""
        if self._engine is None:
            return
        self.names.look(pids)
        if self.within is None or set(pids) == self._limited.keys():
            return
        found: dict[int, Pieces] = {}
        for pid in pids:
            with contextlib.suppress(TargetGone):
                found[pid] = self._limited.get(pid) or code_of(pid, self.within)
        self._limited = found
        self._engine.limit(found)

    def end(self) -> pd.DataFrame | None:
        """Frame `causal_samples`."""
        if self._engine is None:
            return None
        parameters = getattr(self._engine, "parameters", None)
        return table(self._engine.locations(), self.names, getattr(parameters, "period", 1_000_000))


def table(located: Iterable[Located], names: Names, period: int) -> pd.DataFrame:
    """Frame `causal_samples`, most samples first.

    Parameters
    ----------
    located : iterable of Located
    names : Names
    period : int
        ns between two samples of a CPU.
    """
    import pandas as pd

    sums: dict[str, Counter[str]] = {}
    for one in located:
        row = sums.setdefault(names.name(one.pid, one.address), Counter())
        row.update(count=one.count, weight=one.weight, plain=one.plain)
    rows = [
        (
            location,
            row["count"],
            row["weight"],
            max(0, round(row["weight"] / period) - row["count"]),
            row["plain"],
        )
        for location, row in sorted(sums.items(), key=lambda item: (-item[1]["count"], item[0]))
    ]
    return pd.DataFrame(rows, columns=["location", "count", "weight", "lost", "plain"])


def code_of(pid: int, patterns: Sequence[str]) -> Pieces:
    """Addresses [low, high) of the code of those of a process's files that match.

    Parameters
    ----------
    pid : int
    patterns : sequence of str
        File names or paths with ``*`` and ``?``; none: the program itself.

    Raises
    ------
    TargetGone
        The process has ended.
    """
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
        program = str(Path(f"/proc/{pid}/exe").readlink())
    except OSError as error:
        raise TargetGone(f"process {pid} has ended") from error
    pieces: list[tuple[int, int]] = []
    for low, high, _, path in parse_maps(text):
        inside = (
            any(fnmatch(path, one) or fnmatch(Path(path).name, one) for one in patterns)
            if patterns
            else path == program
        )
        if not inside:
            continue
        if pieces and pieces[-1][1] == low:
            pieces[-1] = (pieces[-1][0], high)
        else:
            pieces.append((low, high))
    return tuple(pieces[:_MOST])
