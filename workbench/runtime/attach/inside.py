"""Is a thread inside bytes that are about to be replaced, now or underneath a signal handler?"""

from __future__ import annotations

import bisect
import contextlib

import numpy as np

from workbench.errors import MissingCapability
from workbench.runtime.attach import ptrace
from workbench.runtime.attach.memory import PAGE, Memory
from workbench.runtime.attach.relocate import JUMP
from workbench.runtime.attach.stop import Stop

__all__ = ("inside", "stack_words", "suspended_inside")

_DEPTH = 16 * PAGE


def inside(stop: Stop, starts: list[int]) -> bool:
    """A thread's program counter is behind the first of the bytes at one of `starts` (sorted)."""
    for counter in stop.counters().values():
        i = bisect.bisect_left(starts, counter) - 1
        if i >= 0 and starts[i] < counter < starts[i] + JUMP:
            return True
    return False


def suspended_inside(stop: Stop, memory: Memory, starts: list[int]) -> bool:
    """A thread will come back there when a signal handler returns.

    The interrupted program counter is a word of the signal frame on the thread's stack. No return address can look like
    it (`relocate.plan` sees to that), but what an older call left on the stack can.
    """
    places = np.array(starts, np.uint64)
    for thread in list(stop.threads):
        _, words = stack_words(memory, ptrace.get_registers(thread).sp)
        at = np.searchsorted(places, words, "left") - 1
        near = places[np.maximum(at, 0)]
        if bool(((at >= 0) & (words > near) & (words - near < JUMP)).any()):
            return True
    return False


def stack_words(memory: Memory, sp: int) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    """The words above a stack pointer, as many as are mapped, and the address of the first."""
    sp &= ~7
    with contextlib.suppress(MissingCapability):
        return sp, np.frombuffer(memory.read(sp, _DEPTH), np.uint64)
    parts = []  # less than that is mapped
    at, end = sp, sp + _DEPTH
    while at < end:
        size = min(end, (at // PAGE + 1) * PAGE) - at if at != sp else PAGE - sp % PAGE
        try:
            parts.append(memory.read(at, size))
        except MissingCapability:
            break
        at += size
    return sp, np.frombuffer(b"".join(parts), np.uint64)
