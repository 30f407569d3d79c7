"""Names of our code in a process, for whoever looks at addresses there: as the kernel's `bpf_prog_...` symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.runtime.jit.probe_code import ProbeCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.runtime.attach.process import Process
    from workbench.runtime.attach.room import Room
    from workbench.runtime.loaded import Loaded

__all__ = ("code_names", "named_code")

_Range = tuple[int, int, str]


def named_code(process: Process) -> list[_Range]:
    """Start, end and name of what is ours in a process, in order and without overlaps.

    ``[workbench agent]``, ``[bpf] PROGRAM`` and, for what leads there, ``[workbench trampoline]``.
    """
    room = process.room
    found = []
    if room.agent is not None:
        found.append((room.agent.base, room.agent.base + room.agent.size, "[workbench agent]"))
    programs = sorted(_programs(room))
    for arena in room.arenas:
        at = arena.code
        for start, end, name in programs:
            if arena.code <= start and end <= arena.data:
                found.append((at, start, "[workbench trampoline]"))
                found.append((start, end, name))
                at = end
        found.append((at, arena.data, "[workbench trampoline]"))
    return sorted(one for one in found if one[0] < one[1])


def _programs(room: Room) -> Iterator[_Range]:
    for one in list(room.tiers.placed.values()):  # whoever follows the process may add to it
        name = one.program.program.name if isinstance(one.program, ProbeCode) else "program"
        for at, blob in list(one.codes):
            yield at, at + len(blob.code), f"[bpf] {name}"


def code_names(loaded: Loaded) -> dict[int, bytes]:
    """The same of every process that a loaded object is in, by pid, in the format of Linux perf's /tmp/perf-PID.map."""
    return {
        one.pid: b"".join(
            f"{start:x} {end - start:x} {name}\n".encode() for start, end, name in named_code(one)
        )
        for process in list(loaded._processes.values())
        for one in (process, *list(process.family.children.values()))
    }
