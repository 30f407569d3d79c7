"""Which programs are attached where, by which process: a file for each attachment in its namespace's folder.

Beside the notes of loaded programs (`inventory`): what `workbench bpf links` prints. How often a program ran is read
from the target's own counters, so it is current; calls of children that a target forked since are not in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.runtime.attach import layout
from workbench.runtime.attach.agent import LoadedAgent
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.records import start_time
from workbench.runtime.attach.returns import tasks
from workbench.runtime.maps import Space, spaces

if TYPE_CHECKING:
    from workbench.runtime.attach import Link

__all__ = ("LinkInfo", "announce_link", "links")

_SUFFIX = ".link"


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """An attachment.

    Attributes
    ----------
    id : int
        Number within its namespace.
    type : str
        uprobe, uretprobe, override, replace or usdt.
    prog_id : int
        Number of the program (`inventory.ProgramInfo.id`).
    program : str
    target : int
        The process that is probed.
    funcs : tuple of dict
        ``name`` (module:function+offset), ``address`` and ``cookie`` of each place.
    hits : int or None
        How often the program ran since it was attached; None where the target's counters cannot be read.
    pid : int
        The process that attached it.
    namespace : str
    """

    id: int
    type: str
    prog_id: int
    program: str
    target: int
    funcs: tuple[dict[str, Any], ...]
    hits: int | None
    pid: int
    namespace: str

    def to_json(self) -> dict[str, Any]:
        """For `workbench bpf links --json`, with bpftool's count of places."""
        return {**asdict(self), "func_cnt": len(self.funcs)}


def announce_link(
    space: Space, prog_id: int, program: str, attached: Sequence[Link]
) -> Path | None:
    """Leave a note of an attachment that this process has made; its file, None when nothing is attached yet."""
    if not attached:
        return None
    process, me = attached[0].process, os.getpid()
    agent = process.room.agent
    note = {
        "type": attached[0].request.kind,
        "prog_id": prog_id,
        "program": program,
        "target": process.pid,
        "target_start": start_time(process.pid),
        "funcs": [
            {"name": one.name, "address": one.address, "cookie": one.request.cookie}
            for one in attached
        ],
        "numbers": [[one.number, one.base[0]] for one in attached],
        "agent": [agent.base, agent.size, agent.symbols["wb_agent"]] if agent else None,
        "pid": me,
        "start": start_time(me),
        "namespace": space.name,
    }
    number = 1
    while True:
        path = space.path / f"{number}{_SUFFIX}"
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(note, file)
        except FileExistsError:
            number += 1
        else:
            return path


def links(namespace: str | None = None) -> Iterator[LinkInfo]:
    """Attachments of live processes of this user to live processes, in one namespace or in all."""
    for space in spaces():
        if namespace in (None, space.name):
            for path in sorted(space.path.glob(f"*{_SUFFIX}"), key=lambda one: (len(one.stem), one.stem)):
                if (info := _read(path)) is not None:
                    yield info


def _read(path: Path) -> LinkInfo | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        note = json.loads(path.read_text(encoding="utf-8"))
        if start_time(note["pid"]) != note["start"]:
            return None
        if start_time(note["target"]) != note["target_start"]:
            return None
        return LinkInfo(
            int(path.stem), note["type"], note["prog_id"], note["program"], note["target"],
            tuple(note["funcs"]), _hits(note), note["pid"], note["namespace"],
        )  # fmt: skip
    return None


def _hits(note: dict[str, Any]) -> int | None:
    """Sum of the counters of every thread of the target, less what they were when the link was made."""
    numbers = [int(number) for number, _ in note["numbers"]]
    if note["agent"] is None or not all(0 <= number < layout.LINKS for number in numbers):
        return None
    base, size, place = map(int, note["agent"])
    memory = None
    try:
        memory = Memory(int(note["target"]))
        total = 0
        for task in tasks(memory, LoadedAgent(base, size, {"wb_agent": place}, 0)):
            words = np.frombuffer(memory.read(task + layout.HITS, 8 * (max(numbers) + 1)), np.uint64)
            total += int(words[numbers].sum())
        return max(0, total - sum(int(before) for _, before in note["numbers"]))
    except (WorkbenchError, OSError, struct.error):
        return None
    finally:
        if memory is not None:
            memory.close()
