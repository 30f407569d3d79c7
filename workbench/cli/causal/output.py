"""What a run tells: how far it is, and what it gave."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from workbench.frames.recording import Recording

__all__ = ("VOID", "sayer", "show")

VOID = 1
"""Exit status of a run that cannot be believed."""


def sayer(quiet: bool) -> Callable[[str], None] | None:
    """What tells how far a run is: on a terminal one line that changes."""
    if quiet:
        return None
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        if live:
            print(f"\r\x1b[Kcausal: {text}", end="", file=sys.stderr, flush=True)
        else:
            print(f"causal: {text}", file=sys.stderr, flush=True)

    return say


def show(recording: Recording, as_json: bool) -> int:
    """Print what a run gave; its exit status: 1 if it cannot be believed, 130 after Ctrl-C."""
    notes = recording.manifest.notes
    gate, warnings = notes.get("gate", {}), notes.get("warnings", [])
    table = recording.frame("causal_profile")
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(recording.path),
                    "status": recording.status,
                    "backend": notes.get("backend", {}),
                    "gate": gate,
                    "warnings": warnings,
                    "experiments": int(recording.rows["experiments"]),
                    "profile": json.loads(table.to_json(orient="records", double_precision=15)),
                }
            )
        )
    else:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(_table(table))
        for warning in warnings:
            print(f"warning: {warning}")
        print(f"{'' if gate.get('ok') else 'VOID: '}{gate.get('reason', '')}")
        print(f"recording: {recording.path}")
        if backend := notes.get("backend"):
            print(f"backend: {backend['name']} ({backend['why']})")
        if recording.status != "complete":
            print(f"{recording.status}: {recording.manifest.reason}")
    if recording.status != "complete":
        return 130 if recording.status == "interrupted" else 1
    return 0 if gate.get("ok") else VOID


def _table(frame: pd.DataFrame) -> str:
    """The regions that promise most first."""
    if frame.empty:
        return "no experiment counts: see the frame `experiments` for the reasons"
    best = frame.groupby(["point", "region"], observed=True)["change"].transform("min")
    ordered = frame.assign(best=best.fillna(0)).sort_values(
        ["point", "best", "region", "speedup"], kind="stable"
    )
    rows = [("progress point", "region", "faster", "period", "change", "95 % interval", "n")]
    for one in ordered.to_dict("records"):
        low, high = float(one["low"]), float(one["high"])
        interval = f"{low:+.1f} to {high:+.1f} %" if low == low else "-"
        change = float(one["change"])
        rows.append(
            (
                str(one["point"]),
                str(one["region"]),
                f"{float(one['speedup']):.0%}",
                f"{float(one['period']) / 1e6:.3f} ms",
                f"{change:+.1f} %" if change == change else "-",
                interval,
                str(one["experiments"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
