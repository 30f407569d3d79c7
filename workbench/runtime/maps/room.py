"""Which maps of an object would not be made here: told before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.runtime.maps.space import Space, free_bytes, no_room

if TYPE_CHECKING:
    from workbench.objects.linked import LinkedMap

__all__ = ("refused_maps",)


def refused_maps(maps: Iterable[LinkedMap]) -> dict[str, WorkbenchError]:
    """Maps that loading would refuse, with its error: unknown types, bad sizes, more memory than there is.

    The maps of an object are made in order: one may fit alone and not after the others.
    """
    found: dict[str, WorkbenchError] = {}
    with Space(None) as space:
        free = free_bytes(space.path)
        for one in maps:
            try:
                length = space.needs(one)
            except WorkbenchError as error:
                found[one.name] = error
                continue
            if length > free:
                found[one.name] = no_room(f"map {one.name!r}", length, free, space.path)
            else:
                free -= length
    return found
