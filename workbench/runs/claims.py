"""Numbers that a notebook claims, on their way from a cell to the table of `workbench reproduce`.

In a notebook, ``wb.claim("share of leaf_a", 0.763)`` shows a readable line and stores the number in the cell's output
under its own media type, so that it can be read back from the executed notebook; nothing else has to be set up.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import BadSpec, RunFailed

__all__ = ("MEDIA_TYPE", "Claim", "Verdict", "check", "claim", "claimed", "shown")

MEDIA_TYPE = "application/vnd.workbench.claim+json"

Value = bool | int | float | str


def claim(name: str, value: Any, unit: str = "") -> Any:
    """State a number that the paper quotes.

    Parameters
    ----------
    name : str
        The name that the experiment file gives the claim.
    value : bool, int, float, str or a numpy scalar
        What this run measured or computed.
    unit : str
        Unit for the reader.

    Returns
    -------
    Any
        `value`, unchanged.

    Raises
    ------
    BadSpec
        `value` is not a single number, truth value or text.
    """
    plain = _plain(name, value)
    text = f"claim {name} = {shown(plain)}{' ' + unit if unit else ''}"
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        print(text)
        return value
    from IPython.display import display

    # JSON has no nan and no infinity.
    stored = repr(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain
    bundle = {"text/plain": text, MEDIA_TYPE: {"name": name, "value": stored, "unit": unit}}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]
    return value


def claimed(nb: Any) -> dict[str, Value]:
    """The claims in the outputs of an executed notebook, in order.

    Raises
    ------
    RunFailed
        The notebook claims two different values under one name.
    """
    found: dict[str, Value] = {}
    for cell in nb["cells"]:
        for output in cell.get("outputs", ()):
            stored = output.get("data", {}).get(MEDIA_TYPE)
            if stored is None:
                continue
            name, value = str(stored["name"]), stored["value"]
            if isinstance(value, str) and value in ("nan", "inf", "-inf"):
                value = float(value)
            if name in found and found[name] != value:
                raise RunFailed(
                    f"the notebook claims {name!r} twice: {shown(found[name])} and {shown(value)}",
                    "give each number its own name",
                )
            found[name] = value
    return found


@dataclass(frozen=True, slots=True)
class Claim:
    """What an experiment file expects of one number.

    Exactly one of the ways to be right is set: `expected` with `tolerance` (absolute) or `relative` (a fraction of
    `expected`), `at_least` and/or `at_most`, or `equals`.
    """

    name: str
    expected: float | None = None
    tolerance: float | None = None
    relative: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    equals: Value | None = None
    unit: str = ""
    text: str = ""
    where: Mapping[str, Any] | None = None

    @property
    def wanted(self) -> str:
        """The expectation, for the table."""
        if self.equals is not None:
            return shown(self.equals)
        if self.expected is not None:
            return shown(self.expected)
        bounds = []
        if self.at_least is not None:
            bounds.append(f">= {shown(self.at_least)}")
        if self.at_most is not None:
            bounds.append(f"<= {shown(self.at_most)}")
        return ", ".join(bounds)

    @property
    def allowed(self) -> str:
        """The tolerance, for the table."""
        if self.relative is not None:
            return f"± {self.relative * 100:g} %"
        if self.tolerance is not None:
            return f"± {shown(self.tolerance)}"
        return "exact" if self.equals is not None else "bound"

    def holds(self, got: Value) -> bool:
        """Whether `got` is what is expected; a nan never is."""
        if self.equals is not None:
            return type(got) is bool and got == self.equals if isinstance(self.equals, bool) else got == self.equals
        if isinstance(got, str):
            return False
        number = float(got)
        if math.isnan(number):
            return False
        if self.expected is not None:
            margin = self.tolerance if self.tolerance is not None else abs(self.expected) * (self.relative or 0.0)
            # The margin is a decimal that a person wrote: 0.3 must be within 0.1 of 0.2.
            return abs(number - self.expected) <= margin + 1e-12 * max(abs(self.expected), abs(number))
        return (self.at_least is None or number >= self.at_least) and (
            self.at_most is None or number <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table: a claim and what a run gave for it (`got` is None where the run did not say)."""

    experiment: str
    point: str
    claim: Claim
    got: Value | None
    ok: bool
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "experiment": self.experiment,
            "point": self.point,
            "claim": self.claim.name,
            "text": self.claim.text,
            "expected": self.claim.wanted,
            "got": _jsonable(self.got),
            "tolerance": self.claim.allowed,
            "unit": self.claim.unit,
            "ok": self.ok,
            "note": self.note,
        }


def check(
    claims: Iterable[Claim], found: Mapping[str, Value], *, experiment: str, point: str, parameters: Mapping[str, Any]
) -> list[Verdict]:
    """Judge every claim that concerns a run with these parameters."""
    verdicts = []
    for one in claims:
        if one.where and any(parameters.get(name) != value for name, value in one.where.items()):
            continue
        if one.name in found:
            got = found[one.name]
            verdicts.append(Verdict(experiment, point, one, got, one.holds(got)))
        else:
            note = f"not claimed; the notebook claims {', '.join(found) or 'nothing'}"
            verdicts.append(Verdict(experiment, point, one, None, False, note))
    return verdicts


def _plain(name: str, value: Any) -> Value:
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "size", 1) == 1:
        value = item()
    if isinstance(value, bool | int | float | str):
        return value
    raise BadSpec(
        f"claim {name!r} is a {type(value).__name__}",
        "claim one number, truth value or text at a time",
    )


def shown(value: Value) -> str:
    """A value for a reader: six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _jsonable(value: Value | None) -> Value | None:
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
