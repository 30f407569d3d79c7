"""Real recordings on disk, made with the writer, for tests of everything that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.frames.recording import Recording

NAMES = ["main", "worker", "flusher"]


def samples(start: int, rows: int) -> dict[str, Any]:
    """Rows `start` to `start + rows` of a made-up frame `samples` in which every value follows from the row."""
    row = np.arange(start, start + rows)
    return {
        "time": row * 1_000_000 + 7,
        "pid": np.full(rows, 100, np.int32),
        "tid": (100 + row % 3).astype(np.int32),
        "cpu": (row % 2).astype(np.int32),
        "comm": (row % 3, NAMES),
        "stack": (row % 5).astype(np.int32) - 1,
    }


def intern_stacks(writer: RecordingWriter) -> None:
    """Stacks 0 to 3, of which 3 has a kernel part; nothing of them resolves."""
    writer.intern(
        np.full(4, 100, np.int32),
        np.array([0x1000, 0x1001, 0x2000, 0x1000, (1 << 63) + 8, 0x1001, 0x2000], np.uint64),
        np.array([1, 1, 2, 3], np.int32),
    )


def small(path: Path, rows: int = 1000, **options: Any) -> Recording:
    """A finished recording with `rows` samples, watches with a declared address, and a loss."""
    with RecordingWriter(
        path, command=["./server", "--fast"], collectors=["cpu"], **options
    ) as writer:
        fill(writer, rows)
    assert writer.finished
    return writer.finish()


def fill(writer: RecordingWriter, rows: int) -> None:
    """What `small` records."""
    intern_stacks(writer)
    writer.append("samples", samples(0, rows))
    writer.append(
        "faults",
        {
            **{name: values for name, values in samples(0, 3).items()},
            "address": np.array([0x5000, 0x6000, 0x7000], np.uint64),
            "ip": np.array([0x1000, 0x1001, 0x1000], np.uint64),
            "access": ["read", "write", "read"],
            "user": np.array([True, False, True]),
        },
    )
    writer.append(
        "losses", {"collector": ["cpu"], "frame": ["samples"], "cause": ["ring full"], "lost": [17]}
    )
    writer.append(
        "overhead",
        {
            "collector": ["cpu"],
            "probe": ["sampler"],
            "instruction_class": ["not applicable"],
            "hits": [rows],
            "cost": [900.0],
            "cost_low": [800.0],
            "cost_high": [1000.0],
            "total": [900.0 * rows],
        },
    )
    writer.attach_file(
        "kallsyms", b"8000000000000000 T kernel_start\n8000000000000100 T kernel_next\n"
    )
    writer.attach_file("notes.txt", b"as measured\n")


def check_samples(frame: Any, rows: int) -> None:
    """Every value of a frame filled from `samples(0, rows)`."""
    expected = samples(0, rows)
    assert len(frame) == rows
    for name in ("time", "pid", "tid", "cpu", "stack"):
        np.testing.assert_array_equal(frame[name].to_numpy(), expected[name])
    codes, names = expected["comm"]
    assert frame["comm"].astype(str).tolist() == [names[code] for code in codes.tolist()]
