"""A recorder that is killed loses nothing that was flushed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings import check_samples, fill, samples

import workbench as wb
from workbench.errors import BadSpec
from workbench.frames.writer import RecordingWriter

SUPPORT = Path(__file__).parents[2] / "support"

RECORDER = """
import sys
import numpy as np
from recordings import intern_stacks, samples
from workbench.frames.writer import RecordingWriter

writer = RecordingWriter(sys.argv[1], command=["./server"], collectors=["cpu"])
intern_stacks(writer)
row = 0
rng = np.random.default_rng(0)
while True:
    for _ in range(int(rng.integers(1, 5))):
        rows = int(rng.integers(1, 20_000))
        writer.append("samples", samples(row, rows))
        row += rows
    # A new stack per flush, named by a row of another frame: it must be on disk with that row.
    stack = writer.intern([100], [0x9000_0000 + row], [1])
    columns = samples(0, 1)
    columns["stack"] = stack
    writer.append("faults", {**columns, "address": [1], "ip": [row], "access": ["read"], "user": [True]})
    writer.flush()
    print(row, flush=True)
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "recorder.py"
    script.write_text(RECORDER)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
    )


@pytest.mark.parametrize("flushes", [1, 3, 17])
def test_killed_recorder_keeps_everything_up_to_the_last_flush(
    tmp_path: Path, flushes: int
) -> None:
    recorder = start(tmp_path)
    assert recorder.stdout is not None
    promised = 0
    for _ in range(flushes):
        promised = int(recorder.stdout.readline())
    os.kill(recorder.pid, signal.SIGKILL)
    for line in recorder.stdout:  # flushes it still reported before it died
        promised = int(line) if line.endswith("\n") else promised
    assert recorder.wait() == -signal.SIGKILL

    assert not (tmp_path / "r").exists()
    recording = wb.load(tmp_path / "r")
    assert recording.status == "interrupted"
    assert recording.manifest.end is None
    assert len(recording.samples) >= promised
    check_samples(recording.samples, len(recording.samples))
    assert recording.faults["ip"].max() >= promised
    known = recording.stacks.set_index("stack")["address"]
    assert (
        known[recording.faults["stack"]].to_numpy()
        == recording.faults["ip"].to_numpy() + 0x9000_0000
    ).all()
    assert set(recording.samples["stack"]) <= {-1, *known.index}

    with pytest.raises(BadSpec, match="a recorder that died left behind"):
        RecordingWriter(tmp_path / "r")
    with RecordingWriter(tmp_path / "r", overwrite=True) as writer:
        fill(writer, 3)
    check_samples(wb.load(tmp_path / "r").samples, 3)


def test_live_recorder_of_another_process_is_left_alone(tmp_path: Path) -> None:
    recorder = start(tmp_path)
    try:
        assert recorder.stdout is not None
        promised = int(recorder.stdout.readline())
        with pytest.raises(BadSpec, match="another recorder is writing"):
            RecordingWriter(tmp_path / "r", overwrite=True)
        live = wb.load(tmp_path / "r")
        assert live.status == "recording"
        assert len(live.samples) >= promised
        np.testing.assert_array_equal(
            live.samples["time"].to_numpy()[:promised], samples(0, promised)["time"]
        )
        assert int(recorder.stdout.readline()) > promised  # reading did not disturb it
    finally:
        recorder.kill()
        recorder.wait()
        recorder.stdout.close()
