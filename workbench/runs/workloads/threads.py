"""Four threads: two take turns on a lock, one sleeps and computes, one touches fresh memory.

Native waits (locks, sleeps, page faults) with the interpreter lock released, so the scheduler has something to show.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.runs.workloads.program import run

PIECE = bytes(1 << 20)


def prepare(_folder: Path) -> tuple[dict[str, Any], Callable[[], None]]:
    """Start the threads; the step only waits."""
    lock = threading.Lock()

    def contend() -> None:
        while True:
            with lock:
                hashlib.sha256(PIECE).digest()
            time.sleep(0.0005)

    def nap() -> None:
        while True:
            time.sleep(0.002)
            hashlib.sha256(PIECE).digest()

    def touch() -> None:
        while True:
            with mmap.mmap(-1, 4 << 20) as area:
                for page in range(0, len(area), mmap.PAGESIZE):
                    area[page] = 1
            time.sleep(0.005)

    for work in (contend, contend, nap, touch):
        threading.Thread(target=work, name=work.__name__, daemon=True).start()
    return {}, lambda: time.sleep(0.01)


if __name__ == "__main__":
    run(prepare)
