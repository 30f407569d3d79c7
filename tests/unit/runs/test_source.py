from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workbench import host
from workbench.errors import BadSpec, DamagedRecording, MissingCapability
from workbench.frames.recording import Recording
from workbench.frames.writer import RecordingWriter
from workbench.runs.source import (
    OUTPUT_VARIABLE,
    SOURCE_VARIABLE,
    output_folder,
    record_or_load,
    resolve,
    shortfall,
)


@pytest.fixture(autouse=True)
def nobody_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOURCE_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "one"
    with RecordingWriter(path, collectors=["test"]) as writer:
        writer.append("losses", {"collector": ["test"], "frame": ["x"], "cause": ["none"], "lost": np.array([7])})
    return path


def cannot() -> Recording:
    raise MissingCapability("no BPF here")


def test_the_notebook_decides_before_the_runner_and_the_runner_before_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve("auto") == ("live", "")
    monkeypatch.setenv(SOURCE_VARIABLE, "replay")
    assert resolve("auto") == ("replay", "")
    assert resolve("live") == ("live", "")
    with pytest.raises(BadSpec, match="source is 'reply'"):
        resolve("reply")


def test_the_machine_decides_by_what_it_can_do() -> None:
    """One capability of each kind, as far as this machine has both kinds."""
    for name in ("ptrace", "fentry"):
        row = host.check(name)
        assert shortfall([name]) == ("" if row.ok else f"{name}: {row.reason}")
        assert resolve("auto", [name])[0] == ("live" if row.ok else "replay")


def test_live_calls_and_returns() -> None:
    assert record_or_load("nowhere", lambda: "recorded", source="live") == "recorded"


def test_replay_loads(recording: Path) -> None:
    loaded = record_or_load(recording, cannot, source="replay")
    assert loaded.lost == {"test": 7} or sum(loaded.losses["lost"]) == 7


def test_auto_falls_back_and_says_so(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = record_or_load(recording, cannot)
    assert sum(loaded.losses["lost"]) == 7
    assert capsys.readouterr().out == f"replaying {recording}: this machine cannot record it live (no BPF here)\n"


def test_live_does_not_fall_back(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingCapability):
        record_or_load(recording, cannot, source="live")
    monkeypatch.setenv(SOURCE_VARIABLE, "live")
    with pytest.raises(MissingCapability):
        record_or_load(recording, cannot)


def test_a_damaged_recording_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DamagedRecording):
        record_or_load(tmp_path, cannot, source="replay")


def test_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path / "here"))
    assert output_folder() == tmp_path / "here" and output_folder().is_dir()
    monkeypatch.delenv(OUTPUT_VARIABLE)
    monkeypatch.chdir(tmp_path)
    assert output_folder() == tmp_path / "out"
