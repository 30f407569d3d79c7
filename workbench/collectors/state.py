"""What a recording says of itself while it runs: the numbers behind progress lines and the widget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ("CollectorState", "Phase", "State")

Phase = Literal["new", "recording", "finishing", "done"]


@dataclass(frozen=True, slots=True)
class CollectorState:
    """Live numbers of one collector: rows so far and events lost so far."""

    name: str
    events: int
    lost: int


@dataclass(frozen=True, slots=True)
class State:
    """Live numbers of a recording. `remaining` is seconds to go, None where only the target decides."""

    phase: Phase
    elapsed: float
    remaining: float | None
    progress: float
    collectors: tuple[CollectorState, ...]

    def __str__(self) -> str:
        parts = [
            f"{c.name} {c.events:,}" + (f" ({c.lost:,} lost)" if c.lost else "")
            for c in self.collectors
        ]
        if self.phase == "finishing":
            return f"writing {self.progress:.0%}: {', '.join(parts)}"
        left = f", {max(self.remaining, 0.0):.0f} s to go" if self.remaining is not None else ""
        return f"{self.phase} {self.elapsed:.1f} s{left}: {', '.join(parts)}"
