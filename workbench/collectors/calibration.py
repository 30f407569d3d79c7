"""`wb.calibrate`: what every kind of probe costs on this machine, as a recording with frame `overhead`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.calibrate import measure_uprobe_costs
from workbench.collectors.sampling_cost import cpu_times
from workbench.collectors.watch.cost import hit_cost
from workbench.errors import WorkbenchError
from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from workbench.frames.recording import Recording

__all__ = ("calibrate",)

_MODES = {"count": "count only", "event": "one event", "call": "entry and return joined"}
_HZ, _ROUNDS = 9999, 15
_Row = tuple[str, str, str, float, float, float]


def _uprobes() -> list[_Row]:
    return [
        ("uprobe", _MODES[one["mode"]], one["class"], one["usual"], one["low"], one["high"])
        for one in measure_uprobe_costs()
    ]


def _samples() -> list[_Row]:
    """Cost of one sample: at a high rate the difference is far above the noise; it is linear in the rate."""
    took, _, _ = cpu_times(_HZ, _ROUNDS)
    rows: list[_Row] = []
    names = {"bare": "timer interrupt alone", "collector": "sample with stacks"}
    for mode, name in names.items():
        each = (took[mode] - took["off"]) / (took["off"] / 1e9 * _HZ)
        low, median, high = np.percentile(each, [2.5, 50, 97.5])
        rows.append(("cpu", name, "not applicable", float(median), float(low), float(high)))
    return rows


def _watchpoint() -> list[_Row]:
    low, median, high = hit_cost("bpf", stacks="no", copy=0, values=True)
    return [("watch", "one store", "not applicable", median, low, high)]


def calibrate(output: str | Path = "calibration", *, overwrite: bool = False) -> Recording:
    """Measure the cost of one hit of each kind of probe on this machine; takes a few seconds.

    Returns
    -------
    Recording
        Frame `overhead` with one row per kind and instruction class: median cost of a hit in ns and the range that
        holds 95 % of the batches. `hits` and `total` are 0: nothing was recorded.

    Raises
    ------
    WorkbenchError
        Not even uprobes can be measured here.
    """
    rows = _uprobes()
    for measure in (_samples, _watchpoint):
        try:
            rows += measure()
        except WorkbenchError as error:
            print(f"not measured: {error.message}")
    with RecordingWriter(output, collectors=["calibration"], overwrite=overwrite) as writer:
        writer.append(
            "overhead",
            {
                "collector": [row[0] for row in rows],
                "probe": [row[1] for row in rows],
                "instruction_class": [row[2] for row in rows],
                "hits": np.zeros(len(rows), np.int64),
                "cost": np.array([row[3] for row in rows]),
                "cost_low": np.array([row[4] for row in rows]),
                "cost_high": np.array([row[5] for row in rows]),
                "total": np.zeros(len(rows)),
            },
        )
        return writer.finish()
