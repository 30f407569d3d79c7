"""Looking at a process that may not answer.

Reading another process's memory waits for its page faults and for the lock of its memory map. Neither wait ends by a
signal: a process that is stuck itself (in a page fault that nobody serves, on a file system that is gone) would take
whoever looks at it along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from workbench.errors import RunFailed

__all__ = ("within",)

_Answer = TypeVar("_Answer")


def within(seconds: float, pid: int, ask: Callable[[], _Answer]) -> _Answer:
    """What `ask` returns or raises; it runs in a thread of its own, which is left behind where it does not come back.

    Raises
    ------
    RunFailed
        Process `pid` did not answer in that time.
    """
    answer: list[_Answer] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(ask())
        except BaseException as error:  # handed over to the caller
            failure.append(error)

    thread = threading.Thread(target=run, name=f"wb-ask-{pid}", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise RunFailed(
            f"the memory of process {pid} could not be read within {seconds:.0f} s",
            "end it, if it is stuck",
        )
    return answer[0]
