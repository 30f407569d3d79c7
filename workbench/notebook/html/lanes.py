"""The interactive timeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.view import codes, optional_frame, sample_period, spans
from workbench.notebook.html.page import LIMIT, InteractiveChart, safe_json
from workbench.notebook.plot.lanes import LAYERS, Layer, begin_of, density, length_of, thread_order
from workbench.notebook.plot.style import PALETTE, duration_text

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("interactive_timeline",)

HELP = (
    "How to read: one row per thread, time runs to the right. The height of the blue area is how busy the thread was "
    "on a CPU; bars below it are calls and waits, ticks are single events. Drag across a part to zoom into it, "
    "double-click or press Escape to see all; hover for names and durations."
)
LABELS = {
    "calls": "function",
    "gpu_calls": "api",
    "offcpu": "state",
    "watches": "watch",
    "faults": "function",
}
BUDGET = LIMIT - 60_000
BINS = 600
NAMES = 2000


@dataclass(slots=True)
class _Names:
    """Texts used by the chart, the first `NAMES`; later ones become "other"."""

    index: dict[str, int] = field(default_factory=lambda: {"other": 0})

    def of(self, texts: NDArray[np.object_]) -> NDArray[np.int64]:
        out = []
        for text in texts:
            short = str(text)[:120] or "other"
            if len(self.index) < NAMES:
                self.index.setdefault(short, len(self.index))
            out.append(self.index.get(short, 0))
        return np.array(out, dtype=np.int64)


def _reduce(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    name: NDArray[np.int64],
    keep: int,
    gap: float,
) -> list[list[int]]:
    """The `keep` longest intervals by themselves, the others joined where closer than `gap`, with their number.

    Returns lists of start (as differences), length, name and count, in order of start.
    """
    if len(start) > keep:
        longest = np.argpartition(start - end, keep - 1)[:keep]
        rest = np.setdiff1d(np.arange(len(start)), longest)
        rest = rest[np.argsort(start[rest], kind="stable")]
        reach = np.maximum.accumulate(end[rest])
        opens = np.r_[True, start[rest][1:] > reach[:-1] + gap]
        first = np.flatnonzero(opens)
        last = np.r_[first[1:], len(rest)] - 1
        joined = start[rest][first], reach[last], name[rest][first], last - first + 1
        alone = start[longest], end[longest], name[longest], np.ones(len(longest), np.int64)
        start, end, name, count = (np.concatenate(pair) for pair in zip(alone, joined, strict=True))
    else:
        count = np.ones(len(start), dtype=np.int64)
    order = np.argsort(start, kind="stable")
    first_ = np.diff(start[order], prepend=0)
    return [column.tolist() for column in (first_, (end - start)[order], name[order], count[order])]


def _thread(
    tid: int,
    comm: str,
    tables: list[tuple[Layer, pd.DataFrame, NDArray[np.int64]]],
    load: list[int] | None,
    scale: tuple[int, int, int],
    keep: int,
) -> dict[str, Any]:
    zero, tick, length = scale
    lanes = []
    for layer, table, name in tables:
        mine = table["tid"].to_numpy() == tid
        start, end, _ = spans(table)
        begin, finish = (start[mine] - zero) // tick, (end[mine] - zero) // tick
        reduced = _reduce(begin, finish, name[mine], keep, length / 2000)
        lanes.append({"title": layer.title, "color": layer.color, "spans": reduced})
    return {"tid": tid, "name": comm, "load": load, "lanes": lanes}


def interactive_timeline(
    recording: RecordingView, *, threads: int = 16, title: str | None = None
) -> InteractiveChart:
    """What every thread did over time, to zoom into in a notebook; no network, at most about 1 MB of HTML.

    Where there are more calls, waits or events than fit, the longest are kept one by one and the others are joined
    into blocks that say how many they stand for.

    Parameters
    ----------
    threads : int
        Show the busiest threads, at most so many.

    Returns
    -------
    InteractiveChart

    Raises
    ------
    MissingFrame
        No frame with times was recorded.
    """
    chosen = thread_order(recording, threads)
    zero = begin_of(recording)
    length_ns = max(1, int(length_of(recording, zero) * 1e9))
    tick = max(1, length_ns // 10_000_000)
    length = -(-length_ns // tick)
    names = _Names()
    tables = []
    for layer in LAYERS:
        table = optional_frame(recording, layer.frame)
        if table is not None:
            code, texts = codes(table[LABELS[layer.frame]])
            tables.append((layer, table, names.of(texts)[code]))
    loads = _loads(recording, [tid for tid, _ in chosen], zero, length_ns)
    rows = {layer.frame: len(table) for layer, table, _ in tables}
    legend = [["on CPU", PALETTE[0]]] + [[layer.title, layer.color] for layer, _, _ in tables]
    title = title or f"{recording.name}: threads over time"
    keep = max(50, 40_000 // max(1, len(chosen) * len(tables)))
    while True:
        drawn = [
            _thread(tid, comm, tables, loads.get(tid), (zero, tick, length), keep)
            for tid, comm in chosen
        ]
        shown = sum(len(lane["spans"][0]) for one in drawn for lane in one["lanes"])
        total = sum(rows.values())
        note = f" · {total:,} events drawn as {shown:,} marks" if shown < total else ""
        data = {
            "title": title,
            "help": HELP,
            "note": note,
            "tick": tick,
            "length": length,
            "legend": legend,
            "names": list(names.index),
            "threads": drawn,
        }
        if keep <= 1 or len(safe_json(data).encode()) <= BUDGET:
            break
        keep = keep * 2 // 3
    return InteractiveChart("timeline", data, _text(title, chosen, loads, tables, length_ns))


def _loads(
    recording: RecordingView, tids: list[int], zero: int, length: int
) -> dict[int, list[int]]:
    """Percent of each bin that every thread spent on a CPU; empty without samples."""
    samples = optional_frame(recording, "samples")
    if samples is None:
        return {}
    period = sample_period(recording)
    bins = int(np.clip(length / (10 * period), 1, BINS)) if period else BINS
    edges = np.linspace(0, length, bins + 1)
    time = samples["time"].to_numpy(np.int64) - zero
    owner = samples["tid"].to_numpy()
    return {
        tid: np.rint(100 * density(time[owner == tid].astype(float), period, edges))
        .astype(int)
        .tolist()
        for tid in tids
    }


def _text(
    title: str,
    chosen: list[tuple[int, str]],
    loads: dict[int, list[int]],
    tables: list[tuple[Layer, pd.DataFrame, NDArray[np.int64]]],
    length: int,
) -> str:
    """One line per thread: how busy, and how many of each kind of event."""
    lines = [f"{title}, {duration_text(length)}"]
    for tid, comm in chosen:
        parts = [f"{comm} ({tid})".ljust(26)]
        if tid in loads:
            parts.append(f"on CPU {np.mean(loads[tid]):3.0f} %")
        for layer, table, _ in tables:
            count = int((table["tid"].to_numpy() == tid).sum())
            if count:
                parts.append(f"{count:,} {layer.title}")
        lines.append("  ".join(parts))
    return "\n".join(lines)
