"""The workload of known gains as a target: started, its rounds counted by itself, ended."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Self

import numpy as np

from workbench.native.build import workload

__all__ = ("Shaped",)

_NUMBERS, _PASSED = 512, 8
_PATIENCE = 100.0


class Shaped:
    """A process that runs one shape of `causal_shapes`; `work` are its first knobs."""

    def __init__(self, shape: str, folder: Path, *work: int) -> None:
        self.shape, self.knobs = shape, folder / f"knobs-{shape}"
        numbers = np.zeros(_NUMBERS, np.uint64)
        numbers[: len(work)] = work
        numbers.tofile(self.knobs)
        self.numbers = np.memmap(self.knobs, np.uint64, "r+")

    @property
    def command(self) -> list[str]:
        """What to start."""
        return [str(workload("causal_shapes")), self.shape, str(self.knobs)]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command)
        self.pid = self.process.pid
        self.make_rounds(2)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def rounds(self) -> int:
        """Rounds that it has made, by its own count."""
        return int(self.numbers[_PASSED])

    def make_rounds(self, more: int) -> None:
        """Wait until it has made so many more."""
        end, until = time.monotonic() + _PATIENCE, self.rounds + more
        while self.rounds < until:
            assert self.process.poll() is None, "the target ended"
            assert time.monotonic() < end, f"{self.rounds} rounds of {until}"
            time.sleep(0.002)
