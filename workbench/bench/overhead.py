"""What recording costs the target: CPU samples at 999 Hz with stacks, and uprobes by first-instruction class.

The cpu collector is measured on a process that runs the same SQLite query again and again: its own CPU time per
query with sampling off and on, in alternating pairs. The events are opened and attached once and only enabled and
disabled between the two, so nothing but sampling differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.bench.result import BenchResult, Check, Row
from workbench.collectors.calibrate import measure_uprobe_costs
from workbench.collectors.sampling_cost import cpu_times

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "what recording costs the target: CPU samples at 999 Hz with stacks, uprobes by instruction class"
PAIRS = 30


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    random = np.random.default_rng(1)
    picks = random.choice(values, (4000, len(values)))
    low, high = np.percentile(np.median(picks, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _cpu_rows(took: dict[str, NDArray[np.float64]]) -> tuple[list[Row], list[Check]]:
    off = took["off"]
    total = (took["collector"] / off - 1) * 100
    floor = (took["bare"] / off - 1) * 100
    own = total - floor
    rows = []
    for name, values, peer in (
        ("cpu:999 with stacks, all of its cost", total, "sampling off"),
        ("the bare timer interrupt, no program attached", floor, "sampling off"),
        ("cpu:999 with stacks, above the bare interrupt", own, "the bare timer"),
    ):
        low, high = _interval(values)
        rows.append(
            Row(
                name,
                float(np.median(values)),
                f"% of CPU time, 95 % interval [{low:.2f}, {high:.2f}]",
                peer,
            )
        )
    rows.append(
        Row("one timer interrupt on this machine", float(np.median(floor)) / 100 / 999 * 1e6, "us")
    )
    rows.append(Row("alternated pairs", len(off), "pairs"))
    checks = [
        Check.at_most(
            "cpu:999 with stacks, % of CPU time, all of it", float(np.median(total)), 1.0
        ),
        Check.at_most(
            "cpu:999 with stacks, % of CPU time above the bare interrupt",
            float(np.median(own)),
            1.0,
        ),
    ]
    return rows, checks


def run() -> BenchResult:
    """Measure; needs perf_event BPF and uprobes."""
    took, samples, lost = cpu_times(999, PAIRS)
    rows, checks = _cpu_rows(took)
    rows.append(Row("samples taken", samples, f"samples, {lost} lost"))
    rows += [_uprobe_row(one) for one in measure_uprobe_costs()]
    return BenchResult("overhead", tuple(rows), tuple(checks))


def _uprobe_row(one: dict[str, Any]) -> Row:
    what = {"count": "count only", "event": "one event", "call": "entry and return joined"}[
        one["mode"]
    ]
    return Row(
        f"uprobe, {what}, first instruction {one['class']}",
        one["usual"],
        f"ns per hit [{one['low']:.0f}, {one['high']:.0f}]",
    )
