"""One notebook, both ways: it records a real process live, and what it recorded reproduces its numbers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs_support import Announcement, NotebookMaker, died

from workbench.frames.recording import load

pytestmark = pytest.mark.needs("perf_event BPF", "ring buffer")

LIVE = """\
import sys, workbench as wb
from workbench.runs.claims import claim
from workbench.runs.source import output_folder, record_or_load
def live():
    program = {program!r}
    recorder = wb.record("cpu:999", command=[sys.executable, "-c", program], output=output_folder() / "recording")
    return recorder.run()
rec = record_or_load(recording, live, source=source, needs=["perf_event BPF"])
"""
PARAMETERS = "recording = ''\nsource = 'auto'"


def workbench(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "workbench.cli", verb, *arguments], capture_output=True, text=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_live_then_replayed(notebook: NotebookMaker, tmp_path: Path) -> None:
    source = notebook(
        LIVE.format(program="import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"),
        "claim('samples', len(rec.samples))",
        "claim('processes', int(rec.samples.pid.nunique()))",
        parameters=PARAMETERS,
    )
    text = (
        f"notebook: {source.name}\nneeds: [perf_event BPF]\nrecordings: {{recording: dataset}}\n"
        "claims: [{name: samples, at_least: 150, at_most: 2000}, {name: processes, equals: 1}]\n"
    )
    Path("e.yaml").write_text(text)
    live = workbench("run", "e.yaml", "--json")
    assert live.returncode == 0, live.stderr
    found = json.loads(live.stdout)
    assert found["points"][0]["source"] == "live" and found["ok"], found

    shutil.copytree(tmp_path / "out" / "runs" / "e" / "recording", "dataset")
    replayed = workbench("reproduce", "e.yaml", "--json")
    assert replayed.returncode == 0, replayed.stderr
    again = json.loads(replayed.stdout)["points"][0]
    assert again["source"] == "replay" and again["claims"] == found["points"][0]["claims"]


def test_interrupted_while_recording(notebook: NotebookMaker, announcement: Announcement, tmp_path: Path) -> None:
    """Ctrl-C during a recording: the process under observation and the kernel end, what was recorded loads."""
    spin = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    source = notebook(
        LIVE.format(program=spin + announcement.cell("while True: pass")), "1", parameters=PARAMETERS
    )
    Path("e.yaml").write_text(f"notebook: {source.name}\n")
    runner = subprocess.Popen([sys.executable, "-m", "workbench.cli", "run", "e.yaml", "--live"])
    target = announcement.wait()
    runner.send_signal(signal.SIGINT)
    assert runner.wait() == 130
    assert died(target)
    (folder,) = [path for path in (tmp_path / "out" / "runs" / "e").iterdir() if path.name.startswith("recording")]
    assert len(load(folder).samples) > 50
    assert not Path("out/runs/e/question.part.ipynb").exists()
