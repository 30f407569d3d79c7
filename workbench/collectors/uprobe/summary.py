"""What a uprobe collector says at its end: counts, latencies, losses, overhead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors import calibrate
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink
    from workbench.collectors.uprobe.attachment import Attachment
    from workbench.collectors.uprobe.options import Options
    from workbench.collectors.uprobe.plan import Plan

__all__ = ("append_counts", "append_summary", "bucket_bounds")

PER_OCTAVE = 4


def bucket_bounds(bucket: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lower (inclusive) and upper (exclusive) end of latency buckets: four per power of two, 0 to 3 exact."""
    number = bucket.astype(np.int64)
    octave, part = number // PER_OCTAVE, number % PER_OCTAVE
    step = np.int64(1) << np.maximum(octave - 1, 0)
    low = np.where(octave == 0, part, (part + PER_OCTAVE) * step)
    return low, low + np.where(octave == 0, 1, step)


def append_summary(sink: Sink, options: Options, plan: Plan, attachment: Attachment) -> None:
    """Append rows of `probe_counts`, `probe_latencies`, `losses` and `overhead`."""
    hits, returns = append_counts(sink, options, plan, attachment)
    _overhead(sink, options, plan, hits if options.entries else returns)


def append_counts(
    sink: Sink, options: Options, plan: Plan, attachment: Attachment
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Append rows of `probe_counts`, `probe_latencies` and `losses` as they are now; hits and returns by site."""
    hits, returns = _counts(sink, options, plan, attachment)
    if options.latency:
        _latencies(sink, options, plan, attachment)
    _losses(sink, options, attachment, hits, returns)
    return hits, returns


def _names(options: Options, plan: Plan, sites: NDArray[Any]) -> dict[str, Any]:
    return {
        "probe": [options.text] * len(sites),
        "function": [plan.sites[i].function for i in sites.tolist()],
        "module": [plan.sites[i].place.module for i in sites.tolist()],
    }


def _counts(
    sink: Sink, options: Options, plan: Plan, attachment: Attachment
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    keys, values = attachment.loaded.maps["counts"].table()
    sums = {
        name: values[name].astype(np.int64).sum(axis=1) for name in ("hits", "returns", "duration")
    }
    site = keys["site"].astype(np.int64)
    order = np.lexsort((keys["pid"], site))
    site = site[order]
    columns = _names(options, plan, site) | {
        "pid": keys["pid"][order].astype(np.int32),
        "hits": sums["hits"][order],
        "returns": sums["returns"][order],
        "total_duration": sums["duration"][order],
    }
    if len(site):
        sink.append("probe_counts", columns)
    count = len(plan.sites)
    hits = np.bincount(site, sums["hits"][order], count).astype(np.int64)
    returns = np.bincount(site, sums["returns"][order], count).astype(np.int64)
    return hits, returns


def _latencies(sink: Sink, options: Options, plan: Plan, attachment: Attachment) -> None:
    keys, values = attachment.loaded.maps["latencies"].table()
    if not len(keys):
        return
    order = np.lexsort((keys["bucket"], keys["pid"], keys["site"]))
    keys, values = keys[order], values[order]
    low, high = bucket_bounds(keys["bucket"])
    columns = _names(options, plan, keys["site"].astype(np.int64)) | {
        "pid": keys["pid"].astype(np.int32),
        "bucket_low": low,
        "bucket_high": high,
        "count": values["count"].astype(np.int64).sum(axis=1),
        "total": values["total"].astype(np.int64).sum(axis=1),
    }
    sink.append("probe_latencies", columns)


def _losses(
    sink: Sink,
    options: Options,
    attachment: Attachment,
    hits: NDArray[np.int64],
    returns: NDArray[np.int64],
) -> None:
    lost = {
        name: int(value[()])
        for name, value in attachment.loaded.globals.items()
        if name.startswith("lost_")
    }
    frame = "calls" if options.events else "probe_counts"
    rows = [
        (frame, "ring full", lost["lost_ring_full"]),
        ("probe_counts", "count table full", lost["lost_counts_full"]),
    ]
    if options.stacks != "no":
        rows.append(
            (
                frame,
                "more hits preempted each other than there are stack buffers",
                lost["lost_nested"],
            )
        )
    if options.join:
        rows += [
            (frame, "too many calls under way at once", lost["lost_map_full"]),
            (
                frame,
                "return without entry: the call was under way at attach",
                lost["lost_no_entry"],
            ),
            (
                frame,
                "entry without return: under way at detach, left by longjmp or exit, or deeper than the kernel's 64",
                max(int(hits.sum() - returns.sum()) - lost["lost_map_full"], 0),
            ),
        ]
    sink.append(
        "losses",
        {
            "collector": [options.kind] * len(rows),
            "frame": [row[0] for row in rows],
            "cause": [row[1] for row in rows],
            "lost": np.array([row[2] for row in rows], np.int64),
        },
    )


def _overhead(sink: Sink, options: Options, plan: Plan, hits: NDArray[np.int64]) -> None:
    mode: calibrate.Mode = (
        "count" if not options.events and not options.join else "call" if options.join else "event"
    )
    stack_bytes = {"no": -1, "fp": 0, "yes": options.copy}[options.stacks]
    classes = np.array([site.instruction_class for site in plan.sites])
    rows: dict[str, list[Any]] = {
        key: [] for key in ("probe", "class", "hits", "cost", "low", "high")
    }
    for name in sorted(set(classes.tolist())):
        total = int(hits[classes == name].sum())
        try:
            cost = calibrate.uprobe_cost(
                name, mode, on_return=options.kind == "uretprobe", stack_bytes=stack_bytes
            )
            values = (cost.usual, cost.low, cost.high)
        except WorkbenchError:
            values = (float("nan"),) * 3
        for key, value in zip(rows, (options.text, name, total, *values), strict=True):
            rows[key].append(value)
    cost_column = np.array(rows["cost"], np.float64)
    sink.append(
        "overhead",
        {
            "collector": [options.kind] * len(rows["probe"]),
            "probe": rows["probe"],
            "instruction_class": rows["class"],
            "hits": np.array(rows["hits"], np.int64),
            "cost": cost_column,
            "cost_low": np.array(rows["low"], np.float64),
            "cost_high": np.array(rows["high"], np.float64),
            "total": cost_column * np.array(rows["hits"], np.float64),
        },
    )
