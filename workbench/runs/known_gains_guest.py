"""The guest's part of `workbench.runs.known_gains`: predict gains whose truth is measured in the same process.

Prints one JSON object a prediction.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.causal.alternation import BASE, PLAIN, Condition, alternate
from workbench.causal.points import resolve_points
from workbench.causal.shapes import Running, Shape
from workbench.collectors.modules import Modules
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.sched.schedcoz import SchedCoz

__all__ = ("main", "predictions")

_MIN_DEBT = 100_000  # ns; stopping a task costs little in a guest of one CPU
_CHANGE = 0.4  # s for a program to get going under another scheduler


def main(text: str) -> None:
    """Do what `text` (JSON) says: cases with label, shape, speedups; backends, rounds, seconds, settle, seed."""
    todo = json.loads(text)
    time.sleep(todo["settle"])
    random = Random(todo["seed"])
    for case in todo["cases"]:
        shape = Shape(**case["shape"])
        for backend in todo["backends"]:
            if backend == "userspace" and shape.processes > 1:
                continue
            for row in predictions(
                shape, case["speedups"], backend, todo["rounds"], todo["seconds"], random
            ):
                print(json.dumps({"label": case["label"], **row}), flush=True)


def predictions(
    shape: Shape,
    speedups: list[float],
    backend: str,
    rounds: int,
    seconds: float,
    random: Random,
) -> Iterator[dict[str, Any]]:
    """Run a shape and predict what each region's speed-ups do; the truth is measured in between.

    Medians over rounds: where time counts instructions a machine has no drift, but an experiment in a hundred meets
    something else that runs.

    Parameters
    ----------
    shape : Shape
    speedups : list of float
    backend : {"scheduler", "userspace"}
    rounds : int
        Experiments per condition.
    seconds : float
        Of an experiment.
    random : Random
        Order of the conditions.

    Yields
    ------
    dict
        Columns of the frame `causal_gains` from ``region`` on.
    """
    with ExitStack() as stack:
        running = stack.enter_context(Running(shape))
        coz = _engine(backend, running, stack)
        time.sleep(_CHANGE)
        conditions = [BASE, *([PLAIN] if backend == "scheduler" else [])]
        for region in shape.all_regions:
            for speedup in speedups:
                conditions += [Condition(region, speedup), Condition(region, shorter=speedup)]
        found = alternate(coz, running, conditions, rounds=rounds, random=random, seconds=seconds)
    periods = {
        one: np.array([seen.period for seen in found if seen.condition == one])
        for one in conditions
    }
    base = float(np.median(periods[BASE]))
    change = {one: 100 * (float(np.median(of)) / base - 1) for one, of in periods.items()}
    overhead = 100 * (base / float(np.median(periods[PLAIN])) - 1) if PLAIN in periods else math.nan
    for region in shape.all_regions:
        for speedup in speedups:
            virtual, real = Condition(region, speedup), Condition(region, shorter=speedup)
            yield {
                "origin": backend, "region": region, "null": region in shape.null, "speedup": speedup,
                "predicted": change[virtual], "true": change[real], "period": base, "overhead": overhead,
                "uncertainty": 100 * math.hypot(_scatter(periods[virtual]), _scatter(periods[real])) / base,
            }  # fmt: skip


def _scatter(periods: NDArray[np.float64]) -> float:
    """Standard error of a median, from the absolute deviations (1.4826 of their median is a standard deviation)."""
    deviation = 1.4826 * float(np.median(np.abs(periods - np.median(periods))))
    return 1.2533 * deviation / math.sqrt(len(periods))


def _engine(backend: str, running: Running, stack: ExitStack) -> SchedCoz:
    """Who carries experiments out; the userspace runtime's has the same face."""
    from workbench.causal.userspace import UserspaceEngine
    from workbench.sched.schedcoz import Parameters, SchedCoz

    modules = Modules(running.process.pid)
    places = [
        (one.path, one.offset, one.semaphore) for one in resolve_points(modules, ["progress"])
    ]
    if backend == "userspace":
        engine: Any = UserspaceEngine(
            builtin("causal"), running.process.pid, places, modules=modules
        )
        return stack.enter_context(engine)  # type: ignore[no-any-return]
    coz = stack.enter_context(SchedCoz(builtin("schedcoz"), places, Parameters(min_debt=_MIN_DEBT)))
    for pid in running.pids:
        coz.take(pid)
    return coz


if __name__ == "__main__":
    main(sys.argv[1])
