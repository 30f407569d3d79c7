"""Samples in user space for a target and what becomes of it: children that it forks, programs that it executes.

Nothing tells of either without privilege, so `tend` looks: what ran before the look was not sampled.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.collectors.target import threads
from workbench.errors import TargetGone, WorkbenchError

if TYPE_CHECKING:
    from workbench.collectors.base import Target
    from workbench.runtime.attach.sampling import Sampling

__all__ = ("Samplers",)


class Samplers:
    """One program that samples every process of a target.

    Parameters
    ----------
    target : Target
    loaded : Loaded
        Of user space.
    program : str
    hertz : int
    driver : str
        See `workbench.runtime.attach.sampling`.

    Attributes
    ----------
    driver, why : str
        What tells the threads of the first process, and why it is not a perf event where that was left to us.
    period : int
        ns of CPU time between samples of the first process.

    Raises
    ------
    WorkbenchError
        The target cannot be sampled.
    """

    def __init__(
        self, target: Target, loaded: Any, program: str, hertz: int, *, driver: str = "auto"
    ) -> None:
        self._target, self._loaded, self._program, self._hertz = target, loaded, program, hertz
        self.driver, self.why, self.period = driver, "", 1_000_000_000 // hertz
        self._by_pid: dict[int, Sampling] = {}
        self._all: list[Sampling] = []
        self.late = 0
        """Children and executed programs that were sampled once they had been found."""
        for pid in sorted(target.pids):
            try:
                self._attach(pid)
            except TargetGone:
                if pid == target.pid:
                    raise

    def _attach(self, pid: int) -> None:
        made: Sampling = self._loaded.attach_sampling(
            self._program, self._hertz, pid=pid, driver=self.driver
        )
        if not self._all:  # the others are told as the first one is
            self.driver, self.why, self.period = made.driver, made.why, made.period
        self._by_pid[pid] = made
        self._all.append(made)

    def cost(self) -> tuple[int, int]:
        """How often the program ran, and how many ns it took, forked children left out."""
        each = [one.cost for one in self._all]
        return sum(runs for runs, _ in each), sum(spent for _, spent in each)

    def missed(self) -> int:
        """Samples that found their thread inside another program, forked children left out."""
        total = 0
        for one in self._all:
            with contextlib.suppress(WorkbenchError):
                total += one.missed
        return total

    def tend(self) -> None:
        """Find what is new."""
        for pid, one in list(self._by_pid.items()):
            if not one.samples(pid):
                self._begin(pid)
        if self._target.follow:
            for pid in list(self._by_pid):
                for child in _children(pid) - self._by_pid.keys() - {os.getpid()}:
                    self.add(child, self._by_pid[pid])

    def add(self, pid: int, parent: Sampling | None = None) -> None:
        """Sample a child."""
        if pid in self._by_pid:
            return
        for one in [parent] if parent else list(self._by_pid.values()):
            if one.follow(pid):
                self._by_pid[pid] = one
                self._target.pids.add(pid)
                self.late += 1
                return
        self._begin(pid)

    def _begin(self, pid: int) -> None:
        self._by_pid.pop(pid, None)
        if not Path(f"/proc/{pid}").exists():
            return
        with contextlib.suppress(WorkbenchError):  # gone, or a program that may not be entered
            self._attach(pid)
            self._target.pids.add(pid)
            self.late += 1


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for thread in threads(pid):
        with contextlib.suppress(OSError, ValueError):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            found |= {int(word) for word in text.split()}
    return found
