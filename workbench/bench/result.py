"""What a benchmark returns, prints and is judged by."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ("BenchResult", "Check", "Row", "host")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number.

    Parameters
    ----------
    name : str
        What was measured.
    value : float
        The number, in `unit`.
    unit : str
        Unit of `value`.
    peer : str
        What it is compared with; empty where there is nothing to compare.
    ratio : float or None
        `value` over the peer's value, from the same run.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A number that must keep to a limit; `at_most` and `at_least` build it."""

    name: str
    limit: float
    value: float
    ok: bool

    @classmethod
    def at_most(cls, name: str, value: float, limit: float) -> Check:
        """Passes when `value` <= `limit`; not a number fails."""
        return cls(name, limit, value, value <= limit)

    @classmethod
    def at_least(cls, name: str, value: float, limit: float) -> Check:
        """Passes when `value` >= `limit`; not a number fails."""
        return cls(name, limit, value, value >= limit)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Rows and checks of one run of a benchmark."""

    bench: str
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The document that `workbench bench NAME --json` prints; null stands for what could not be measured."""
        return {
            "bench": self.bench,
            "host": host(),
            "rows": [_finite(asdict(row)) for row in self.rows],
            "checks": [_finite(asdict(check)) for check in self.checks],
        }

    def __str__(self) -> str:
        lines = [f"{self.bench} on {host()}"]
        width = max((len(row.name) for row in self.rows), default=0)
        for row in self.rows:
            versus = "" if row.ratio is None else f"  = {row.ratio:.3g} x {row.peer}"
            lines.append(f"  {row.name.ljust(width)}  {row.value:12.5g} {row.unit}{versus}")
        lines += [
            f"  {'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.value:.4g} (limit {check.limit:g})"
            for check in self.checks
        ]
        return "\n".join(lines)


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }


def host() -> str:
    """One line naming the machine: processor, CPUs online to us, kernel, Python."""
    processor = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}"
    return f"{processor}, {cpus} CPUs, {system}, Python {platform.python_version()}"
