"""How the sub-verbs print for people: columns that line up, values without the quotes of Python, what takes long."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ("columns", "named", "process", "shown", "under_way")


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


@contextlib.contextmanager
def under_way(text: str, after: float = 2.0) -> Iterator[None]:
    """Say on a terminal, from `after` seconds on, what is still being done and for how long."""
    if not sys.stderr.isatty():
        yield
        return
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        said = False
        wait = after
        while not done.wait(wait):
            said, wait = True, 0.5
            print(f"\r\033[K{text} ... {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        if said:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
