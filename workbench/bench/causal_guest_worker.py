"""The guest's part of `workbench bench causal-guest`: calibrate, then measure shapes of known gain.

Prints one JSON object a line: the calibration, then one for each prediction.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import ExitStack
from random import Random
from typing import Any

from workbench.causal.alternation import BASE, PLAIN, Condition, alternate, compare
from workbench.causal.calibration import calibrate
from workbench.causal.points import resolve_points
from workbench.causal.shapes import ONE_CPU, SHAPES, Running, Shape, scale
from workbench.collectors.modules import Modules
from workbench.objects.model import builtin
from workbench.sched.schedcoz import Parameters, SchedCoz

__all__ = ("main",)


def main(text: str) -> None:
    """Do what `text` (JSON) says: shapes, speedups, rounds, seconds, settle, seed, parameters."""
    todo = json.loads(text)
    time.sleep(todo["settle"])
    random = Random(todo["seed"])
    one_cpu = os.cpu_count() == 1
    known = ONE_CPU if one_cpu else SHAPES
    factor = scale()
    say(kind="scale", factor=factor)
    with ExitStack() as stack:
        running = stack.enter_context(Running(SHAPES["barrier"].scaled(factor)))
        points = resolve_points(Modules(running.process.pid), ["progress"])
        places = [(one.path, one.offset, one.semaphore) for one in points]
        parameters = Parameters(**todo["parameters"])
        coz = stack.enter_context(SchedCoz(builtin("schedcoz"), places, parameters))
        take(coz, running)
        seconds = todo["seconds"]
        if todo["calibrate"] and not one_cpu:
            found = calibrate(
                coz, running, rounds=todo["calibrate"], seconds=seconds, seed=todo["seed"]
            )
            say(kind="calibration", accepted=found.accepted, **found.to_json())
        running.close()
        for name in todo["shapes"]:
            shape = known[name].scaled(factor)
            with Running(shape) as running:
                take(coz, running)
                time.sleep(todo["settle"] / 10)
                measure(coz, running, shape, todo, random)


def take(coz: SchedCoz, running: Running) -> None:
    """All processes of the workload under the scheduler."""
    for pid in running.pids:
        coz.take(pid)


def measure(
    coz: SchedCoz, running: Running, shape: Shape, todo: dict[str, Any], random: Random
) -> None:
    """All predictions of one shape, beside the truth."""
    conditions = [BASE, PLAIN]
    for region in shape.all_regions:
        for speedup in todo["speedups"]:
            conditions += [Condition(region, speedup), Condition(region, shorter=speedup)]
    found = alternate(
        coz, running, conditions, rounds=todo["rounds"], random=random, seconds=todo["seconds"]
    )
    change = compare(found)
    plain, plain_error = change.difference(BASE, PLAIN)
    base = math.exp(change.values[change.conditions.index(BASE)])
    common = {
        "kind": "prediction", "shape": shape.name, "period": base,
        "overhead": 100 * math.expm1(plain), "overhead_error": 100 * plain_error,
        "noise": 100 * change.error, "drift": 100 * change.drift,
    }  # fmt: skip
    for region in shape.all_regions:
        for speedup in todo["speedups"]:
            virtual, real = Condition(region, speedup), Condition(region, shorter=speedup)
            predicted, _ = change.difference(virtual, BASE)
            true, true_error = change.difference(real, BASE)
            _, error = change.difference(virtual, real)
            payments = [one.payments for one in found if one.condition == virtual]
            say(
                **common, region=region, null=region in shape.null, speedup=speedup,
                predicted=100 * math.expm1(predicted), true=100 * math.expm1(true),
                uncertainty=100 * error, true_uncertainty=100 * true_error,
                payments=sum(payments) / len(payments),
            )  # fmt: skip


def say(**found: Any) -> None:
    """One line for the host."""
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
