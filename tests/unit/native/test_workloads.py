"""The workloads of known behaviour: every shape makes progress, and what it does follows its knobs."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from workbench.native.build import workload

SHAPES = ("serial", "join", "timer", "barrier", "lock", "queue", "pipe", "hidden")


def cpu_ticks(pid: int) -> int:
    """User time of a process, clock ticks (proc_pid_stat(5), field 14)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_works_until_it_is_ended(shape: str, tmp_path: Path) -> None:
    knobs = tmp_path / "knobs"
    np.array([20_000, 20_000, 20_000, 100_000, 100_000], np.uint64).tofile(knobs)
    os.truncate(knobs, 4096)
    with subprocess.Popen([workload("causal_shapes"), shape, knobs]) as process:
        try:
            while process.poll() is None and cpu_ticks(process.pid) < 3:
                pass
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)


def test_an_unknown_shape_is_named(tmp_path: Path) -> None:
    knobs = tmp_path / "knobs"
    knobs.write_bytes(bytes(4096))
    done = subprocess.run(
        [workload("causal_shapes"), "round", knobs], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no shape round" in done.stderr
