"""Work that one thread hands to another and waits for."""

from __future__ import annotations

import queue
from concurrent import futures
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Errands",)


class Errands:
    """Errands that a thread runs, one after the other, until there are to be no more."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Run what is handed over until `close`; for the thread that does the errands."""
        for job in iter(self._jobs.get, None):
            job()

    def do(self, job: Callable[[], None]) -> None:
        """Have it run and wait for its end; what it raises is raised here, an interrupt takes effect at its end."""
        done: futures.Future[None] = futures.Future()

        def run() -> None:
            try:
                job()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        self._jobs.put(run)
        try:
            done.result()
        finally:
            futures.wait([done])

    def close(self) -> None:
        """No more errands come."""
        self._jobs.put(None)
