"""Give a process its memory back: everything of ours is unmapped, or as much as no thread may need any more.

In one stop it is made sure that no thread is inside or comes back (`occupied`), the agent takes back what threads and
kernel know of it (native/agents/runtime/leave.c), and it is unmapped. Where a thread sleeps inside for long, agent and
trampolines stay, everything else goes; where anything is in doubt it stays as it is. What stays is noted (`left`), for
the next entry to use again or for `workbench bpf gc`.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from workbench.errors import MissingCapability, RunFailed
from workbench.runtime.attach.address_space import is_shared
from workbench.runtime.attach.agent import LoadedAgent, image
from workbench.runtime.attach.ledger import AT, Entry, Ledger, read_ledger, write_ledger
from workbench.runtime.attach.memory import Memory, mappings
from workbench.runtime.attach.occupied import Presence, presence
from workbench.runtime.attach.relocate import JUMP
from workbench.runtime.attach.remote import STUB, Calls, find_room
from workbench.runtime.attach.returns import restore_returns
from workbench.runtime.attach.segments import PATH_AT
from workbench.runtime.attach.signals import pending
from workbench.runtime.attach.stop import Stop, status_fields, thread_ids

__all__ = ("Leaving", "Outcome", "agent_of", "leave")

_MUNMAP = 11
_PATIENCE = 0.1
_HANDLER_LOST, _HEAD_IS_OURS = 1, 2
_RANGES = 100


class Outcome(Enum):
    """What became of our memory."""

    GONE = "gone"
    """It was not there: the process ended or runs another program, or another workbench freed it."""
    FREED = "freed"
    KEPT = "kept"
    """Agent and trampolines stay, and can be used again."""
    STUCK = "stuck"
    """It stays; later tries may free it."""
    LOST = "lost"
    """The agent stays until the process ends: a handler of the process may call its handler."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """How it went: bytes of address space that were freed and that stay, seconds of each stop."""

    outcome: Outcome
    freed: int = 0
    stays: int = 0
    stopped: tuple[float, ...] = ()


def agent_of(ledger: Ledger, at: int) -> LoadedAgent | None:
    """The agent that a ledger belongs to; None = another version's, whose structures are not ours."""
    built = image()
    if ledger.version != built.version:
        return None
    addresses = {name: ledger.base + value for name, value in built.symbols.items()}
    return LoadedAgent(ledger.base, ledger.size, addresses, at - AT)


def leave(
    pid: int,
    memory: Memory,
    at: int,
    mark: bytes,
    places: Iterable[int],
    patience: float = _PATIENCE,
) -> Leaving:
    """Free what the ledger at `at` lists.

    Parameters
    ----------
    pid : int
    memory : Memory
    at : int
    mark : bytes
        Of the ledger.
    places : iterable of int
        Addresses of code that jumped to us: nothing is freed if one still does.
    patience : float
        Seconds to wait for threads to come out.

    Raises
    ------
    TargetGone, NotPermitted, MissingCapability, RunFailed
    """
    ledger = read_ledger(memory, at, mark)
    if ledger is None:
        return Leaving(Outcome.GONE)
    if agent_of(ledger, at) is None or _jumps(memory, ledger, places) or _is_filtered(pid):
        return Leaving(Outcome.STUCK, stays=ledger.bytes)
    spare = None
    with contextlib.suppress(MissingCapability):
        spare = find_room(pid, memory, len(STUB))
    end, pause, stopped = time.monotonic() + patience, 0.001, list[float]()
    while True:
        last = time.monotonic() >= end
        with Stop(pid) as stop:
            found = _attempt(stop, memory, at, mark, spare, last=last)
        stopped.append(stop.seconds)
        if found is not None:
            return replace(found, stopped=tuple(stopped))
        time.sleep(pause)
        pause *= 2


def _is_filtered(pid: int) -> bool:
    """A seccomp filter may kill the process for system calls that entering it did not need."""
    fields = (status_fields(pid, thread) for thread in thread_ids(pid))
    return any(one.get("Seccomp", "0") != "0" for one in fields)


def _jumps(memory: Memory, ledger: Ledger, places: Iterable[int]) -> bool:
    """One of the places leads to us: another tool put our jump back, or it could not be restored."""
    ours = [(one.start, one.end) for one in ledger.entries]
    for place in places:
        try:
            code = memory.read(place, JUMP)
        except MissingCapability:  # its library was unloaded
            continue
        to = place + JUMP + struct.unpack("<i", code[1:])[0]
        if code[0] == 0xE9 and any(low <= to < high for low, high in ours):
            return True
    return False


def _attempt(
    stop: Stop,
    memory: Memory,
    at: int,
    mark: bytes,
    spare: tuple[int, bytes] | None,
    *,
    last: bool,
) -> Leaving | None:
    """One try in a stop; None = a thread is in the way, try again."""
    ledger = read_ledger(memory, at, mark)
    agent = agent_of(ledger, at) if ledger else None
    if ledger is None or agent is None:
        return Leaving(Outcome.GONE)
    stuck = Leaving(Outcome.STUCK, stays=ledger.bytes) if last else None
    ranges = [(one.start, one.end) for one in ledger.entries]
    who = presence(stop, memory, agent, ranges, mappings(stop.pid))
    taken = struct.unpack("<I", memory.read(agent.symbols["wb_trap_taken"], 4))[0]
    # A child of vfork runs in this memory, and nobody holds it: not even return addresses may be touched.
    if who == Presence.INSIDE or (taken and pending(stop)) or is_shared(stop.pid):
        return stuck
    restore_returns(memory, agent)
    with Calls(stop, memory, agent.stub) as calls:
        state = calls.function(agent.symbols["wb_agent_leave"], ledger.copied)
        if state < 0:
            return stuck
        lasting = bool(ledger.copied or state & _HEAD_IS_OURS)
        if lasting or who == Presence.ASLEEP:
            if not (last or lasting):
                return None
            return _keep(calls, memory, agent, ledger, again=not state & _HANDLER_LOST)
        write_ledger(memory, at, replace(ledger, entries=()))
        failed = _free(calls, memory, agent, ledger.entries, tasks=True)
    whole = ledger.bytes
    if failed or state & _HANDLER_LOST:
        return Leaving(Outcome.LOST, whole - ledger.size, ledger.size)
    try:
        with Calls(
            stop, memory, spare=spare
        ) as calls:  # from the target's own pages: the agent's are unmapped
            calls.call(_MUNMAP, agent.base, agent.size)
    except (MissingCapability, RunFailed, OSError):
        return Leaving(Outcome.LOST, whole - ledger.size, ledger.size)
    return Leaving(Outcome.FREED, whole)


def _keep(
    calls: Calls, memory: Memory, agent: LoadedAgent, ledger: Ledger, *, again: bool
) -> Leaving:
    """Free all but the agent, its tasks and the trampolines."""
    kept = tuple(one for one in ledger.entries if one.kept)
    gone = [one for one in ledger.entries if not one.kept]
    smaller = replace(ledger, entries=kept)
    write_ledger(memory, agent.stub + AT, smaller)
    _free(calls, memory, agent, gone, tasks=False)
    outcome = Outcome.KEPT if again else Outcome.STUCK
    return Leaving(outcome, ledger.bytes - smaller.bytes, smaller.bytes)


def _free(
    calls: Calls, memory: Memory, agent: LoadedAgent, entries: Sequence[Entry], *, tasks: bool
) -> int:
    """Unmap; the ledger does not list it any more."""
    error = 0
    for first in range(0, max(len(entries), 1), _RANGES):
        some = entries[first : first + _RANGES]
        words = b"".join(struct.pack("<QQ", one.start, one.end) for one in some)
        if words:
            memory.write(agent.stub + PATH_AT, words)
        end = first + _RANGES >= len(entries)
        error |= calls.function(
            agent.symbols["wb_agent_free"], agent.stub + PATH_AT, len(some), tasks and end
        )
    return error
