"""speedscope's JSON file format: one sampled profile per thread, weights in nanoseconds.

Format: the FileFormat declarations of the speedscope project (https://www.speedscope.app/file-format-schema.json).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

import workbench
from workbench.frames.calltree import StackTable, grouped
from workbench.frames.view import codes, natural_frame, weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("Speedscope",)

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def _frames(stacks: StackTable) -> str:
    out: list[dict[str, Any]] = []
    for name, module in zip(stacks.names, stacks.modules, strict=True):
        one = {"name": str(name)}
        if module:
            one["file"] = str(module)
        out.append(one)
    return json.dumps([*out, {"name": "[no stack]"}])


def _stack_texts(stacks: StackTable) -> NDArray[np.object_]:
    """Each stack as JSON text, outermost first; the last entry is for rows without a stack."""
    labels = stacks.labels
    texts = np.empty(len(stacks.ids) + 1, dtype=object)
    for i, (low, high) in enumerate(
        zip(stacks.offsets[:-1].tolist(), stacks.offsets[1:].tolist(), strict=True)
    ):
        texts[i] = str(labels[low:high][::-1].tolist())
    texts[-1] = f"[{len(stacks.names)}]"
    return texts


@dataclass(frozen=True, slots=True)
class Speedscope:
    """Writes speedscope JSON. Rows are kept one by one in time order, so "time order" view works."""

    name: str = "speedscope"
    suffix: str = ".speedscope.json"
    meaning: str = "JSON of https://www.speedscope.app, one profile per thread"

    def write(self, recording: RecordingView, sink: BinaryIO, *, frame: str | None = None) -> None:
        """Write every thread of `frame` as one sampled profile, the busiest thread first."""
        frame = frame or natural_frame(recording)
        stacks, table = grouped(recording, frame)
        weight, unit = weights(recording, frame)
        whole = np.rint(weight).astype(np.int64)
        position = stacks.positions(table["stack"].to_numpy())
        texts = _stack_texts(stacks)
        thread = table["tid"].to_numpy()
        comm, names = codes(table["comm"])
        order = np.lexsort((table["time"].to_numpy(), thread))
        tids, starts = np.unique(thread[order], return_index=True)
        spans = list(zip(starts, [*starts[1:], len(order)], strict=True))
        loads = [int(whole[order[low:high]].sum()) for low, high in spans]

        head = json.dumps(
            {
                "$schema": SCHEMA,
                "name": recording.name,
                "exporter": f"bpf-workbench@{workbench.__version__}",
                "activeProfileIndex": 0,
            }
        )
        sink.write(
            f'{head[:-1]}, "shared": {{"frames": {_frames(stacks)}}}, "profiles": ['.encode()
        )
        unit = "nanoseconds" if unit == "ns" else "none"
        for rank, i in enumerate(np.argsort([-load for load in loads], kind="stable").tolist()):
            rows = order[spans[i][0] : spans[i][1]]
            title = f"{names[comm[rows[-1]]]} (tid {tids[i]})"
            start = json.dumps(
                {
                    "type": "sampled",
                    "name": title,
                    "unit": unit,
                    "startValue": 0,
                    "endValue": loads[i],
                }
            )
            samples = ",".join(texts[position[rows]].tolist())
            sink.write(
                f'{"," if rank else ""}{start[:-1]}, "samples": [{samples}], "weights": '.encode()
            )
            sink.write(f"{whole[rows].tolist()}}}".encode())
        sink.write(b"]}\n")
