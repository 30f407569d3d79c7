"""The specification of a uprobe, uretprobe or usdt collector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workbench.collectors.stacks import COPY_BYTES
from workbench.collectors.uprobe.declarators import parse_signature
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from workbench.collectors.spec import Spec
    from workbench.collectors.uprobe.types import Signature

__all__ = ("MAX_STRING", "MAX_STRINGS", "USAGE", "Options", "split_signature")

MAX_STRING, MAX_STRINGS = 256, 4
USAGE = (
    "uprobe|uretprobe:[LIBRARY:]FUNCTION[(C PARAMETERS)[->C TYPE]] or usdt:[LIBRARY:]PROVIDER:NAME"
    "[,args=yes|no][,return=yes|no][,count=yes|no][,latency=yes|no][,stacks=no|yes|fp][,string=BYTES]"
    "[,children=late|exact|no][,attach=auto|multi|events]"
)


def split_signature(text: str) -> tuple[str, Signature | None]:
    """Split `FUNCTION(PARAMETERS)->RESULT` into the location and its signature.

    Raises
    ------
    BadSpec
        The signature is not C.
    """
    name, parenthesis, rest = text.partition("(")
    if name.endswith("operator"):
        more, parenthesis, rest = rest.partition("(")
        name += "(" + more
    return (name.strip(), parse_signature("(" + rest)) if parenthesis else (text.strip(), None)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes
    ----------
    kind : str
        uprobe, uretprobe or usdt.
    text : str
        The specification, as the frames name the probe.
    location : str
        `LIBRARY:FUNCTION` and so on (`resolve`), or `LIBRARY:PROVIDER:NAME`.
    signature : Signature or None
        As declared in the specification.
    join : bool
        Entry and return give one row.
    events : bool
        A row per hit; without it hits are counted only.
    children : str
        ``late``: processes that a target forks are probed once the fork was seen; only processes of the target are
        touched. ``exact``: from their first instruction; every process that runs the same code then pays for it,
        though nothing of it is recorded. ``no``: not at all.
    attach : str
        ``multi`` one link for all places of a file (Linux 6.6), ``events`` one perf event per place, ``auto``.
    """

    kind: Literal["uprobe", "uretprobe", "usdt"]
    text: str
    location: str
    signature: Signature | None = None
    arguments: bool = True
    join: bool = False
    events: bool = True
    latency: bool = False
    stacks: str = "no"
    copy: int = COPY_BYTES
    string: int = 64
    children: str = "late"
    attach: str = "auto"

    @classmethod
    def from_spec(cls, spec: Spec) -> Options:
        """Read and check a specification.

        Raises
        ------
        BadSpec
        """
        assert spec.name in ("uprobe", "uretprobe", "usdt")
        kind: Literal["uprobe", "uretprobe", "usdt"] = spec.name  # type: ignore[assignment]
        location, signature = split_signature(spec.argument)
        if not location:
            example = (
                "usdt:libfoo:provider:name" if kind == "usdt" else f"{kind}:libsqlite3:sqlite3_step"
            )
            raise BadSpec(
                f"{spec}: names no function" if kind != "usdt" else f"{spec}: names no mark",
                f"for example {example}",
            )
        if kind == "usdt" and ":" not in location:
            raise BadSpec(
                f"{spec}: a USDT mark is named PROVIDER:NAME", "for example usdt:python:gc__start"
            )
        latency = spec.flag("latency")
        count = spec.flag("count")
        join = spec.flag("return", default=latency)
        if kind != "uprobe" and (latency or spec.options.get("return")):
            raise BadSpec(
                f"{spec}: return= and latency= join entry and return",
                f"use uprobe:{location},return=yes",
            )
        string = spec.integer("string", 64, 8, MAX_STRING)
        if string % 8:
            raise BadSpec(
                f"{spec}: string={string} is not a multiple of 8",
                f"string={string + 8 - string % 8}",
            )
        stacks = spec.choice("stacks", "no", ("no", "yes", "fp"))
        events = not (count or latency)
        if stacks != "no" and not events:
            raise BadSpec(
                f"{spec}: counting takes no stacks", "leave out count= and latency=, or stacks="
            )
        made = cls(
            kind,
            f"{kind}:{location}",
            location,
            signature,
            arguments=spec.flag("args", default=True) and events,
            join=join or latency,
            events=events,
            latency=latency,
            stacks=stacks,
            copy=spec.integer("copy", COPY_BYTES, 512, 56 * 1024),
            string=string,
            children=spec.choice("children", "late", ("late", "exact", "no")),
            attach=spec.choice("attach", "auto", ("auto", "multi", "events")),
        )
        spec.done()
        return made

    @property
    def entries(self) -> bool:
        """The entry is probed."""
        return self.kind != "uretprobe"

    @property
    def returns(self) -> bool:
        """The return is probed."""
        return self.join or self.kind == "uretprobe"

    @property
    def event(self) -> str:
        """Column `event` of its rows."""
        if self.kind == "usdt":
            return "mark"
        return "call" if self.join else "return" if self.kind == "uretprobe" else "entry"
