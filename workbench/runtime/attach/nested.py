"""Maps of maps and program arrays in the target: what their slots name is opened and written there as well.

A slot holds a number that means the same in every process; each one is told what it has under it (`wb_nested_offer`).
What this process offers to such a map later is offered to every entered process, before the number can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.errors import RunFailed
from workbench.runtime.attach.link import Request

if TYPE_CHECKING:
    from workbench.runtime.attach.remote import Calls
    from workbench.runtime.attach.room import Room
    from workbench.runtime.maps import Map

__all__ = ("Listening", "closure", "offer", "programs_of")


def _offered(one: Map) -> dict[int, Any]:
    """Number -> map or loaded program, of a map that has such."""
    return {
        number: thing
        for number, thing in getattr(one, "offered", {}).items()
        if hasattr(thing, "handle") or hasattr(thing, "probe_maps")
    }


def closure(maps: Iterable[Map]) -> list[Map]:
    """The maps and what can be reached through them, each once."""
    found: dict[int, Map] = {}
    queue = list(maps)
    while queue:
        one = queue.pop()
        if id(one) not in found:
            found[id(one)] = one
            for thing in _offered(one).values():
                queue += [thing] if hasattr(thing, "handle") else thing.probe_maps
    return list(found.values())


def programs_of(maps: Iterable[Map]) -> list[Request]:
    """Every program that these program arrays name."""
    return [
        _request(thing)
        for one in maps
        for thing in _offered(one).values()
        if not hasattr(thing, "handle")
    ]


def _request(program: Any) -> Request:
    return Request(program.probe, "", maps=tuple(program.probe_maps))


def offer(room: Room, calls: Calls, outer: Map, number: int | None = None) -> None:
    """Tell the held process what it has under a number, or under all: maps that are open there, programs."""
    assert room.agent is not None
    places = {}
    for known, thing in _offered(outer).items():
        if number is not None and known != number:
            continue
        if hasattr(thing, "handle"):
            places[known] = room.maps[id(thing)][0]
        else:
            places[known] = room.program(_request(thing), known)
    room.flush()
    for known, place in places.items():
        if calls.function(
            room.agent.symbols["wb_nested_offer"], room.maps[id(outer)][0], known, place
        ):
            raise RunFailed(f"process {room.memory.pid} has no memory for map {outer.name!r}")


class Listening:
    """Hears of what the maps that one process has open are offered."""

    def __init__(self, room: Room, hear: Callable[[Map, int], None]) -> None:
        self._room, self._hear = room, hear
        self._to: dict[int, tuple[Any, Callable[[int], None]]] = {}

    def update(self) -> None:
        """Listen to the maps that are open now."""
        for _, one in list(self._room.maps.values()):
            if hasattr(one, "listeners") and id(one) not in self._to:
                hear = partial(self._hear, one)
                one.listeners.append(hear)
                self._to[id(one)] = one, hear

    def close(self) -> None:
        """Listen to nothing any more."""
        while self._to:
            _, (one, hear) = self._to.popitem()
            one.listeners.remove(hear)
