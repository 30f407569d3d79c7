"""The report of a recording: what it is and what stands out, as text, as JSON and as HTML.

Only sections of frames that the recording holds appear. Every number in the JSON has its unit in its key.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.view import first_of, left_out, manifest_value, optional_frame
from workbench.notebook.plot.flame import fit
from workbench.notebook.plot.functions import top as top_functions
from workbench.notebook.plot.latency import Latencies, bucketed, latencies
from workbench.notebook.plot.style import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from workbench.frames.view import RecordingView

__all__ = ("Report", "Section", "report")

NAME = 60
"""Longest text of a cell; JSON has all of it."""


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a report.

    Parameters
    ----------
    name : str
        Key in the JSON.
    title : str
        Heading.
    rows : tuple of dict
        Equal keys in each; a key that ends in ``_ns`` or ``_percent`` says the unit of its number.
    omitted : int
        Rows that the table left out.
    """

    name: str
    title: str
    rows: tuple[dict[str, Any], ...]
    omitted: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of the rows."""
        return tuple(self.rows[0]) if self.rows else ()

    def cells(self) -> list[list[str]]:
        """The rows as readable text."""
        return [[_cell(key, value) for key, value in row.items()] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Report:
    """A report; `print` it, show it in a notebook, or take `to_json()`."""

    header: dict[str, Any]
    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: ``{"header": {...}, "sections": {name: [row, ...]}}``."""
        return {
            "header": dict(self.header),
            "sections": {one.name: [dict(row) for row in one.rows] for one in self.sections},
        }

    def __str__(self) -> str:
        width = max(len(_label(key)) for key in self.header)
        lines = [
            f"{_label(key):<{width}}  {_fact(key, value)}" for key, value in self.header.items()
        ]
        for one in self.sections:
            lines += ["", one.title, *_table(one)]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text that IPython shows and saves beside the HTML."""
        printer.text(str(self))

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{html.escape(_label(key))}</th>"
            f"<td style='text-align:left'>{html.escape(_fact(key, value))}</td></tr>"
            for key, value in self.header.items()
        )
        parts = [f"<table>{facts}</table>"]
        for one in self.sections:
            head = "".join(_html_cell("th", key, _label(key)) for key in one.columns)
            body = "".join(
                "<tr>"
                + "".join(
                    _html_cell("td", key, text) for key, text in zip(one.columns, row, strict=True)
                )
                + "</tr>"
                for row in one.cells()
            )
            more = f"<p>{one.omitted:,} more</p>" if one.omitted else ""
            parts.append(
                f"<h4>{html.escape(one.title)}</h4><table><thead><tr>{head}</tr></thead>"
                f"<tbody>{body}</tbody></table>{more}"
            )
        return f"<div class='wb-report'>{''.join(parts)}</div>"


NUMBERS = (
    "_ns",
    "_percent",
    "_bytes",
    "count",
    "rows",
    "errors",
    "hits",
    "samples",
    "calls",
    "lost",
    "bytes",
)


def _numeric(key: str) -> bool:
    return key.endswith(NUMBERS)


def _html_cell(tag: str, key: str, text: str) -> str:
    side = "right" if _numeric(key) else "left"
    return f"<{tag} style='text-align:{side};padding:0 0.6em'>{html.escape(text)}</{tag}>"


def _label(key: str) -> str:
    return key.removesuffix("_ns").replace("_percent", " %").replace("_", " ")


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.endswith("_ns"):
        return duration_text(float(value))
    if key.endswith("_percent"):
        return f"{value:.1f}"
    if isinstance(value, int):
        return f"{value:,}" if _numeric(key) else str(value)
    return fit(str(value), NAME)


def _fact(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(key, one)}" for name, one in value.items()) or "none"
    if key == "left_out":
        return first_of(value)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return _cell(key, value) if key.endswith("_ns") else str(value)


def _table(section: Section) -> list[str]:
    head = [_label(key) for key in section.columns]
    rows = section.cells()
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    right = [_numeric(key) for key in section.columns]
    lines = []
    for row in [head, *rows]:
        cells = zip(row, widths, right, strict=True)
        line = "  ".join(
            cell.rjust(width) if to else cell.ljust(width) for cell, width, to in cells
        )
        lines.append(f"  {line}".rstrip())
    if section.omitted:
        lines.append(f"  ... {section.omitted:,} more")
    return lines


def _header(recording: RecordingView) -> dict[str, Any]:
    start, host = manifest_value(recording, "start"), manifest_value(recording, "host")
    losses: dict[str, int] = {}
    table = optional_frame(recording, "losses")
    if table is not None:
        for frame, lost in zip(table["frame"].astype(str), table["lost"].tolist(), strict=True):
            losses[frame] = losses.get(frame, 0) + int(lost)
    else:
        losses = dict(manifest_value(recording, "lost", default={}))
    system = f"{getattr(host, 'system', '')} {getattr(host, 'kernel', '')}".strip()
    name = getattr(host, "hostname", "")
    facts = {
        "recording": recording.name,
        "command": list(manifest_value(recording, "command", default=())) or None,
        "pid": manifest_value(recording, "pid"),
        "started": getattr(start, "wall", "") or None,
        "duration_ns": manifest_value(recording, "duration_ns") or None,
        "host": ", ".join(filter(None, (name, system, getattr(host, "cpu", "")))) or None,
        # The recording knows better than its manifest: a recorder that was killed could not write its end.
        "status": getattr(recording, "status", None) or manifest_value(recording, "status"),
        "reason": manifest_value(recording, "reason") or None,
    }
    facts["counts"] = getattr(recording, "counts_as_of", "") or None
    facts["never_hit"] = _never_hit(recording) or None
    notes = manifest_value(recording, "notes", default={})
    facts["left_out"] = left_out(notes) or None
    facts["notes"] = "; ".join(map(str, notes.get("warnings", ()))) or None
    facts["lost_events"] = {frame: lost for frame, lost in losses.items() if lost}
    facts["overhead_ns"] = _overhead(recording)
    if facts["status"] == "interrupted":
        facts |= _interrupted(recording, facts["overhead_ns"])
    return {key: value for key, value in facts.items() if value is not None}


def _interrupted(recording: RecordingView, overhead: dict[str, float]) -> dict[str, Any]:
    """What nobody knows of a recorder that was killed, and what it may have left in the target."""
    facts: dict[str, Any] = {}
    if not overhead:
        facts |= {"overhead_ns": None, "overhead": "unknown: it is computed when a recording ends"}
    options = manifest_value(recording, "options", default={})
    if str(options.get("backend", "")).startswith("userspace"):
        facts["left_behind"] = (
            "hooks and memory of the workbench may still be in the target: "
            "`workbench bpf links` lists what is attached, `workbench bpf gc` takes out what is left"
        )
    return facts


def _never_hit(recording: RecordingView) -> list[str]:
    """Probes and watchpoints that were attached and saw nothing: in no frame, so no table shows them."""
    seen = {
        text
        for name, column in (("probe_counts", "probe"), ("calls", "probe"), ("watches", "watch"))
        if (table := optional_frame(recording, name)) is not None
        for text in table[column].astype(str).unique()
    }
    asked = [str(name) for name in manifest_value(recording, "notes", default={})]
    asked = [one.removeprefix("probe ") for one in asked if re.match("probe |r?watch:", one)]
    return [one for one in asked if one not in seen]


def _overhead(recording: RecordingView) -> dict[str, float]:
    table = optional_frame(recording, "overhead")
    if table is None:
        return {
            str(k): float(v)
            for k, v in manifest_value(recording, "overhead_ns", default={}).items()
        }
    sums = table.astype({"collector": str}).groupby("collector")["total"].sum()
    return {str(name): float(total) for name, total in sums.items()}


def _functions(recording: RecordingView, top: int) -> Section | None:
    if any(optional_frame(recording, name) is None for name in ("samples", "stacks")):
        return None
    every = top_functions(recording, "samples", rows=1 << 30)
    rows = tuple(
        {
            "self_percent": round(float(row["self %"]), 3),
            "total_percent": round(float(row["total %"]), 3),
            "self_samples": int(row["self"]),
            "function": str(row["function"]),
            "module": str(row["module"]),
        }
        for row in every.head(top).to_dict("records")
    )
    return Section("functions", "Functions by CPU samples", rows, max(0, len(every) - top))


def _latency(durations: pd.Series[Any] | None) -> dict[str, Any]:
    """Sum and percentiles of the durations that were recorded (-1 means none)."""
    length = np.empty(0, np.int64) if durations is None else durations.to_numpy(np.int64)
    length = length[length >= 0]
    if not len(length):
        return dict.fromkeys(("total_ns", "p50_ns", "p99_ns", "max_ns"))
    return {
        "total_ns": int(length.sum()),
        "p50_ns": int(np.quantile(length, 0.5, method="inverted_cdf")),
        "p99_ns": int(np.quantile(length, 0.99, method="inverted_cdf")),
        "max_ns": int(length.max()),
    }


def _bucketed(one: Latencies) -> dict[str, Any]:
    """Sum and percentiles of latencies that were counted in buckets."""
    if not one.calls:
        return _latency(None)
    return {
        "total_ns": round(one.total),
        "p50_ns": round(one.quantile(0.5)),
        "p99_ns": round(one.quantile(0.99)),
        "max_ns": round(float(one.high.max())),
    }


def _groups(table: pd.DataFrame | None, *names: str) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """The rows of each combination of texts, the largest group first."""
    found: list[tuple[dict[str, str], pd.DataFrame]] = []
    if table is None:
        return found
    for key, mine in table.astype(dict.fromkeys(names, str)).groupby(list(names), sort=True):
        texts = key if isinstance(key, tuple) else (key,)
        found.append((dict(zip(names, map(str, texts), strict=True)), mine))
    return sorted(found, key=lambda one: -len(one[1]))


def _limited(name: str, title: str, rows: list[dict[str, Any]], top: int) -> Section | None:
    return Section(name, title, tuple(rows[:top]), max(0, len(rows) - top)) if rows else None


def _probes(recording: RecordingView, top: int) -> Section | None:
    """Hits as the kernel counted them where it did (`probe_counts` is complete, `calls` may have lost rows)."""
    names = ("probe", "function")
    calls, counts, buckets = (
        {tuple(texts.values()): mine for texts, mine in _groups(table, *names)}
        for table in (
            optional_frame(recording, one) for one in ("calls", "probe_counts", "probe_latencies")
        )
    )
    rows = []
    for key in dict.fromkeys([*counts, *calls, *buckets]):
        recorded = len(calls[key]) if key in calls else 0
        count = recorded
        if key in counts:
            # A return probe alone counts no entries.
            count = int(max(counts[key]["hits"].sum(), counts[key]["returns"].sum()))
        row: dict[str, Any] = {
            "probe": key[0],
            "function": key[1],
            "count": count,
            "rows": recorded,
        }
        if key in buckets:
            row |= _bucketed(bucketed(key[1], buckets[key]))
        else:
            row |= _latency(calls[key]["duration"] if key in calls else None)
        rows.append(row)
    rows.sort(key=lambda row: -int(row["count"]))
    return _limited("probes", "Probes", rows, top)


def _watches(recording: RecordingView, top: int) -> Section | None:
    table = optional_frame(recording, "watches")
    if table is None:
        return None
    names = ("watch", "access", "ip", "function", "line")
    rows = [
        {"hits": len(mine), **texts, "ip": f"{int(texts['ip']):#x}"}
        for texts, mine in _groups(table[list(names)], *names)
    ]
    return _limited("watches", "Watchpoint hits by instruction", rows, top)


def _gpu(recording: RecordingView, top: int) -> Section | None:
    table = optional_frame(recording, "gpu_calls")
    if table is None:
        return None
    rows = [
        {
            **texts,
            "calls": len(mine),
            "bytes": int(mine["bytes"].sum()),
            "errors": int((mine["result"] != 0).sum()),
            **_latency(mine["duration"]),
        }
        for texts, mine in _groups(table, "layer", "api", "kind")
    ]
    return _limited("gpu", "GPU API calls", rows, top)


def _syscalls(recording: RecordingView, top: int) -> Section | None:
    table = optional_frame(recording, "syscalls")
    if table is None or not table["count"].any():
        return None
    errors = table.astype({"syscall": str}).groupby("syscall")["errors"].sum()
    rows = [
        {
            "syscall": one.name,
            "calls": one.calls,
            "errors": int(errors[one.name]),
            **_bucketed(one),
        }
        for one in latencies(recording, "syscalls")
    ]
    return _limited("syscalls", "System calls (percentiles from latency buckets)", rows, top)


def _waits(recording: RecordingView, top: int) -> Section | None:
    table = optional_frame(recording, "offcpu")
    if table is None:
        return None
    # Rows whose run-queue part is unknown hold -1 and count as none.
    rows = [
        {
            "thread": texts["comm"],
            "state": texts["state"],
            "count": len(mine),
            "runqueue_ns": int(mine["runqueue"].clip(lower=0).sum()),
            **_latency(mine["duration"]),
        }
        for texts, mine in _groups(table, "comm", "state")
    ]
    rows.sort(key=lambda row: -int(row["total_ns"] or 0))
    return _limited("offcpu", "Off-CPU time", rows, top)


def _faults(recording: RecordingView, top: int) -> Section | None:
    table = optional_frame(recording, "faults")
    if table is None:
        return None
    names = ("function", "mapping", "access")
    rows = [{"count": len(mine), **texts} for texts, mine in _groups(table[list(names)], *names)]
    return _limited("faults", "Page faults", rows, top)


SECTIONS: tuple[Callable[[RecordingView, int], Section | None], ...] = (
    _functions,
    _probes,
    _watches,
    _gpu,
    _syscalls,
    _waits,
    _faults,
)


def report(recording: RecordingView, top: int = 20) -> Report:
    """What a recording is and what stands out in it.

    Parameters
    ----------
    recording : recording
        Loaded, or still being written.
    top : int
        Rows per section.

    Returns
    -------
    Report
        Header (command, start, duration, host, status, losses, overhead) and one section per frame that exists:
        functions, probes, watches, gpu, syscalls, offcpu, faults.
    """
    found = (make(recording, top) for make in SECTIONS)
    return Report(_header(recording), tuple(one for one in found if one is not None))
