"""Progress in a terminal and in a pipe; in notebooks it is tested with a real kernel."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from workbench.notebook import progress
from workbench.notebook.progress import Progress, bar

SCRIPT = """
import time
from workbench.notebook import progress
progress.PATIENCE = 0.0
with progress.Progress("counting") as one:
    for step in range(1, 5):
        one.update(step / 4, f"step {step}")
        time.sleep(0.11)
"""


def test_terminal_has_one_line_that_goes_away() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=slave, stderr=slave) as run:
        os.close(slave)
        text = b""
        try:
            while piece := os.read(master, 4096):
                text += piece
        except OSError:  # the other end was closed
            pass
    os.close(master)
    assert run.returncode == 0
    assert b"\n" not in text
    assert b"\r\x1b[Kcounting 25 %, about " in text and b": step 1" in text
    assert text.endswith(b"\r\x1b[K")


def test_pipe_gets_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"", b"")


def test_remaining_is_what_the_done_part_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    one = Progress("counting", quiet=True)
    assert one.remaining is None
    now = 110.0
    one.update(0.25)
    assert one.remaining == pytest.approx(30.0)
    assert str(one) == "counting 25 %, about 30.0 s to go"


@pytest.mark.parametrize(("fraction", "width"), [(-1.0, "0.0%"), (0.5, "50.0%"), (7.0, "100.0%")])
def test_bar_stays_within_its_frame(fraction: float, width: str) -> None:
    assert f"width:{width}" in bar(fraction)
