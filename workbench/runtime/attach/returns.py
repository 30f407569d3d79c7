"""Return addresses on the target's stacks: unwinders must see the true ones, and so must everybody when we leave.

A return probe swaps the return address of the function it is on. An exception, a cancelled thread and backtrace() look
those up, so the entries of the unwinder are patched as well: there the agent puts the true addresses back first.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterable

from workbench.errors import MissingCapability, UnknownSymbol
from workbench.runtime.attach import layout
from workbench.runtime.attach.agent import LoadedAgent
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.modules import Modules
from workbench.runtime.attach.places import Place, Places

__all__ = ("copied", "guard", "restore_returns", "tasks")

_UNWINDERS = (
    "_Unwind_RaiseException",
    "_Unwind_Resume_or_Rethrow",
    "_Unwind_ForcedUnwind",
    "_Unwind_Backtrace",
)
# They write down where they return to, and something returns there later.
_COPIERS = frozenset(
    ("setjmp", "_setjmp", "sigsetjmp", "__sigsetjmp", "getcontext", "swapcontext", "vfork")
)
# They copy whole stacks (continuations, fibers of old).
_STACK_COPIERS = ("libruby", "ruby", "libguile", "guile")
# The C library loads the unwinder when it first needs it, too late for us to see: these need it.
_LOADERS = ("__libc_unwind_link_get", "pthread_exit", "backtrace")


def guard(modules: Modules, places: Places, fresh: dict[int, Place]) -> list[Place]:
    """Places at the entries of the process's unwinders that are no guards yet; planned ones go into `fresh`."""
    found = []
    for module, name in itertools.product(modules.all, (*_UNWINDERS, *_LOADERS)):
        with contextlib.suppress(UnknownSymbol):
            for function in module.find(name):
                place = places.at(function.address, function, fresh)
                if not place.unwinder:
                    place.unwinder = True
                    found.append(place)
    return found


def copied(modules: Modules, names: Iterable[str]) -> bool:
    """Whether return addresses of these functions may be copied to where nobody finds them, by them or the process."""
    return not _COPIERS.isdisjoint(names) or any(
        one.name.startswith(_STACK_COPIERS) for one in modules.all
    )


def tasks(memory: Memory, agent: LoadedAgent) -> list[int]:
    """Addresses of the agent's struct wb_task."""
    found = []
    at = struct.unpack("<Q", memory.read(agent.symbols["wb_agent"] + layout.TASKS, 8))[0]
    while at:
        found.append(at)
        at = struct.unpack("<Q", memory.read(at + layout.NEXT, 8))[0]
    return found


def restore_returns(memory: Memory, agent: LoadedAgent) -> None:
    """Put every true return address back in the held process.

    The agent keeps its frames: a thread may be on its way through the return trampoline, also underneath a signal
    handler, and needs its frame. A frame whose place no longer holds the trampoline's address counts as left. Of
    frames with one place (tail calls) the first has the true address, so it is written last.
    """
    for task in tasks(memory, agent):
        depth = struct.unpack("<I", memory.read(task + layout.DEPTH, 4))[0]
        frames = memory.read(task + layout.FRAMES, depth * layout.FRAME.size) if depth else b""
        for place, address, _chain, back in reversed(list(layout.FRAME.iter_unpack(frames))):
            try:
                if memory.read(place, 8) == struct.pack("<Q", back):
                    memory.write(place, struct.pack("<Q", address))
            except MissingCapability:  # a stack that is gone
                continue
