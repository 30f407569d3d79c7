"""Column `function` of `offcpu`: where user code left the CPU, not where the kernel did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.frames.recording import Recording
from workbench.frames.writer import RecordingWriter

KERNEL = 0xFFFF_FFFF_8000_0000


def rows(stacks: Any) -> dict[str, Any]:
    count = len(stacks)
    numbers = np.arange(count)
    return {
        "time": numbers, "pid": numbers * 0 + 1, "tid": numbers * 0 + 1, "cpu": numbers * 0,
        "comm": ["a"] * count, "duration": numbers, "runqueue": numbers, "state": ["sleeping"] * count,
        "stack": stacks, "waker_pid": numbers * 0 - 1, "waker_tid": numbers * 0 - 1,
        "waker_comm": [""] * count, "waker_stack": numbers * 0 - 1,
    }  # fmt: skip


def test_interned_stacks(tmp_path: Path) -> None:
    chains = [
        [KERNEL, KERNEL + 16, 0x401000, 0x402000],
        [KERNEL, KERNEL + 16],  # a thread of the kernel
        [0x403000],
    ]
    with RecordingWriter(tmp_path / "r") as writer:
        flat = np.array([address for chain in chains for address in chain], np.uint64)
        lengths = np.array([len(chain) for chain in chains], np.int32)
        stacks = writer.intern(np.ones(3, np.int32), flat, lengths)
        writer.append("offcpu", rows([*stacks, -1]))
    recording = load(tmp_path)
    functions = list(recording.offcpu["function"])
    names = recording.stacks.set_index(["stack", "depth"])["function"]
    assert functions == [names[0, 2], names[1, 0], names[2, 0], ""]
    assert functions[0] == "0x401000" and functions[2] == "0x403000"


def test_given_stacks(tmp_path: Path) -> None:
    frames = pd.DataFrame(
        [
            (0, 0, "kernel", "schedule"), (0, 1, "kernel", "read"), (0, 2, "user", "wait"), (0, 3, "user", "main"),
            (1, 0, "kernel", "worker"), (1, 1, "kernel", "thread"),
            (2, 1, "python", "outer"), (2, 0, "python", "inner"),
        ],
        columns=["stack", "depth", "space", "function"],
    )  # fmt: skip
    with RecordingWriter(tmp_path / "r") as writer:
        writer.append(
            "stacks",
            {name: frames[name].to_numpy() for name in ("stack", "depth")}
            | {name: list(frames[name]) for name in ("space", "function")}
            | {
                "pid": np.ones(len(frames), np.int32), "address": np.zeros(len(frames), np.uint64),
                "module": [""] * len(frames), "line": [""] * len(frames), "inlined": np.zeros(len(frames), bool),
            },
        )  # fmt: skip
        writer.append("offcpu", rows([0, 1, 2, -1, 7]))
    assert list(load(tmp_path).offcpu["function"]) == ["wait", "worker", "inner", "", ""]


def load(folder: Path) -> Recording:
    import workbench as wb

    return wb.load(folder / "r")
