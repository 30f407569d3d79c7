"""Processes that work on a hash map through `wb_map_drive_checked` until they are told to stop or killed."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time

import numpy as np

from workbench.runtime.maps import Map, current_run
from workbench.runtime.maps.core import core

__all__ = ("Crew",)

_WORKERS = 16
_PATIENCE = 60.0


class Crew:
    """Up to 16 processes on one map; word 0 of what they share stops them, word 1 counts wrong values."""

    def __init__(self, made: Map, keys: int) -> None:
        self.map, self.keys, self.seed = made, keys, 1
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = np.frombuffer(self._memory, "u8")
        self.pids: dict[int, int] = {}
        self._drive = core().wb_map_drive_checked
        pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
        self._drive.argtypes = (pointer, pointer, u64, u64, pointer, pointer, pointer, ctypes.c_int)

    @property
    def wrong(self) -> int:
        return int(self.words[1])

    def made(self, worker: int) -> int:
        """Operations that the worker has done so far."""
        return int(self.words[8 * (worker + 1)])

    def start(self, worker: int, *, writes: bool = True, guarded: bool = True) -> None:
        """`guarded=False`: a reader that does not say when it runs: what it holds is reused under its hands."""
        self.seed += 1
        address = self.words.ctypes.data
        pid = os.fork()
        if pid == 0:
            try:
                if guarded:
                    run = current_run(self.map.space)
                else:
                    run = core().wb_run_new(None, ctypes.byref(ctypes.c_int64()))
                self._drive(
                    run, self.map.handle, self.keys, self.seed * 7919, address,
                    address + 64 * (worker + 1), address + 8, int(writes),
                )  # fmt: skip
            finally:
                os._exit(0)
        self.pids[worker] = pid

    def progress(self, workers: list[int], count: int) -> None:
        """Wait until each of them has done `count` operations more; one that does none for a minute is stuck."""
        goals = {worker: self.made(worker) + count for worker in workers}
        begun = time.monotonic()
        seen = {worker: (self.made(worker), begun) for worker in workers}
        while goals:
            os.sched_yield()
            now = time.monotonic()
            for worker, goal in list(goals.items()):
                made = self.made(worker)
                if made >= goal:
                    del goals[worker]
                elif made != seen[worker][0]:
                    seen[worker] = made, now
                else:
                    assert now - seen[worker][1] < _PATIENCE, f"worker {worker} is stuck"
            if now - begun > 0.1:
                time.sleep(0.005)

    def kill(self, worker: int, *, reap: bool = True) -> None:
        os.kill(self.pids[worker], signal.SIGKILL)
        if reap:
            self.reap(worker)
        else:  # dead, not only told to die: a zombie
            os.waitid(os.P_PID, self.pids[worker], os.WEXITED | os.WNOWAIT)

    def reap(self, worker: int) -> None:
        os.waitpid(self.pids.pop(worker), 0)

    def stop(self) -> None:
        """All come to their end by themselves."""
        self.words[0] = 1
        for worker in list(self.pids):
            _, status = os.waitpid(self.pids.pop(worker), 0)
            assert status == 0
        self.words[0] = 0

    def close(self) -> None:
        for worker in list(self.pids):
            self.kill(worker)
