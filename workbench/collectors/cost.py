"""What BPF programs cost the target, measured while they run: the kernel's own statistics (BPF_ENABLE_STATS).

The kernel counts runs and their time for every program while the descriptor is open (Linux >= 5.8); closing it, or
dying, turns that off. The time is that of the program; entering the hook (an interrupt for a sample, a trap for a
probe) is not in it.
"""

from __future__ import annotations

import ctypes
import struct
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.kernel import perf
from workbench.kernel.links import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.collectors.window import Window
    from workbench.kernel.loaded import Loaded

__all__ = ("Readings", "RunCost", "SampleCost")

_ENABLE_STATS, _GET_INFO = 32, 15
_PAUSE_SECONDS = 0.2
_INFO_BYTES = 232
_RUN_TIME = 192  # run_time_ns, then run_cnt, in struct bpf_prog_info


class Readings(ABC):
    """How often programs ran and how long that took, read from time to time.

    Parameters
    ----------
    window : Window
        Runs of paused programs do not count.
    """

    def __init__(self, window: Window) -> None:
        self._next = 0.0
        self._series: list[dict[str, tuple[int, int]]] = []
        self._ended = False
        window.tell(self._begin, self._end)

    def _begin(self) -> None:
        self._series = [self._read()]

    def _end(self) -> None:
        if not self._ended:
            self._series.append(self._read())
            self._ended = True

    def look(self) -> None:
        """Take a reading, at most five a second: more readings show how much the cost varies."""
        now = time.monotonic()
        if now < self._next or self._ended:
            return
        self._next = now + _PAUSE_SECONDS
        self._series.append(self._read())

    @abstractmethod
    def _read(self) -> dict[str, tuple[int, int]]:
        """Runs and their ns so far, by program."""

    def stop(self) -> None:
        """Last reading, if the window has not ended with one."""
        self._end()

    def rows(self, collector: str) -> dict[str, Any]:
        """Rows of frame `overhead`, one per program that ran. The interval is over the readings' mean costs."""
        kept: list[tuple[str, int, float, float, float]] = []
        for name in self._series[-1] if self._series else ():
            readings = np.array([one.get(name, (0, 0)) for one in self._series], np.float64)
            steps = np.diff(readings, axis=0)
            steps = steps[steps[:, 0] > 0]
            if not len(steps):
                continue
            runs, spent = steps.sum(axis=0)
            low, high = np.percentile(steps[:, 1] / steps[:, 0], [2.5, 97.5])
            kept.append((name, int(runs), float(spent / runs), low, high))
        return {
            "collector": [collector] * len(kept),
            "probe": [row[0] for row in kept],
            "instruction_class": ["not applicable"] * len(kept),
            "hits": np.array([row[1] for row in kept], np.int64),
            "cost": np.array([row[2] for row in kept], np.float64),
            "cost_low": np.array([row[3] for row in kept], np.float64),
            "cost_high": np.array([row[4] for row in kept], np.float64),
            "total": np.array([row[1] * row[2] for row in kept], np.float64),
        }


class RunCost(Readings):
    """Measures the programs of a loaded object while the window is open."""

    def __init__(self, window: Window, loaded: Loaded) -> None:
        self._loaded = loaded
        fd = perf.bpf(_ENABLE_STATS, struct.pack("<I", 0).ljust(16, b"\0"))
        self._on = Link("statistics of programs", [fd] if fd >= 0 else [])
        super().__init__(window)

    def _read(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name, program in self._loaded.programs.items():
            info = ctypes.create_string_buffer(_INFO_BYTES)
            attr = struct.pack("<IIQ", program.fd, _INFO_BYTES, ctypes.addressof(info)).ljust(
                16, b"\0"
            )
            if self._on.attached and perf.bpf(_GET_INFO, attr) >= 0:
                spent, count = struct.unpack_from("<QQ", info.raw, _RUN_TIME)
                found[name] = (count, spent)
        return found

    def stop(self) -> None:
        """As of `Readings`; statistics are off again."""
        super().stop()
        self._on.close()


class SampleCost(Readings):
    """Measures a program that samples in user space, by the agent's own clock.

    Parameters
    ----------
    window : Window
    program : str
    read : callable
        Runs and their time in ns, of the processes that can still be read.
    taken : callable
        Runs in all.
    """

    def __init__(
        self,
        window: Window,
        program: str,
        read: Callable[[], tuple[int, int]],
        taken: Callable[[], int],
    ) -> None:
        self._program, self._get, self._taken = program, read, taken
        super().__init__(window)

    def _read(self) -> dict[str, tuple[int, int]]:
        return {self._program: self._get()}

    def rows(self, collector: str) -> dict[str, Any]:
        """As of `Readings`; the time of runs that were not read, because their process had ended, is extrapolated."""
        rows = super().rows(collector)
        rows["hits"][:] = self._taken()
        rows["total"] = rows["hits"] * rows["cost"]
        return rows
