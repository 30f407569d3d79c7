"""Hits through SIGTRAP in the watched process: no BPF and no privilege (`sigtrap` of perf_event_open, Linux >= 5.13).

The agent (native/agents/sigtrap.c) receives the signals and writes records to shared memory. It gets into this process
by ctypes, into a command by LD_PRELOAD. Into a process that runs already the agent of the userspace runtime is put
(`runtime.attach.watching`), which does the same. A program that sets a SIGTRAP handler of its own takes the hits away
from the agent, and one that sets the default action dies of the next: such programs need BPF.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.stacks import ranges
from workbench.collectors.watch.backend import Hits
from workbench.errors import MissingCapability, NotPermitted
from workbench.native.build import agent
from workbench.native.watch_area import PLACES, Area

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.watch.slots import Place
    from workbench.runtime.attach import Process
    from workbench.runtime.attach.watching import Watching
    from workbench.runtime.maps import Space

__all__ = ("SignalBackend", "agent_path")

_tokens = itertools.count(1)


def agent_path() -> str:
    """The agent library.

    Raises
    ------
    MissingCapability
        It was not built.
    """
    path = agent("sigtrap")
    if not path.exists():
        raise MissingCapability(
            "the sigtrap agent is not built",
            "build it with `python -m workbench.native.build` (needs a C compiler)",
        )
    return str(path)


@cache
def _own_agent() -> ctypes.CDLL:
    return ctypes.CDLL(agent_path())


class SignalBackend:
    """The unprivileged way: accesses by user code only, stacks by frame pointers.

    Parameters
    ----------
    stacks : {"no", "fp", "dwarf"}
        ``dwarf`` is taken as ``fp``: no copy of the stack is taken in a signal handler.
    values : bool
        Read the value at every hit.
    own : bool
        The watched process is this one.
    running : iterable of int
        Processes that run already, to be entered. Neither: it is a command that `environment` is set for.
    """

    mode = "sigtrap"

    def __init__(
        self, *, stacks: str, values: bool, own: bool, running: Iterable[int] = ()
    ) -> None:
        self.token = next(_tokens) & 0xFFFFFF
        self._stacks = stacks != "no"
        self._number = -1
        self._area: Area | None = None
        self._sink: Sink | None = None
        self._round = 0
        self._final: tuple[dict[str, int], int] = ({}, 0)
        self._entered: list[tuple[Watching, Process]] = []
        self._space: Space | None = None
        agent_path()
        self._area = Area(self.token, values=values, stacks=self._stacks)
        if own:
            self._number = int(_own_agent().wb_watch_map(self._area.path.encode()))
            if self._number < 0:
                self._area.close()
                raise MissingCapability(
                    f"the sigtrap agent cannot start: {os.strerror(-self._number)}"
                )

        try:
            for pid in sorted(running):
                self._enter(pid)
        except BaseException:
            self.close()
            raise

    def _enter(self, pid: int) -> None:
        from workbench.runtime.attach.watching import Watching
        from workbench.runtime.sharing import enter_process, enter_space, leave_process

        if self._space is None:
            self._space = enter_space(None)
        process = enter_process(pid, self._space)
        try:
            self._entered.append((Watching(process, self._live.path), process))
        except BaseException:
            leave_process(process)
            raise

    def environment(self, variables: dict[str, str]) -> None:
        """Add what makes a command load the agent."""
        preload = variables.get("LD_PRELOAD", "")
        if agent_path() not in preload.split(":"):
            variables["LD_PRELOAD"] = ":".join(filter(None, (agent_path(), preload)))
        variables[f"WORKBENCH_WATCH_{self.token}"] = self._live.path

    def begin(self, target: Target, sink: Sink) -> None:
        self._sink = sink
        if self._number < 0 and not self._live["loads"]:
            raise NotPermitted(
                "the command did not load the sigtrap agent",
                "statically linked and setuid programs ignore LD_PRELOAD: watch them as root, with BPF",
            )

    @property
    def _live(self) -> Area:
        if self._area is None:
            raise MissingCapability("this watch was closed")
        return self._area

    def connect(self, event: int) -> None:
        """The event finds the agent by its signal."""

    def watch(self, slot: int, place: Place) -> None:
        places = self._live.places
        free = next(i for i in range(PLACES) if not places["address"][i])
        for name in ("hits", "recorded", "round"):
            places[name][free] = 0
        places["size"][free] = place.size
        places["address"][free] = place.address

    def _find(self, place: Place) -> int:
        found = np.flatnonzero(self._live.places["address"] == place.address)
        return int(found[0]) if len(found) else -1

    def count(self, place: Place) -> tuple[int, int]:
        at = self._find(place)
        if at < 0:
            return 0, 0
        places = self._live.places
        places["address"][at] = 0
        return int(places["hits"][at]), int(places["recorded"][at])

    def allow(self, budget: int, share: int) -> None:
        self._live["budget"], self._live["window"] = budget, share

    def renew(self, share: int) -> None:
        self._live["window"] = share

    @property
    def spent(self) -> bool:
        return self._live["budget"] <= 0

    @property
    def paused(self) -> bool:
        return self._live["window"] <= 0

    def remember(self, pid: int, place: Place, value: int) -> None:
        at = self._find(place)
        if at >= 0:
            self._round += 1
            places = self._live.places
            places["first"][at], places["first_pid"][at] = value, pid
            places["round"][at] = self._round

    def wake_fds(self) -> tuple[int, ...]:
        return ()

    def drain(self, *, last: bool = False) -> Hits | None:
        if self._area is None:
            return None
        records = self._area.take(skip=last)
        if not len(records):
            return None
        columns: dict[str, NDArray[Any]] = {"time": records["time"].astype(np.int64)}
        for name in ("pid", "tid", "cpu"):
            columns[name] = records[name].astype(np.int32)
        for name in ("comm", "address", "size", "before", "after", "flags"):
            columns[name] = records[name]
        return Hits(columns, records["registers"], records["code"], records)

    def stack_ids(self, hits: Hits, leaf: NDArray[np.uint64]) -> NDArray[np.int32]:
        if not self._stacks or self._sink is None:
            return np.full(len(hits), -1, np.int32)
        records = hits.stacks
        callers = np.minimum(records["frames"], records["stack"].shape[1]).astype(np.int64)
        lengths = callers + 1
        starts = np.cumsum(lengths) - lengths
        flat = np.empty(int(lengths.sum()), np.uint64)
        flat[starts] = leaf
        rows = np.repeat(np.arange(len(records)), callers)
        within = ranges(callers)
        flat[starts[rows] + 1 + within] = records["stack"][rows, within] - np.uint64(1)
        return self._sink.intern(
            hits.columns["pid"], flat, lengths.astype(np.int32), hits.columns["time"]
        )

    def losses(self) -> dict[str, int]:
        if self._area is None:
            return self._final[0]
        area = self._area
        return {
            "ring full": area["lost_ring_full"],
            "hit budget spent": area["lost_budget_spent"],
            "hit rate limited": area["lost_rate_limited"],
            "thread killed in the handler": area.unpublished,
        }

    def taken(self) -> int:
        return self._final[1] if self._area is None else self._area["taken"]

    def close(self) -> None:
        area = self._area
        if area is None:
            return
        self._final = (self.losses(), self.taken())
        self._area = None
        self._leave()
        if self._number >= 0:
            _own_agent().wb_watch_unmap(self._number)
            self._number = -1
        area.close()

    def _leave(self) -> None:
        from workbench.runtime.sharing import leave_process, leave_space

        entered, self._entered = self._entered, []
        for watching, process in entered:
            watching.close()
            leave_process(process)
        if self._space is not None:
            leave_space(self._space)
            self._space = None
