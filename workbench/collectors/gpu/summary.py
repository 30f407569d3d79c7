"""What the gpu collector says at its end: counts, what was never freed, losses, overhead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors import calibrate
from workbench.collectors.gpu.libraries import class_of_cookie
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink
    from workbench.collectors.cost import RunCost
    from workbench.collectors.gpu.hooks import Hooks
    from workbench.collectors.gpu.rows import Rows

__all__ = ("append_counts", "append_summary")


def append_summary(
    sink: Sink, hooks: Hooks, rows: Rows, *, count: bool, stacks: RunCost | None
) -> None:
    """Append rows of `gpu_counts`, `gpu_memory`, `losses` and `overhead`.

    `stacks` has measured the programs where stacks were taken: what they cost depends on how deep they are.
    """
    keys, values = append_counts(sink, hooks, rows, count=count)
    what = "API call, counted (at the cost of a row: an upper bound)" if count else "API call, entry and return"
    if stacks is not None:
        what = "API call, entry and return without its stack"
        sink.append("overhead", _stack_cost(stacks))
    cookies, calls = keys["cookie"].astype(np.int64), values["calls"].astype(np.int64).sum(axis=1)
    classes = (
        ["jump"] * len(cookies)
        if hooks.backend == "userspace"
        else [class_of_cookie(cookie) for cookie in cookies.tolist()]
    )
    _overhead(sink, what, np.array(classes, "U16"), calls)


def append_counts(
    sink: Sink, hooks: Hooks, rows: Rows, *, count: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Append rows of `gpu_counts`, `gpu_memory` and `losses` as they are now; keys and values of the counts."""
    keys, values = hooks.loaded.maps["counts"].table()
    if len(keys):
        sink.append("gpu_counts", rows.counts(keys, values))
    live_keys, live = hooks.loaded.maps["live"].table()
    if len(live_keys):
        sink.append("gpu_memory", rows.memory(live_keys, live))
    _losses(sink, hooks, "gpu_counts" if count else "gpu_calls")
    return keys, values


def _losses(sink: Sink, hooks: Hooks, frame: str) -> None:
    lost = {name: int(value[()]) for name, value in hooks.loaded.globals.items() if name.startswith("lost_")}
    under_way = len(hooks.loaded.maps["pending"].table()[0])
    kept = [
        (frame, "ring full", lost["lost_ring_full"]),
        (frame, "too many calls under way at once", lost["lost_map_full"]),
        (frame, "return without entry: the call was under way at attach", lost["lost_no_entry"]),
        (frame, "entry without return: under way at the end, or left by longjmp or exit", under_way),
        ("gpu_counts", "count table full", lost["lost_counts_full"]),
        ("gpu_memory", "table of live allocations full: the bytes of their frees are 0", lost["lost_live_full"]),
    ]
    optional = [
        (frame, "more hits preempted each other than there are stack buffers", lost["lost_nested"]),
        (frame, "names of kernels (ring full)", lost["lost_names"]),
        (frame, "functions that the kernel refuses to probe", len(hooks.refused)),
    ]
    kept += [row for row in optional if row[2]]
    if not hooks.libraries:
        kept.append((frame, "no GPU library was ever mapped: nothing was hooked", 0))
    sink.append(
        "losses",
        {
            "collector": ["gpu"] * len(kept),
            "frame": [row[0] for row in kept],
            "cause": [row[1] for row in kept],
            "lost": np.array([row[2] for row in kept], np.int64),
        },
    )


def _stack_cost(cost: RunCost) -> dict[str, Any]:
    """The program at the return, which takes the stack; a small part of it is in the cost of the call as well."""
    columns = cost.rows("gpu")
    keep = [i for i, probe in enumerate(columns["probe"]) if probe == "leave"]
    kept = {
        name: column[keep] if isinstance(column, np.ndarray) else [column[i] for i in keep]
        for name, column in columns.items()
    }
    return kept | {"probe": ["stack of an API call"] * len(keep)}


def _overhead(sink: Sink, what: str, classes: NDArray[np.str_], calls: NDArray[np.int64]) -> None:
    """Entry and return of a call cost what an entry-and-return uprobe with an event does: programs of one shape."""
    rows: list[tuple[Any, ...]] = []
    for name in sorted(set(classes.tolist())):
        hits = int(calls[classes == name].sum())
        try:
            cost = calibrate.uprobe_cost(name, "call")
            rows.append((name, hits, cost.usual, cost.low, cost.high))
        except WorkbenchError:
            rows.append((name, hits, *(float("nan"),) * 3))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    hits_column, cost_column = np.array(columns[1], np.int64), np.array(columns[2], np.float64)
    sink.append(
        "overhead",
        {
            "collector": ["gpu"] * len(rows),
            "probe": [what] * len(rows),
            "instruction_class": list(columns[0]),
            "hits": hits_column,
            "cost": cost_column,
            "cost_low": np.array(columns[3], np.float64),
            "cost_high": np.array(columns[4], np.float64),
            "total": cost_column * hits_column,
        },
    )
