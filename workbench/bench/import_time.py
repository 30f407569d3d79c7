"""Is `import workbench` cheap? Fresh interpreters, alternating with `import numpy`."""

from __future__ import annotations

import statistics
import subprocess
import sys

from workbench.bench.result import BenchResult, Check, Row

__all__ = ("DESCRIPTION", "measure", "run")

DESCRIPTION = "import workbench against import numpy, in fresh interpreters"
LIMIT = 2.0

# The clock runs inside the interpreter, so its own start (the same for both) does not hide the difference.
_SCRIPT = """
from time import perf_counter_ns
start = perf_counter_ns()
import {module}
print(perf_counter_ns() - start)
"""


def _import_ms(module: str) -> float:
    command = [sys.executable, "-c", _SCRIPT.format(module=module)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout) / 1e6


def measure(pairs: int) -> BenchResult:
    """Median import time of both over `pairs` alternated pairs (one unmeasured pair warms the file cache)."""
    ours: list[float] = []
    peer: list[float] = []
    for turn in range(pairs + 1):
        first, second = _import_ms("workbench"), _import_ms("numpy")
        if turn:
            ours.append(first)
            peer.append(second)
    mine, theirs = statistics.median(ours), statistics.median(peer)
    ratio = mine / theirs
    return BenchResult(
        "import",
        (
            Row("import workbench", mine, "ms", "import numpy", ratio),
            Row("import numpy", theirs, "ms"),
        ),
        (Check.at_most("import workbench over import numpy", ratio, LIMIT),),
    )


def run() -> BenchResult:
    """`workbench bench import`."""
    return measure(pairs=15)
