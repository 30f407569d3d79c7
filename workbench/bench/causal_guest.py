"""SchedCoz in guests of the lab: what it predicts for programs of known gain, beside what is true, boot after boot.

Each boot calibrates itself (stop cost, gate) and then measures shapes of `causal_shapes`: virtually faster, really
shortened and unchanged, under SchedCoz and under the kernel's own scheduler, in short experiments of shuffled order.
In the parallel mode a boot measures half of the shapes, every other one the other half. One JSON object a line goes
to `output`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import BadSpec, RunFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("DESCRIPTION", "run", "summary")

DESCRIPTION = (
    "causal profiling in guests: predicted against true gains, boot after boot (2 minutes a boot)"
)
SPEEDUPS = (0.25, 0.5, 0.75)
_LIMIT = 1500.0  # s of wall time for one boot
_MODES: dict[str, dict[str, Any]] = {
    "parallel": {
        "boots": 20, "rounds": 8, "seconds": 0.16, "settle": 3.0, "calibrate": 20, "parameters": {},
    },
    "deterministic": {
        "boots": 2, "rounds": 1, "seconds": 0.8, "settle": 4.0, "calibrate": 0,
        "parameters": {"min_debt": 100_000},
    },
}  # fmt: skip
#: Halves of the shapes, each with one of a null region.
_HALVES = (("serial", "join", "queue", "hidden"), ("timer", "barrier", "lock", "pipe"))


def run(
    mode: str = "parallel",
    shapes: str = "",
    repeats: int = 0,
    boots: int = 0,
    cpus: int = 0,
    output: str = "",
) -> BenchResult:
    """Boot guests and measure.

    Parameters
    ----------
    mode : str
        ``parallel`` or ``deterministic``.
    shapes : str
        Names with commas between; by default all, half of them in each parallel boot.
    repeats : int
        How often a boot measures each condition.
    boots, cpus : int
    output : str
        File that is appended to, so that an interrupted run loses nothing.
    """
    given = _MODES[mode]
    rounds, number = repeats or given["rounds"], boots or given["boots"]
    found: list[dict[str, Any]] = []
    for boot in range(number):
        chosen = _chosen(mode, shapes, boot)
        todo = {**given, "shapes": chosen, "speedups": SPEEDUPS, "rounds": rounds, "seed": boot + 1}
        if sys.stderr.isatty():
            print(f"boot {boot + 1} of {number}: {', '.join(chosen)}", file=sys.stderr, flush=True)
        try:
            rows = _boot(mode, cpus or None, todo)
        except RunFailed as failure:
            rows = [{"kind": "failure", "reason": failure.message}]
        rows = [{"boot": boot, "mode": mode, **row} for row in rows]
        found += rows
        if output:
            with Path(output).open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return summary(found, mode)


def _chosen(mode: str, shapes: str, boot: int) -> list[str]:
    from workbench.causal.shapes import ONE_CPU, SHAPES

    known = ONE_CPU if mode == "deterministic" else SHAPES
    if shapes:
        if strange := set(shapes.split(",")) - set(known):
            raise BadSpec(
                f"there is no shape {', '.join(sorted(strange))}", f"shapes: {', '.join(known)}"
            )
        return shapes.split(",")
    return list(known) if mode == "deterministic" else list(_HALVES[boot % 2])


def _boot(mode: str, cpus: int | None, todo: dict[str, Any]) -> list[dict[str, Any]]:
    from workbench.lab.vm import lab

    with lab(mode, cpus=cpus, priority="high" if mode == "parallel" else "normal") as vm:
        words = ["python3", "-m", "workbench.bench.causal_guest_worker", json.dumps(todo)]
        result = vm.run(words, limit=_LIMIT)
        rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith(b"{")]
        if result.status:
            last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
            rows.append({"kind": "failure", "reason": f"status {result.status}: {' '.join(last)}"})
        about = {"kind": "guest", **vm.about, "panics": len(vm.panics)}
    return [about, *rows]


def summary(found: Sequence[dict[str, Any]], mode: str) -> BenchResult:
    """What the lines of several boots say.

    Parameters
    ----------
    found : sequence of dict
        As written to `output`.
    mode : str
        Which limits apply.
    """
    boots = sorted({row["boot"] for row in found})
    failed = [row for row in found if row["kind"] == "failure"]
    gates = {row["boot"]: row for row in found if row["kind"] == "calibration"}
    accepted = [
        one for one in boots if gates.get(one, {"accepted": mode == "deterministic"})["accepted"]
    ]
    predictions = [row for row in found if row["kind"] == "prediction"]
    rows = [Row("boots", float(len(boots)), f"({len(failed)} failed)")]
    for boot, gate in gates.items():
        rows.append(Row(f"boot {boot}: stop cost", gate["stop_cost"] / 1e3, "us"))
        rows += [Row(f"boot {boot}: refused: {reason}", 1.0, "") for reason in gate["reasons"]]
    worst = {"rms": 0.0, "maximum": 0.0, "null": 0.0}
    for boot in boots:
        errors = _errors(row for row in predictions if row["boot"] == boot)
        if not len(errors):
            continue
        rms, maximum = float(np.sqrt(np.mean(errors**2))), float(np.abs(errors).max())
        note = "points" if boot in accepted else "points (refused)"
        rows.append(Row(f"boot {boot}: root mean square error", rms, note))
        rows.append(Row(f"boot {boot}: largest error", maximum, note))
        if boot in accepted:
            null = _gains(r for r in predictions if r["boot"] == boot and r["null"])
            worst["rms"], worst["maximum"] = max(worst["rms"], rms), max(worst["maximum"], maximum)
            worst["null"] = max([worst["null"], *np.abs(null)])
    rows += _by_shape([row for row in predictions if row["boot"] in accepted])
    if mode == "deterministic":
        checks = [
            Check.at_most("error of a prediction, points", worst["maximum"], 2),
            Check.at_most(
                "error where the true gain is zero, points", _largest_null(predictions), 1
            ),
        ]
        if len(boots) > 1:
            checks.append(Check.at_most("difference of two boots, %", _apart(predictions), 0.1))
    else:
        checks = [
            Check.at_least("boots accepted, of 20", 20 * len(accepted) / max(len(boots), 1), 15),
            Check.at_most("root mean square error of an accepted boot, points", worst["rms"], 3),
            Check.at_most("error in an accepted boot, points", worst["maximum"], 6),
            Check.at_most("predicted gain of a null region, points", worst["null"], 5),
        ]
    return BenchResult("causal-guest", tuple(rows), tuple(checks))


def _errors(rows: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([row["predicted"] - row["true"] for row in rows], float)


def _gains(rows: Any) -> list[float]:
    return [float(row["predicted"]) for row in rows]


def _largest_null(predictions: Sequence[dict[str, Any]]) -> float:
    errors = _errors(row for row in predictions if row["null"])
    return float(np.abs(errors).max()) if len(errors) else float("nan")


def _apart(predictions: Sequence[dict[str, Any]]) -> float:
    """Largest difference of the same period in two boots, per cent."""
    periods: dict[tuple[Any, ...], list[float]] = {}
    for row in predictions:
        base = row["period"]
        key = (row["shape"], row["region"], row["speedup"])
        periods.setdefault((*key, "base"), []).append(base)
        for what in ("predicted", "true"):
            periods.setdefault((*key, what), []).append(base * (1 + row[what] / 100))
    return max(
        (100 * (max(one) / min(one) - 1) for one in periods.values() if len(one) > 1),
        default=float("nan"),
    )


def _by_shape(predictions: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for key in sorted({(row["shape"], row["region"]) for row in predictions}):
        own = [row for row in predictions if (row["shape"], row["region"]) == key]
        errors = _errors(own)
        what = " ".join(key) + (" (null)" if own[0]["null"] else "")
        rows.append(
            Row(f"{what}: root mean square error", float(np.sqrt(np.mean(errors**2))), "points")
        )
        rows.append(Row(f"{what}: mean error", float(errors.mean()), "points"))
        overhead = float(np.median([row["overhead"] for row in own]))
        rows.append(Row(f"{what}: period at 0 % against the kernel's own scheduler", overhead, "%"))
    return rows
