"""Runs in a guest: predictions of `workbench causal`, and the truth by really shortening the work; JSON of both.

One process makes all runs, because starting Python is slow in an emulated guest. In one of them the program is compared
with itself under the kernel's own scheduler first, which takes seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np

from workbench.cli import main
from workbench.frames.recording import load

LONG_WAIT = 8_400_000  # ns


def run(
    name: str, program: str, shape: str, turns: tuple[float, float], *options: str
) -> dict[str, Any]:
    path = f"/tmp/knobs-{name}"
    values = np.zeros(512, np.uint64)
    values[:4] = *turns, 0, LONG_WAIT if program == SHAPES else 0
    values.tofile(path)
    words = [
        "causal",
        "run",
        "-q",
        "--json",
        "-p",
        "progress",
        "--min-debt",
        "100",
        "--tolerance",
        "15",
        "--shortest",
        "0.4",
        *options,
    ]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([*words, "-o", f"/tmp/{name}", "--", program, shape, path])
    text = printed.getvalue()
    if not text.startswith("{"):
        return {"exit": status}
    samples = load(f"/tmp/{name}").frame("causal_samples")
    counts = dict(zip(samples["location"], samples["count"].tolist(), strict=True))
    return {"exit": status, **json.loads(text), "samples": counts}


def both(
    name: str, program: str, shape: str, turns: tuple[int, int], rounds: str, *options: str
) -> dict[str, Any]:
    a, b = turns
    checks = [] if name == "pipe" else ["--no-checks"]
    words = [*options, *checks, "--rounds", rounds]
    return {
        "predicted": run(f"{name}-predicted", program, shape, (a, b), *words, "--speedups", "0,0.5"),
        "true": run(f"{name}-true", program, shape, (a / 2, b), *words, "--speedups", "0", "--no-checks"),
    }  # fmt: skip


if __name__ == "__main__":
    SHAPES, LINE, REQUESTS = sys.argv[1:]
    turns = 70_000, 50_000
    found: dict[str, Any] = {
        "serial": both("serial", SHAPES, "serial", turns, "2", "-r", LINE),
        "timer": both("timer", SHAPES, "timer", turns, "2", "-r", "region_a"),
        "pipe": both("pipe", SHAPES, "pipe", turns, "2", "-r", "region_a"),
    }
    turns = 30_000, 20_000
    latency = "-r", "region_a", "--latency", "arrive,depart"
    found["latency"] = both("latency", REQUESTS, "pipe", turns, "1", *latency)
    callers = "-r", "caller_a", "--callers", "8"
    found["called"] = both("called", REQUESTS, "called", turns, "1", *callers)
    found["state"] = open("/sys/kernel/sched_ext/state").read().strip()  # noqa: PTH123, SIM115
    print(json.dumps(found))
