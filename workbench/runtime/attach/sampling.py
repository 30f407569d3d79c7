"""A program that runs at intervals of a process's CPU time, on the thread that spends it.

What tells the thread is its `driver`:

``perf``
    A perf event for each thread counts its CPU time and sends the thread SIGTRAP, whose handler is the agent's. Threads
    that start later inherit the event. Only user code is interrupted, so no system call ends early. What is not seen:
    time in the kernel (a signal at the end of execve(2) would end the new program); time that a thread spends with
    SIGTRAP blocked (one sample is kept until it is let through); a process that takes SIGTRAP for itself; a program
    that replaces this one (the kernel closes the events).
``timer``
    A POSIX timer for each thread (`ticks`), chosen where perf_event_open(2) is refused: by kernel.perf_event_paranoid,
    a seccomp filter, a container. It is no finer than the kernel's tick. Time in the kernel counts at the system call;
    threads that start later are looked for 20 times a second, what they did before is not seen.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from workbench.errors import MissingCapability, NotPermitted, TargetGone, WorkbenchError
from workbench.runtime.attach import perf
from workbench.runtime.attach.events import Events
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.ticks import Ticks, finest

if TYPE_CHECKING:
    from workbench.runtime.attach.link import Request
    from workbench.runtime.attach.process import Process

__all__ = ("Driver", "Sampling")

Driver = Literal["auto", "perf", "timer"]
_LOOK_SECONDS = 0.05


class Sampling:
    """One program that samples one process, and children that were forked from it since; as a context.

    Parameters
    ----------
    process : Process
    request : Request
        Program, maps and cookie; the site does not matter.
    period : int
        ns of CPU time between samples of a thread.
    left_out : int
        A thread that is not sampled.
    driver : {"auto", "perf", "timer"}

    Attributes
    ----------
    driver : str
        "perf" or "timer".
    why : str
        Why it is not "perf" where that was left to us.
    period : int
        What is kept: a timer's is no shorter than the kernel's tick.

    Raises
    ------
    NotPermitted, MissingCapability, TargetGone
    """

    def __init__(
        self,
        process: Process,
        request: Request,
        period: int,
        *,
        left_out: int = 0,
        driver: Driver = "auto",
    ) -> None:
        self.process = process
        process.refresh()  # it may run another program than when it was entered
        # The upper bit keeps it apart from the data of watchpoints.
        self._data = 1 << 63 | secrets.randbits(62)
        self.driver, self.why = _choose(process.pid, period, self._data, driver)
        self.period = period if self.driver == "perf" else max(period, finest())
        self._cost = (0, 0)
        self._stop = threading.Event()
        self._looking: threading.Thread | None = None
        self._clock: Events | Ticks | None = None
        self._link = process.add_link(request)
        self._signals = process.signals()
        self._open = True
        self._slot = self._signals.add(self._data, self._link.record, self.period)
        try:
            with process.lock:
                self._clock = self._begin(left_out)
                if not self._clock.cover(process.pid):
                    raise TargetGone(f"process {process.pid} exited while it was being attached")
        except BaseException:
            self.close()
            raise
        if self.driver == "timer":
            self._looking = threading.Thread(target=self._look, name="wb-ticks", daemon=True)
            self._looking.start()

    def _begin(self, left_out: int) -> Events | Ticks:
        place = self._signals.slot(self._slot)
        if self.driver == "perf":
            return Events(
                self._signals, data=self._data, place=place, period=self.period, left_out=left_out
            )
        return Ticks(
            self._signals, data=self._data, place=place, period=self.period, left_out=left_out
        )

    def _look(self) -> None:
        assert self._clock is not None
        while not self._stop.wait(_LOOK_SECONDS):
            with contextlib.suppress(WorkbenchError, OSError), self.process.lock:
                self._clock.tend()

    def __enter__(self) -> Sampling:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def follow(self, pid: int) -> bool:
        """Sample a child that was forked from the process since; False = it runs another program, or is gone.

        Agent, handler and program are in its memory as they are in its parent's.
        """
        if self._clock is None:
            return False
        with self.process.lock:
            return self._clock.cover(pid)

    def samples(self, pid: int) -> bool:
        """Whether the process, or a child that is followed, still runs the program that was entered."""
        try:
            memory = Memory(pid)
        except (TargetGone, NotPermitted):
            return False
        try:
            return self._is_there(memory)
        finally:
            memory.close()

    def _is_there(self, memory: Memory) -> bool:
        try:
            return memory.read(self._signals.slot(self._slot), 8) == struct.pack("<Q", self._data)
        except (TargetGone, MissingCapability):
            return False

    @property
    def hits(self) -> int:
        """Samples that ran the program."""
        return self._link.hits

    @property
    def missed(self) -> int:
        """Samples that ran none: the thread was inside another program."""
        return self._link.missed

    @property
    def over_budget(self) -> int:
        """Samples whose program its run-time budget ended before it was done; they are in `hits`."""
        return self._link.over_budget

    @property
    def cost(self) -> tuple[int, int]:
        """How often the program ran in the process (not its children), and how many ns it took in all."""
        if self._open:
            with contextlib.suppress(TargetGone, MissingCapability):
                self._cost = self._signals.cost(self._slot)
        return self._cost

    @property
    def attached(self) -> bool:
        """True until closed."""
        return self._open

    def close(self) -> None:
        """Close events or timers, take the handler out where nobody else needs it; harmless twice."""
        if not self._open:
            return
        self._stop.set()
        if self._looking is not None:
            self._looking.join()
        _ = self.cost
        self._open = False
        clock, self._clock = self._clock, None
        with self.process.lock:
            if clock is not None:
                clock.stop()
            ours = self._signals.agent is self.process.room.agent
            with contextlib.suppress(TargetGone, MissingCapability):
                # Another program may run there by now.
                if ours and self._is_there(self.process.memory):
                    self._signals.remove(self._slot)
                    self.process.drop_link(self._link)
                    if clock is not None:
                        clock.leave()
            if clock is not None:
                clock.leave_children()


def _choose(pid: int, period: int, data: int, driver: Driver) -> tuple[str, str]:
    """The driver, and why it is not perf."""
    if driver == "timer":
        return "timer", ""
    try:
        perf.close(perf.open_clock(pid, period, data))
    except TargetGone:  # a first thread that has ended; the others are tried one by one
        return "perf", ""
    except (NotPermitted, MissingCapability) as error:
        if driver == "perf":
            raise
        return "timer", error.message
    return "perf", ""
