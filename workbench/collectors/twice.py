"""The same thing asked for twice in one recording: refused where rows could not be told apart, else told.

The kernel takes one program at one place as often as it is asked to, and so does user space: every hit then counts for
each of them. That is right for two recordings, and rarely meant within one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.collectors.spec import Spec
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workbench.collectors.base import Collector

__all__ = ("overlaps", "refuse_twins")

_TOLD_APART = ("uprobe", "uretprobe", "usdt", "watch", "rwatch", "gpu")
"""Their rows say by which argument they were recorded."""
_SHOWN = 3


def refuse_twins(specs: Iterable[str | Spec | Collector]) -> None:
    """Refuse two specifications whose rows could not be told apart.

    Raises
    ------
    BadSpec
    """
    known: dict[tuple[str, str], Spec] = {}
    for one in specs:
        if not isinstance(one, Spec):
            continue
        key = one.name, (one.argument if one.name in _TOLD_APART else "")
        if key in known:
            raise BadSpec(
                f"{known[key]} and {one} would record everything twice, in rows that cannot be told apart",
                "ask for one of them, or make two recordings",
            )
        known[key] = one


def overlaps(collectors: Sequence[Collector]) -> list[str]:
    """One sentence for each pair of attached probes that share places."""
    found = []
    probed: list[tuple[Any, dict[tuple[str, int], str]]] = []
    one: Any
    for one in collectors:
        plan = getattr(one, "plan", None)
        if plan is None:
            continue
        places = {(site.place.path, site.place.file_offset): site.function for site in plan.sites}
        for other, others in probed:
            shared = sorted({name for place, name in places.items() if place in others})
            if shared and one.name == other.name:
                more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
                found.append(
                    f"{other.options.text} and {one.options.text} both record {', '.join(shared[:_SHOWN])}{more}: "
                    "each call counts for both (column probe tells them apart)"
                )
        probed.append((one, places))
    return found
