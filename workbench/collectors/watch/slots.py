"""The debug registers: perf breakpoint events on every thread of the target, four addresses per thread.

An event is opened per thread and slot; threads (and, where wanted, processes) created later inherit it. The kernel
changes and switches inherited events together with the one they come from, so one call per thread of the start moves
a watchpoint everywhere. Closing the descriptors, which the death of this process does as well, frees the registers.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.collectors.watch.freeze import alive, frozen, thread_count, threads
from workbench.errors import OutOfSlots, TargetGone, WorkbenchError
from workbench.kernel import perf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ("Aim", "Breakpoints", "Place", "free_slots", "holders", "pieces")

SLOTS = 4
"""What every x86-64 processor has; aarch64 has at least two and mostly four."""
WRITES, READS_AND_WRITES = 2, 3
_PROBE_ADDRESS = 0x10000
_TRIES = 3
_held: dict[int, list[str]] = defaultdict(list)


@dataclass(frozen=True, slots=True)
class Place:
    """Watched bytes: `size` is 1, 2, 4 or 8 and `address` a multiple of it."""

    address: int
    size: int


def pieces(address: int, length: int) -> list[Place]:
    """The fewest naturally aligned places of 1, 2, 4 or 8 bytes that make up a range, in order."""
    found = []
    end = address + length
    while address < end:
        size = 8
        while address % size or address + size > end:
            size //= 2
        found.append(Place(address, size))
        address += size
    return found


@dataclass(frozen=True, slots=True)
class Aim:
    """How events are opened.

    Attributes
    ----------
    label : str
        The watch as the user wrote it, for messages.
    writes_only : bool
    kernel : bool
        Accesses by the kernel on behalf of the target (read(2) into the variable) count as well.
    follow : bool
        Forked processes inherit the events, not only threads.
    signal : bool
        Deliver SIGTRAP to the thread (`sigtrap` of perf_event_open, Linux >= 5.13) instead of running a program.
    """

    label: str
    writes_only: bool = True
    kernel: bool = False
    follow: bool = True
    signal: bool = False
    token: int = 0
    """With `signal`: which watch the signal belongs to, 24 bits."""

    def attributes(self, place: Place, *, disabled: bool) -> perf.EventAttributes:
        """The attributes of an event at `place`."""
        # The watched address means nothing in a program executed later.
        flags = ["inherit", "remove_on_exec", "exclude_hv"]
        flags += ["disabled"] if disabled else []
        flags += [] if self.kernel else ["exclude_kernel"]
        flags += [] if self.follow else ["inherit_thread"]
        flags += ["sigtrap"] if self.signal else []
        return perf.EventAttributes(
            perf.BREAKPOINT,
            sample=1,
            flags=tuple(flags),
            wakeup=1,
            breakpoint_type=WRITES if self.writes_only else READS_AND_WRITES,
            config1=place.address,
            config2=place.size,
            signal_data=self.token << 8 | place.size,
        )


def free_slots(tid: int) -> int:
    """How many more breakpoints a thread takes, found by opening them, disabled."""
    aim = Aim("probe")
    fds: list[int] = []
    try:
        while len(fds) < 16:
            place = Place(_PROBE_ADDRESS + 8 * len(fds), 8)
            fds.append(perf.open_event(aim.attributes(place, disabled=True), pid=tid))
    except OutOfSlots:
        pass
    finally:
        for fd in fds:
            perf.close(fd)
    return len(fds)


def holders(pid: int) -> list[str]:
    """Who is known to hold slots of a process: watches of this process, and a debugger that traces it."""
    known = [f"watch {label!r} of this recorder" for label in _held.get(pid, ())]
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        tracer = int(status.split("TracerPid:")[1].split()[0])
        if tracer and tracer != os.getpid():
            name = Path(f"/proc/{tracer}/comm").read_text(errors="replace").strip()
            known.append(f"perhaps {name} (pid {tracer}), which traces the process")
    return known


class Breakpoints:
    """Up to four watched places on all threads of some processes.

    Parameters
    ----------
    aim : Aim
    connect : callable
        Called with the descriptor of every event opened, before it is enabled.
    """

    def __init__(self, aim: Aim, connect: Callable[[int], None]) -> None:
        self.aim, self._connect = aim, connect
        self.places: list[Place] = []
        self.enabled = False
        self._fds: list[list[int]] = []
        self._pids: set[int] = set()

    @property
    def threads(self) -> int:
        """Threads on which events were opened (those that inherit not counted)."""
        return len(self._fds[0]) if self._fds else 0

    def arm(self, pids: Iterable[int], places: Sequence[Place]) -> None:
        """Open disabled events for `places` on every thread of `pids`.

        Raises
        ------
        OutOfSlots
            A thread has fewer free slots than places; who holds them is named where it is known.
        TargetGone
            No thread is left.
        NotPermitted, MissingCapability
            The kernel refuses.
        """
        self.places = list(places)
        self._fds = [[] for _ in places]
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            for pid in pids:
                self._arm_process(pid)
        except BaseException:
            self.close()
            raise
        if not self.threads:
            self.close()
            raise TargetGone("the target exited while it was being attached")

    def _arm_process(self, pid: int) -> None:
        if not thread_count(pid):
            return
        before = self.threads
        for _ in range(_TRIES):
            if self._arm_running(pid):
                break
            # Threads came and went, so some may have been made by one that was not armed yet. From the start, then.
            for fds in self._fds:
                _close(fds, before)
        else:
            with frozen(pid) as all_threads:
                for tid in all_threads:
                    with contextlib.suppress(TargetGone):
                        self._arm_thread(pid, tid)
        self._pids.add(pid)
        _held[pid] += [self.aim.label] * len(self.places)

    def _arm_running(self, pid: int) -> bool:
        """Open events on every thread of a running process; False if a thread may have been missed.

        A thread made by an armed one inherits the events. None is missed when all threads were armed and, listed
        again, there is no other; the second list is complete if none of it ended meanwhile (the kernel goes from
        one thread to the next, and stops where one ends).
        """
        listed = set(threads(pid))
        try:
            for tid in sorted(listed):
                self._arm_thread(pid, tid)
        except TargetGone:
            return not thread_count(pid)
        if pid == os.getpid():
            return True  # it cannot be held; its threads are ours
        again = threads(pid)
        return listed.issuperset(again) and all(alive(pid, tid) for tid in again)

    def _arm_thread(self, pid: int, tid: int) -> None:
        opened: list[int] = []
        try:
            for place in self.places:
                fd = perf.open_event(self.aim.attributes(place, disabled=True), pid=tid)
                opened.append(fd)
                self._connect(fd)
        except OutOfSlots:
            _close(opened)
            raise self._no_slots(pid, tid, len(opened)) from None
        except WorkbenchError:
            _close(opened)
            raise
        for fds, fd in zip(self._fds, opened, strict=True):
            fds.append(fd)

    def _no_slots(self, pid: int, tid: int, free: int) -> OutOfSlots:
        needed = len(self.places)
        known = holders(pid)
        who = "; ".join(dict.fromkeys(known)) if known else "a debugger or another recorder"
        return OutOfSlots(
            f"{self.aim.label} needs {needed} hardware watchpoint{'s' * (needed != 1)}, but thread {tid} of process "
            f"{pid} has {free} of {SLOTS} free; the others are held by: {who}",
            "drop a watch, watch a range that contains the addresses (0xADDR..0xADDR, which takes turns on "
            "slots=N slots), or detach the debugger",
        )

    def enable(self) -> None:
        """Let hits happen."""
        self.enabled = True
        self._each(perf.enable)

    def disable(self) -> None:
        """Stop hits on all threads, inherited ones as well."""
        self.enabled = False
        self._each(perf.disable)

    def _each(self, act: Callable[[int], None]) -> None:
        for fds in self._fds:
            for fd in fds:
                with contextlib.suppress(OSError):
                    act(fd)

    def hits(self) -> int:
        """Hits of all slots and threads, inherited ones as well, as the kernel counted them."""
        total = 0
        for fds in self._fds:
            for fd in fds:
                with contextlib.suppress(OSError):
                    total += int.from_bytes(os.read(fd, 8), "little")
        return total

    def move(self, slot: int, place: Place) -> None:
        """Aim one slot at another place on all threads, inherited ones as well."""
        self.places[slot] = place
        attributes = self.aim.attributes(place, disabled=not self.enabled)
        for fd in self._fds[slot]:
            with contextlib.suppress(OSError):
                perf.modify_breakpoint(fd, attributes)

    def close(self) -> None:
        """Free the slots; safe to call twice."""
        for fds in self._fds:
            _close(fds)
        self._fds = []
        self.enabled = False
        for pid in self._pids:
            for _ in self.places:
                with contextlib.suppress(ValueError):
                    _held[pid].remove(self.aim.label)
            if not _held[pid]:
                del _held[pid]
        self._pids.clear()


def _close(fds: list[int], keep: int = 0) -> None:
    while len(fds) > keep:
        perf.close(fds.pop())
