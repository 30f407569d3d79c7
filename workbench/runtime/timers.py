"""Timers of loaded programs (bpf_timer), for all objects of one namespace in this process.

Callbacks run here, in the thread of `helpers.timers.Timers`, whichever process armed the timer: the maps are shared
memory, and the program's code of this process has the same functions. What a record of another process means is known
from where its maps and code were put, which is noted when programs are attached there, and stays known: a timer fires
after the process that armed it has ended, as the kernel's does.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.runtime.helpers.timers import RING, Started, Timers
from workbench.runtime.jit.program import CALLBACK
from workbench.runtime.maps.holding import Holding

if TYPE_CHECKING:
    from workbench.runtime.attach import Process
    from workbench.runtime.jit import Blob
    from workbench.runtime.maps import Map, Space
    from workbench.runtime.program import Program

__all__ = ("RING", "SpaceTimers", "enter_timers", "leave_timers")

_SEGMENT = 24  # offset of struct wb_map.segment


@dataclass(slots=True)
class _Layout:
    """What one process has where: (start, map) of maps; (program, function) by address."""

    maps: list[tuple[int, Map]] = field(default_factory=list)
    functions: dict[int, tuple[Program, str]] = field(default_factory=dict)

    def place(self, address: int) -> tuple[Map, int] | None:
        """The map that an address lies in, and the offset."""
        for start, one in self.maps:
            if start <= address < start + one.struct.length:
                return one, address - start
        return None


class SpaceTimers:
    """The timers of one namespace in this process.

    Parameters
    ----------
    space : Space

    Attributes
    ----------
    ring : Map
        To be opened in every target whose programs have timers.
    holders : int
    pid : int
        The process whose thread fires.
    """

    def __init__(self, space: Space) -> None:
        self.space, self.holders = space, 0
        self.pid = os.getpid()
        self._holding = Holding(space)
        self.ring = self._holding.create(RING)
        self._programs: dict[Program, tuple[Map, ...]] = {}
        self._used: set[Program] = set()
        self._layouts: dict[tuple[int, bytes], _Layout] = {}
        self._processes: weakref.WeakValueDictionary[int, Process] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()
        self._timers = Timers(space, ring=self.ring, elsewhere=self._own)

    @property
    def fired(self) -> int:
        """Callbacks that ran."""
        return self._timers.fired

    @property
    def refused(self) -> int:
        """Starts of timers whose map or callback is not known here."""
        return self._timers.refused

    def add(self, program: Program, maps: Iterable[Map]) -> None:
        """A program was loaded, with these maps."""
        with self._lock:
            self._programs[program] = tuple(maps)

    def use(self, program: Program) -> None:
        """A program that was added may set callbacks from now on: they are compiled for this process."""
        with self._lock:
            if program in self._used or program not in self._programs:
                return
            code = program.code
            self._timers.add(code.address, code.callbacks, self._programs[program])
            self._used.add(program)

    def remove(self, programs: Iterable[Program], maps: Iterable[Map]) -> None:
        """Programs and maps are about to be unloaded: no callback of theirs runs any more."""
        gone, without = set(programs), list(maps)
        numbers = set(map(id, without))
        with self._lock:
            used = [one.code.address for one in self._used & gone]
            self._used -= gone
            for one in gone:
                self._programs.pop(one, None)
            for layout in self._layouts.values():
                layout.maps = [(at, one) for at, one in layout.maps if id(one) not in numbers]
                layout.functions = {
                    at: found for at, found in layout.functions.items() if found[0] not in gone
                }
        self._timers.remove(used, without)

    def learn(self, processes: Iterable[Process]) -> None:
        """Note where processes have maps and code: after something was attached there."""
        for process in list(processes):
            self._processes[process.pid] = process
            with contextlib.suppress(WorkbenchError), process.lock:
                self._learn(process)

    def _learn(self, process: Process) -> None:
        room = process.room
        with self._lock:
            layout = self._layouts.setdefault((process.pid, room.mark), _Layout())
            known = {id(one) for _, one in layout.maps}
            for at, one in list(room.maps.values()):
                if id(one) not in known:
                    segment = struct.unpack("<Q", process.memory.read(at + _SEGMENT, 8))[0]
                    layout.maps.append((segment, one))
            for program in list(self._programs):
                for start, blob in _pieces(process, program):
                    for symbol in blob.symbols:
                        if symbol.name.startswith(CALLBACK):
                            layout.functions[start + symbol.offset] = program, symbol.name
                            self.use(program)

    def close(self) -> None:
        """Stop: what is armed does not fire any more."""
        self._timers.close()
        self._holding.close()

    def _own(self, started: Started) -> Started | None:
        """A record in the words of this process; in the timers' thread."""
        own = self._translate(started)
        if own is None:  # code or maps that came later, an executed program
            self.learn(self._processes.values())
            own = self._translate(started)
        return own

    def _translate(self, started: Started) -> Started | None:
        with self._lock:
            # A child of a target has its parent's memory, and so its layout.
            pids = list(_ancestry(started.pid))
            layouts = [
                one for pid in pids for (whose, _), one in self._layouts.items() if whose == pid
            ]
            layouts += [one for (whose, _), one in self._layouts.items() if whose not in pids]
            timer = started.timer
            if started.pid != os.getpid():
                place = next((one for x in layouts if (one := x.place(timer)) is not None), None)
                if place is None:
                    return None
                timer = int(place[0].struct.segment or 0) + place[1]
            callback = started.callback
            found = next((x.functions[callback] for x in layouts if callback in x.functions), None)
        if found is None:
            return None
        program, name = found
        own = next((at for at, one in program.code.callbacks().items() if one == name), 0)
        return started._replace(timer=timer, callback=own, pid=os.getpid()) if own else None


def _pieces(process: Process, program: Program) -> Iterator[tuple[int, Blob]]:
    """Where the process has code of a program: the address of its first byte."""
    from workbench.runtime.jit import Blob

    for key, (_, request) in list(process.room.programs.items()):
        if request.maps == program.probe_maps and request.program is vars(program).get("probe"):
            placed = process.room.tiers.placed.get(key)  # None once the process was left
            for start, blob in placed.codes if placed is not None else ():
                assert isinstance(blob, Blob)
                yield start, blob


def _ancestry(pid: int) -> Iterator[int]:
    """A process, its parent, and so on, while they are there."""
    while pid > 1:
        yield pid
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            pid = int(text.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


_entered: dict[int, SpaceTimers] = {}
_entering = threading.Lock()


def _after_fork() -> None:
    """The child has no thread that fires."""
    global _entering
    _entering = threading.Lock()
    _entered.clear()


os.register_at_fork(after_in_child=_after_fork)


def enter_timers(space: Space) -> SpaceTimers:
    """The timers of a namespace, to be left by `leave_timers`."""
    with _entering:
        found = _entered.get(id(space))
        if found is None:
            found = _entered[id(space)] = SpaceTimers(space)
        found.holders += 1
        return found


def leave_timers(timers: SpaceTimers, programs: Iterable[Program], maps: Iterable[Map]) -> None:
    """Give up one hold with what it added; the last one stops the thread."""
    if timers.pid != os.getpid():  # a copy, in the child of a fork: its locks may be anybody's
        return
    timers.remove(programs, maps)
    with _entering:
        timers.holders -= 1
        if timers.holders or _entered.get(id(timers.space)) is not timers:
            return
        del _entered[id(timers.space)]
    timers.close()
