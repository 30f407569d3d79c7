"""What BPF programs cost the target, measured while they run: the kernel's own statistics (BPF_ENABLE_STATS).

The kernel counts runs and their time for every program while the descriptor is open (Linux >= 5.8); closing it, or
dying, turns that off. The time is that of the program; entering the hook (an interrupt for a sample, a trap for a
probe) is not in it.
"""

from __future__ import annotations

import ctypes
import struct
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.kernel import perf
from workbench.kernel.links import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.kernel.loaded import Loaded

__all__ = ("Readings", "RunCost", "SampleCost")

_ENABLE_STATS, _GET_INFO = 32, 15
_PAUSE_SECONDS = 0.2
_INFO_BYTES = 232
_RUN_TIME = 192  # run_time_ns, then run_cnt, in struct bpf_prog_info


class Readings:
    """How often programs ran and how long that took, read from time to time."""

    def __init__(self) -> None:
        self._next = 0.0
        self._series: dict[str, list[tuple[int, int]]] = {}

    def look(self) -> None:
        """Take a reading, at most five a second: more readings show how much the cost varies."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PAUSE_SECONDS
        self._read()

    def _read(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Last reading."""
        self._read()

    def rows(self, collector: str) -> dict[str, Any]:
        """Rows of frame `overhead`, one per program that ran. The interval is over the readings' mean costs."""
        kept: list[tuple[str, int, float, float, float]] = []
        for name, series in self._series.items():
            readings = np.array([(0, 0), *series], np.float64)
            if readings[-1, 0] == 0:
                continue
            steps = np.diff(readings, axis=0)
            steps = steps[steps[:, 0] > 0]
            means = steps[:, 1] / steps[:, 0]
            low, high = np.percentile(means, [2.5, 97.5])
            kept.append(
                (name, int(readings[-1, 0]), float(readings[-1, 1] / readings[-1, 0]), low, high)
            )
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
    """Measures the programs of a loaded object from now on."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self._loaded = loaded
        fd = perf.bpf(_ENABLE_STATS, struct.pack("<I", 0).ljust(16, b"\0"))
        self._on = Link("statistics of programs", [fd] if fd >= 0 else [])
        self._series = {name: [] for name in loaded.programs}

    def _read(self) -> None:
        for name, program in self._loaded.programs.items():
            info = ctypes.create_string_buffer(_INFO_BYTES)
            attr = struct.pack("<IIQ", program.fd, _INFO_BYTES, ctypes.addressof(info)).ljust(
                16, b"\0"
            )
            if self._on.attached and perf.bpf(_GET_INFO, attr) >= 0:
                spent, count = struct.unpack_from("<QQ", info.raw, _RUN_TIME)
                self._series[name].append((count, spent))

    def stop(self) -> None:
        """Last reading; statistics are off again."""
        self._read()
        self._on.close()


class SampleCost(Readings):
    """Measures a program that samples in user space, by the agent's own clock.

    Parameters
    ----------
    program : str
    read : callable
        Runs and their time in ns, of the processes that can still be read.
    taken : callable
        Runs in all.
    """

    def __init__(
        self, program: str, read: Callable[[], tuple[int, int]], taken: Callable[[], int]
    ) -> None:
        super().__init__()
        self._program, self._get, self._taken = program, read, taken
        self._series = {program: []}

    def _read(self) -> None:
        self._series[self._program].append(self._get())

    def rows(self, collector: str) -> dict[str, Any]:
        """As of `Readings`; the time of runs that were not read, because their process had ended, is extrapolated."""
        rows = super().rows(collector)
        rows["hits"][:] = self._taken()
        rows["total"] = rows["hits"] * rows["cost"]
        return rows
