"""Runs in a guest: latencies and samples by their callers, predicted and by really shortening the work; JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np

from workbench.cli import main
from workbench.frames.recording import load


def run(name: str, shape: str, turns: int, *options: str) -> dict[str, Any]:
    values = np.zeros(512, np.uint64)
    values[:2] = turns, 20_000
    values.tofile(f"/tmp/knobs-{name}")
    words = [
        "causal",
        "run",
        "-q",
        "--json",
        "-p",
        "progress",
        "--min-debt",
        "100",
        "--shortest",
        "0.4",
        *options,
    ]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(
            [
                *words,
                "--rounds",
                "1",
                "-o",
                f"/tmp/{name}",
                "--",
                sys.argv[1],
                shape,
                f"/tmp/knobs-{name}",
            ]
        )
    samples = load(f"/tmp/{name}").frame("causal_samples")
    return {
        **json.loads(printed.getvalue()),
        "samples": dict(zip(samples["location"], samples["count"].tolist(), strict=True)),
    }


if __name__ == "__main__":
    found = {}
    for shape, options in (
        ("pipe", ("-r", "region_a", "--latency", "arrive,depart")),
        ("called", ("-r", "caller_a", "--callers", "8")),
    ):
        found[shape] = {
            "predicted": run(f"{shape}-predicted", shape, 30_000, "--speedups", "0,0.5", *options),
            "true": run(f"{shape}-true", shape, 15_000, "--speedups", "0", *options),
        }
    print(json.dumps(found))
