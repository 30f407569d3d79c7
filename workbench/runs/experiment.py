"""Experiments and papers: the YAML files under ``experiments/``.

An experiment is a notebook, what to run it with, and what it must find::

    name: hot-function                      # folder of the outputs; default: the file's name
    title: One function takes most of the time
    notebook: ../notebooks/00-tour.ipynb    # paths are relative to this file
    parameters: {seconds: 5, rate: 999}     # for the notebook's cell tagged `parameters`
    recordings: {recording: ../datasets/tour}   # parameter: recording to replay
    needs: [perf_event BPF, uprobe]         # rows of `workbench doctor` that recording live takes
    grid: {threads: [1, 2, 4]}              # one run per combination
    timeout: 600                            # seconds that one cell may take
    claims:
      - {name: share of leaf_a, expected: 0.76, tolerance: 0.03, text: leaf_a takes three quarters}
      - {name: calls, equals: 1000, unit: calls}
      - {name: lost events, at_most: 0, where: {threads: 1}}
      - {name: time per call, expected: 140, relative: 0.1, unit: ns}

A paper is a list of experiments, by file or in place::

    title: From a process to a figure
    experiments:
      - tour.yaml
      - {name: overhead, notebook: ../notebooks/02-overhead.ipynb}
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import BadSpec
from workbench.runs import document
from workbench.runs.claims import Claim
from workbench.runs.document import Entry
from workbench.runs.parameters import check_parameters

__all__ = ("Experiment", "Paper", "Point", "load_experiment", "load_paper")

_KEYS = ("name", "title", "notebook", "parameters", "recordings", "needs", "grid", "timeout", "claims")
_PAPER_KEYS = ("title", "experiments")
_CLAIM_KEYS = (
    "name", "expected", "tolerance", "relative", "at_least", "at_most", "equals", "unit", "text", "where",
)  # fmt: skip
_DEFAULT_TIMEOUT = 1800.0


@dataclass(frozen=True, slots=True)
class Point:
    """One run of an experiment: a combination of its grid.

    `name` is a file name, unique in the experiment; empty where there is no grid.
    """

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as its file declares it; paths are absolute."""

    file: Path
    name: str
    title: str
    notebook: Path
    parameters: Mapping[str, Any]
    recordings: Mapping[str, Path]
    needs: tuple[str, ...]
    grid: Mapping[str, tuple[Any, ...]]
    timeout: float | None
    claims: tuple[Claim, ...]

    def points(self) -> Iterator[Point]:
        """Every run, in the order of the file (the last key of the grid varies fastest)."""
        if not self.grid:
            yield Point("", dict(self.parameters))
            return
        taken: set[str] = set()
        for values in itertools.product(*self.grid.values()):
            chosen = dict(zip(self.grid, values, strict=True))
            name = _file_name(",".join(f"{key}={value}" for key, value in chosen.items()))
            if name in taken:
                name = f"{name}~{len(taken)}"
            taken.add(name)
            yield Point(name, {**self.parameters, **chosen})

    def with_parameters(self, changes: Mapping[str, Any]) -> Experiment:
        """The same with other parameters; one that is in the grid stands for all its values.

        Raises
        ------
        BadSpec
            The notebook lacks one of them.
        """
        check_parameters(self.notebook, changes, "the command line")
        return replace(
            self,
            parameters={**self.parameters, **changes},
            recordings={name: path for name, path in self.recordings.items() if name not in changes},
            grid={name: values for name, values in self.grid.items() if name not in changes},
        )


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper: its experiments in order."""

    file: Path
    title: str
    experiments: tuple[Experiment, ...]


def load_experiment(file: str | Path) -> Experiment:
    """Read and check an experiment file, its notebook's parameters included.

    Raises
    ------
    BadSpec
        Naming file, line and key.
    """
    path = Path(file).resolve()
    entry = document.read(path)
    if "experiments" in entry.members():
        raise BadSpec(f"{path} is a paper, not an experiment", f"run it with: workbench reproduce {file}")
    return _experiment(entry, path.stem)


def load_paper(file: str | Path) -> Paper:
    """Read and check a paper and all its experiments; an experiment file is a paper of one.

    Raises
    ------
    BadSpec
        Naming file, line and key.
    """
    path = Path(file).resolve()
    entry = document.read(path)
    if "experiments" not in (members := entry.members()) and "notebook" in members:
        single = _experiment(entry, path.stem)
        return Paper(path, single.title, (single,))
    members = entry.members(_PAPER_KEYS)
    if "experiments" not in members:
        entry.fail("the key 'experiments' is missing", "list the experiment files of the paper under it")
    experiments: list[Experiment] = []
    for item in members["experiments"].items():
        if isinstance(item.value(), str):
            inner = (path.parent / item.text()).resolve()
            if not inner.is_file():
                item.fail(f"there is no file {inner}")
            one = load_experiment(inner)
        else:
            one = _experiment(item, None)
        if any(one.name == other.name for other in experiments):
            item.fail(f"a second experiment named {one.name!r}", "outputs are kept by name; choose another")
        experiments.append(one)
    if not experiments:
        members["experiments"].fail("lists no experiment")
    title = members["title"].text() if "title" in members else path.stem
    return Paper(path, title, tuple(experiments))


def _experiment(entry: Entry, default_name: str | None) -> Experiment:
    members = entry.members(_KEYS)
    folder = entry.file.parent
    if "name" in members:
        name = members["name"].text()
        if name != _file_name(name):
            members["name"].fail(f"{name!r} is no file name", "use letters, digits, '.', '_' and '-'")
    elif default_name:
        name = default_name
    else:
        entry.fail("the key 'name' is missing", "an experiment that has no file of its own needs a name")
    if "notebook" not in members:
        entry.fail("the key 'notebook' is missing", "name the notebook that the experiment runs")
    notebook = (folder / members["notebook"].text()).resolve()
    if not notebook.is_file():
        members["notebook"].fail(f"there is no notebook {notebook}", f"paths are relative to {folder}")

    parameters = _mapping(members, "parameters")
    recordings = _mapping(members, "recordings")
    grid = _mapping(members, "grid")
    origin: dict[str, str] = {}
    for part in (parameters, recordings, grid):
        for key, inner in part.items():
            if key == "source":
                inner.fail("the runner sets 'source'", "use `workbench run --live` or `--replay`")
            if key in origin:
                inner.fail(f"{key!r} is given twice, here and as {origin[key]}")
            origin[key] = inner.key
    check_parameters(notebook, {**parameters, **recordings, **grid}, str(entry.file))

    values: dict[str, tuple[Any, ...]] = {}
    for key, inner in grid.items():
        values[key] = tuple(item.value() for item in inner.items())
        if not values[key]:
            inner.fail("lists no value")
        if any(value in values[key][:index] for index, value in enumerate(values[key])):
            inner.fail("lists a value twice")
    timeout: float | None = _DEFAULT_TIMEOUT
    if "timeout" in members:
        timeout = members["timeout"].number()
        if timeout <= 0:
            members["timeout"].fail("is not positive", "it is the seconds that one cell may take")
    return Experiment(
        file=entry.file,
        name=name,
        title=members["title"].text() if "title" in members else name,
        notebook=notebook,
        parameters={key: inner.value() for key, inner in parameters.items()},
        recordings={key: (folder / inner.text()).resolve() for key, inner in recordings.items()},
        needs=_needs(members["needs"]) if "needs" in members else (),
        grid=values,
        timeout=timeout,
        claims=_claims(members["claims"], {*parameters, *grid}) if "claims" in members else (),
    )


def _needs(entry: Entry) -> tuple[str, ...]:
    from workbench.host import NAMES

    names = []
    for item in entry.items():
        name = item.text()
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            item.fail(
                f"no capability is named {name!r}",
                (f"did you mean {near[0]!r}? " if near else "") + "`workbench doctor` lists them",
            )
        names.append(name)
    return tuple(names)


def _mapping(members: Mapping[str, Entry], key: str) -> dict[str, Entry]:
    return members[key].members() if key in members else {}


def _claims(entry: Entry, parameters: set[str]) -> tuple[Claim, ...]:
    claims: list[Claim] = []
    for item in entry.items():
        members = item.members(_CLAIM_KEYS)
        if "name" not in members:
            item.fail("the key 'name' is missing", "it is the name that the notebook gives to wb.claim")
        kinds = {"expected": ("expected",), "equals": ("equals",), "bound": ("at_least", "at_most")}
        ways = [way for way, keys in kinds.items() if any(key in members for key in keys)]
        if len(ways) != 1:
            item.fail(
                "says in " + (f"{len(ways)} ways" if ways else "no way") + " what is right",
                "give one of: expected with tolerance or relative; at_least and/or at_most; equals",
            )
        margins = {"tolerance", "relative"} & members.keys()
        if ways == ["expected"] and len(margins) != 1:
            item.fail("expected needs either tolerance (absolute) or relative (a fraction of expected)")
        if ways != ["expected"] and margins:
            item.fail(f"{margins.pop()} goes with expected only")
        numbers: dict[str, Any] = {
            key: members[key].number()
            for key in ("expected", "tolerance", "relative", "at_least", "at_most")
            if key in members
        }
        for key in margins:
            if numbers[key] < 0:
                members[key].fail("is negative")
        equals = members["equals"].value() if "equals" in members else None
        if "equals" in members and not isinstance(equals, str | int | float | bool):
            members["equals"].fail("is not one number, truth value or text")
        where = {key: inner.value() for key, inner in _mapping(members, "where").items()}
        for key in where.keys() - parameters:
            members["where"].fail(f"{key!r} is no parameter of this experiment")
        one = Claim(
            name=members["name"].text(),
            **numbers,
            equals=equals,
            unit=members["unit"].text() if "unit" in members else "",
            text=members["text"].text() if "text" in members else "",
            where=where or None,
        )
        if any(one.name == other.name and one.where == other.where for other in claims):
            item.fail(f"a second claim named {one.name!r}")
        claims.append(one)
    return tuple(claims)


def _file_name(text: str) -> str:
    """`text` with what does not belong in a file name replaced; long text is cut and made unique by a hash."""
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "_", text)
    if len(name) > 100 or name in ("", ".", ".."):
        name = f"{name[:80]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name
