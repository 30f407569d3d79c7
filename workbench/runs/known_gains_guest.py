"""The guest's part of `workbench.runs.known_gains`: predict gains whose truth is measured in the same process.

Prints one JSON object a prediction.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.causal.alternation import BASE, PLAIN, Condition, alternate, compare
from workbench.causal.points import resolve_points
from workbench.causal.shapes import Running, Shape
from workbench.collectors.modules import Modules
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from workbench.causal.alternation import Observation
    from workbench.sched.schedcoz import SchedCoz

    _Difference: TypeAlias = Callable[[Condition, Condition], tuple[float, float]]

__all__ = ("main", "predictions")

_MIN_DEBT = 100_000  # ns; stopping a task costs little in a guest of one CPU
_CHANGE = 0.4  # s for a program to get going under another scheduler


def main(text: str) -> None:
    """Do what `text` (JSON) says: cases with label, shape, speedups; rounds, seconds, settle, seed."""
    todo = json.loads(text)
    gc.collect()
    gc.disable()  # on one CPU, collecting takes time from the workload
    time.sleep(todo["settle"])
    random = Random(todo["seed"])
    for case in todo["cases"]:
        shape = Shape(**case["shape"])
        rows = predictions(
            shape, case["speedups"], rounds=todo["rounds"], seconds=todo["seconds"], random=random
        )
        for row in rows:
            print(json.dumps({"label": case["label"], **row}), flush=True)


def predictions(
    shape: Shape,
    speedups: Sequence[float],
    backend: str = "scheduler",
    *,
    rounds: int,
    seconds: float,
    random: Random,
    drifting: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run a shape and predict what each region's speed-ups do; the truth is measured in between.

    Parameters
    ----------
    shape : Shape
    speedups : sequence of float
    backend : {"scheduler", "userspace"}
    rounds : int
        Experiments per condition.
    seconds : float
        Of an experiment.
    random : Random
        Order of the conditions.
    drifting : bool
        The machine's speed drifts (`workbench.causal.drift`). Else medians over rounds count: where time counts
        instructions nothing drifts, but an experiment in a hundred meets something else that runs.

    Yields
    ------
    dict
        Columns of the frame `causal_gains` from ``region`` on, and ``origin``.
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
    difference, base = _drifted(found) if drifting else _medians(found)
    overhead = _percent(difference(BASE, PLAIN)[0]) if PLAIN in conditions else math.nan
    for region in shape.all_regions:
        for speedup in speedups:
            virtual, real = Condition(region, speedup), Condition(region, shorter=speedup)
            yield {
                "origin": backend, "region": region, "null": region in shape.null, "speedup": speedup,
                "predicted": _percent(difference(virtual, BASE)[0]), "true": _percent(difference(real, BASE)[0]),
                "uncertainty": 100 * difference(virtual, real)[1], "period": base, "overhead": overhead,
            }  # fmt: skip


def _percent(difference: float) -> float:
    return 100 * math.expm1(difference)


def _drifted(found: Sequence[Observation]) -> tuple[_Difference, float]:
    """Difference of two conditions' logarithms with its standard error; and the period at 0 %."""
    change = compare(found)
    return change.difference, math.exp(change.values[change.conditions.index(BASE)])


def _medians(found: Sequence[Observation]) -> tuple[_Difference, float]:
    """The same from medians."""
    periods: dict[Condition, list[float]] = {}
    for one in found:
        periods.setdefault(one.condition, []).append(one.period)

    def difference(one: Condition, other: Condition) -> tuple[float, float]:
        (value, error), (against, its) = (_median(np.log(periods[each])) for each in (one, other))
        return value - against, math.hypot(error, its)

    return difference, float(np.median(periods[BASE]))


def _median(values: NDArray[np.float64]) -> tuple[float, float]:
    """The median and its standard error from absolute deviations (1.4826 of their median is a standard deviation)."""
    middle = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, 1.2533 * deviation / math.sqrt(len(values))


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
