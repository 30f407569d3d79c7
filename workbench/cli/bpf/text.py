"""How the sub-verbs print for people: columns that line up, values without the quotes of Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ("columns", "named", "process", "shown")


def columns(rows: Sequence[Sequence[str]], *, right: str = "") -> list[str]:
    """Lines with every column as wide as its widest cell; `right` has an r for each column that ends flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right[i : i + 1] == "r" else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def shown(value: Any) -> str:
    """A key or value: numbers and text as they are, a struct as name=value, an array in brackets."""
    if isinstance(value, dict):
        return " ".join(f"{name}={shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "[" + " ".join(map(shown, value)) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def process(pid: int) -> dict[str, Any]:
    """A process in the shape of bpftool: its pid and name (empty when it has gone)."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        name = ""
    return {"pid": pid, "comm": name}


def named(who: dict[str, Any]) -> str:
    """That process for a reader."""
    return f"{who['comm'] or 'gone'}({who['pid']})"
