"""Runs in a guest: predictions of `workbench causal`, and the truth by really shortening the work; JSON of both.

One process makes all runs, because starting Python is slow in an emulated guest.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np

from workbench.cli import main

TURNS_A, TURNS_B, LONG_WAIT = 70_000, 50_000, 8_400_000


def knobs(path: str, scale: float) -> None:
    values = np.zeros(512, np.uint64)
    values[:4] = round(TURNS_A * scale), TURNS_B, 0, LONG_WAIT
    values.tofile(path)


def run(
    name: str, program: str, shape: str, region: str, scale: float, *options: str
) -> dict[str, Any]:
    path = f"/tmp/knobs-{name}"
    knobs(path, scale)
    words = [
        "causal",
        "run",
        "-q",
        "--json",
        "-p",
        "progress",
        "-r",
        region,
        "--min-debt",
        "100",
        "--tolerance",
        "15",
        *options,
    ]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([*words, "-o", f"/tmp/{name}", "--", program, shape, path])
    text = printed.getvalue()
    return {"exit": status, **(json.loads(text) if text.startswith("{") else {})}


if __name__ == "__main__":
    program, line = sys.argv[1:]
    found = {}
    for shape, region in (("serial", line), ("timer", "region_a"), ("pipe", "region_a")):
        short = ("--shortest", "0.4")
        found[shape] = {
            "predicted": run(f"{shape}-predicted", program, shape, region, 1, "--speedups", "0,0.5",
                             "--rounds", "2", *short),
            "true": run(f"{shape}-true", program, shape, region, 0.5, "--speedups", "0", "--rounds", "2", *short),
        }  # fmt: skip
    found["state"] = open("/sys/kernel/sched_ext/state").read().strip()  # noqa: PTH123, SIM115
    print(json.dumps(found))
