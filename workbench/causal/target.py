"""What experiments are made on: a process with what it forks, or all that is in a cgroup."""

from __future__ import annotations

import os
import select
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.collectors.target import descendants
from workbench.errors import TargetGone
from workbench.sched.cgroups import Population, scope_folder
from workbench.sched.state import members

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("CgroupTarget", "ProcessTarget", "Target")


class Target(ABC):
    """What the controller asks of one; `pid` is the process in which names are looked up."""

    pid: int
    ended = "the target ended"
    """Why there can be no more experiments, once `wait` has said so."""

    @abstractmethod
    def close(self) -> None:
        """Stop watching it."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Its processes now."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait this long, or until it ends; whether it is still there."""


class ProcessTarget(Target):
    """A process with what it forks, and what else is in a cgroup; ends with the process.

    Raises
    ------
    TargetGone
        There is no such process.
    """

    def __init__(self, pid: int, cgroup: Path | None = None) -> None:
        self.pid, self._cgroup = pid, cgroup
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise TargetGone(f"there is no process {pid}", "check the pid") from error

    def close(self) -> None:
        """Stop watching it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def pids(self) -> list[int]:
        """The process, its children, grandchildren ... and what else is in the cgroup now."""
        return [
            self.pid,
            *sorted(descendants({self.pid}) | set(_inside(self._cgroup)) - {self.pid}),
        ]

    def wait(self, seconds: float) -> bool:
        """Wait this long, or until the process ends; whether it is still there."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return not poll.poll(max(seconds, 0) * 1000)


class CgroupTarget(Target):
    """Whatever is in a cgroup or below it; ends when nobody is left there.

    Parameters
    ----------
    folder : Path
    pid : int, optional
        In which process names are looked up; by default the first one.

    Raises
    ------
    BadSpec
        It is the root of all cgroups, or none.
    TargetGone
        There is no such cgroup, or nothing is in it.
    """

    def __init__(self, folder: Path, pid: int | None = None) -> None:
        self.folder = scope_folder(folder)
        present = members(self.folder)
        if not present:
            raise TargetGone(f"no process is in the cgroup {folder}", "start it first")
        self.pid = present[0] if pid is None else pid
        self._population = Population(self.folder)

    def close(self) -> None:
        """Stop watching it."""
        self._population.close()

    def pids(self) -> list[int]:
        """Its processes now; of a cgroup that is gone, none."""
        return list(_inside(self.folder))

    def wait(self, seconds: float) -> bool:
        """Wait this long, or until nobody is left; whether somebody is still there."""
        if self._population.wait(seconds):
            return True
        removed = self._population.state == "removed"
        self.ended = f"the cgroup {self.folder} " + ("is gone" if removed else "is empty")
        return False


def _inside(cgroup: Path | None) -> Sequence[int]:
    """Processes of a cgroup but this one."""
    try:
        return [pid for pid in members(cgroup) if pid != os.getpid()] if cgroup else ()
    except TargetGone:
        return ()
