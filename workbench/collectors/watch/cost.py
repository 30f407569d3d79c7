"""What one watchpoint hit costs on this machine: timed stores of our own thread to a watched word."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.watch.kernel import KernelBackend
from workbench.collectors.watch.limits import UNLIMITED
from workbench.collectors.watch.signals import SignalBackend
from workbench.collectors.watch.slots import Aim, Place
from workbench.kernel import perf
from workbench.native.library import load

if TYPE_CHECKING:
    from workbench.collectors.watch.backend import Backend

__all__ = ("hit_cost",)

_BATCHES, _STORES = 60, 8


@cache
def hit_cost(mode: str, *, stacks: str, copy: int, values: bool) -> tuple[float, float, float]:
    """Cost of a hit in ns: the 2.5th percentile, the median and the 97.5th of short runs of hits.

    Raises
    ------
    OutOfSlots, NotPermitted, MissingCapability
        It cannot be measured here.
    """
    if mode == "bpf":
        backend: Backend = KernelBackend(stacks=stacks, copy=copy, values=values)
    else:
        backend = SignalBackend(stacks=stacks, values=values, own=True)
    try:
        times = _measure(backend)
    finally:
        backend.close()
    low, median, high = np.percentile(times, [2.5, 50, 97.5]) / _STORES
    return float(low), float(median), float(high)


def _measure(backend: Backend) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    word = np.zeros(2, np.uint64)
    place = Place(int(word.ctypes.data + 7) & ~7, 8)
    times = np.zeros(_BATCHES + 1, np.uint64)
    backend.watch(0, place)
    backend.allow(UNLIMITED, UNLIMITED)
    aim = Aim("calibration", signal=backend.mode == "sigtrap", token=backend.token)
    event = perf.open_event(aim.attributes(place, disabled=True), pid=threading.get_native_id())
    try:
        backend.connect(event)
        perf.enable(event)
        load().wb_timed_stores(
            ctypes.c_void_p(place.address),
            _BATCHES + 1,
            _STORES,
            ctypes.c_void_p(times.ctypes.data),
        )
    finally:
        perf.close(event)
    return times[1:]  # the first batch warms up
