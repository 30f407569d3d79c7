"""Live numbers of a recorder for `async for`: woken by the kernel's rings, without a thread or a busy cell.

    recorder = wb.record("uprobe:libsqlite3:sqlite3_step", pid=server.pid).start()
    async for state in wb.updates(recorder):
        line.update(str(state))
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workbench.collectors.recorder import Recorder, State

__all__ = ("updates",)

SETTLE = 0.01  # seconds that the recorder's own thread gets to drain what woke us


async def updates(recorder: Recorder, every: float = 0.2) -> AsyncIterator[State]:
    """States of a recorder, one whenever its numbers changed; the last has phase ``done``.

    A ring that wakes its readers ends the wait for the next state early, so that a rare event shows within
    milliseconds. Other cells' coroutines run meanwhile; the recording does not depend on anybody iterating.

    Parameters
    ----------
    recorder : Recorder
        Started.
    every : float
        Seconds between two states at least, and between two looks at rings that do not wake their readers.

    Yields
    ------
    State
    """
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    last: object = None
    while True:
        state = recorder.state()
        seen = (state.phase, state.progress, state.collectors)
        if seen != last:
            last = seen
            yield state
            if state.phase == "done":
                return
            await asyncio.sleep(every)
        rings = [fd for one in recorder.collectors for fd in one.wake_fds()]
        woken.clear()
        with contextlib.ExitStack() as watching:
            for fd in rings if state.phase == "recording" else ():
                with contextlib.suppress(OSError):  # it was closed: the recording has just ended
                    # A descriptor of our own: the recorder's may be closed and its number reused while we wait.
                    own = os.dup(fd)
                    watching.callback(os.close, own)
                    loop.add_reader(own, woken.set)
                    watching.callback(loop.remove_reader, own)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), every)
        await asyncio.sleep(SETTLE)
