"""Collapsed stacks: one line ``thread;outermost;...;innermost count`` per distinct stack.

The text format of Brendan Gregg's FlameGraph scripts, also read by speedscope, inferno and most profilers. Durations
are written in microseconds, samples and hits as counts, as these tools expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from workbench.frames.calltree import grouped
from workbench.frames.view import codes, natural_frame, weights

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("Folded",)


def _safe(text: object) -> str:
    """`text` without the characters that separate frames and lines."""
    return str(text).replace(";", ":").replace("\n", " ").replace("\r", " ") or "[unknown]"


@dataclass(frozen=True, slots=True)
class Folded:
    """Writes collapsed stacks, equal ones merged, in alphabetical order."""

    name: str = "folded"
    suffix: str = ".folded"
    meaning: str = "collapsed stacks, for flamegraph.pl, inferno and speedscope"

    def write(self, recording: RecordingView, sink: BinaryIO, *, frame: str | None = None) -> None:
        """Write one line per distinct stack: counts of samples, or microseconds of calls and off-CPU times."""
        frame = frame or natural_frame(recording)
        stacks, table = grouped(recording, frame)
        weight, unit = weights(recording, frame, "count" if frame == "samples" else None)
        scale = 1e-3 if unit == "ns" else 1.0
        thread, threads = codes(table["comm"])
        key = thread * (len(stacks.ids) + 1) + stacks.positions(table["stack"].to_numpy()) + 1
        path, inverse = np.unique(key, return_inverse=True)
        load = np.bincount(inverse, weights=weight) * scale

        names = np.array([_safe(name) for name in stacks.names], dtype=object)
        texts = names[stacks.labels]
        lines: dict[str, float] = {}
        for one, value in zip(path.tolist(), load.tolist(), strict=True):
            group, where = divmod(one, len(stacks.ids) + 1)
            parts = [_safe(threads[group])]
            if where:
                low, high = stacks.offsets[where - 1], stacks.offsets[where]
                parts += texts[low:high][::-1].tolist()
            line = ";".join(parts)
            lines[line] = lines.get(line, 0.0) + value
        for line, value in sorted(lines.items()):
            sink.write(f"{line} {round(value)}\n".encode())
