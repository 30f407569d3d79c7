"""Causal profiling's rules in the simulator: thousands of random programs on 1 to 16 CPUs, prediction against truth."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.bench.result import BenchResult, Check, Row

if TYPE_CHECKING:
    import pandas as pd

    from workbench.sched.simulator import Experiment

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "causal profiling: predicted against true gains of 2,000 random programs in the simulator (10 minutes)"
GRAPHS = 2000
#: Graphs for each of the comparisons beside it.
FEWER = 200
WITHOUT = {
    "each sample counts one period (R1)": 1,
    "payments are not credited until the task runs (R2)": 2,
    "CPUs hand no clock on (R5)": 8,
}


def _campaign(what: str, graphs: int, experiment: Experiment) -> pd.DataFrame:
    from workbench.sched.fidelity import campaign

    def show(done: int) -> None:
        if sys.stderr.isatty() and (done % 20 == 0 or done == graphs):
            end = "\n" if done == graphs else ""
            print(f"\r{what}: {done} of {graphs} programs", end=end, file=sys.stderr, flush=True)

    return campaign(range(graphs), experiment, progress=show)


def run() -> BenchResult:
    """Simulate; needs nothing but the native core."""
    from workbench.sched.fidelity import FINE, SPEEDUPS, summary

    frame = _campaign("all rules", GRAPHS, FINE)
    found = summary(frame)
    rows = [
        Row("predictions", float(len(frame)), f"({GRAPHS} programs at {len(SPEEDUPS)} speed-ups)"),
        Row("median absolute error", found["median"], "points"),
        Row("95th percentile", found["percentile_95"], "points"),
        Row("largest", found["maximum"], "points"),
        Row("predictions whose true gain is zero", found["zeros"], ""),
        Row("largest error of those", found["largest_at_zero"], "points"),
        Row("of those, within 1.5 points", 100 * found["zeros_within"], "%"),
    ]
    for key, what in (("cpus", "{} CPUs"), ("shape", "{}"), ("speedup", "speed-up {:.0%}")):
        for value, group in frame.groupby(key):
            part = summary(group)
            rows.append(
                Row(f"95th percentile, {what.format(value)}", part["percentile_95"], "points")
            )
    for rate, period, min_debt in (("4,000", 250_000, 250_000), ("1,000", 1_000_000, 500_000)):
        coarse = replace(FINE, period=period, min_debt=min_debt)
        part = summary(_campaign(f"{rate} samples/s", FEWER, coarse))
        rows.append(Row(f"95th percentile at {rate} samples/s", part["percentile_95"], "points"))
    for what, bit in WITHOUT.items():
        part = summary(_campaign(what, FEWER, replace(FINE, without=bit)))
        rows.append(Row(f"95th percentile when {what}", part["percentile_95"], "points"))
    checks = (
        Check.at_most("median absolute error, points", found["median"], 1),
        Check.at_most("95th percentile, points", found["percentile_95"], 3),
        Check.at_most("error where the true gain is zero, points", found["largest_at_zero"], 1.5),
    )
    return BenchResult("causal", tuple(rows), checks)
