"""Processors go offline only where they are emulated, and come back whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.sched import processors


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n")
    for name, online in {
        "cpu0": "1",
        "cpu1": "1",
        "cpu2": "0",
        "cpu3": "1",
        "cpuidle": "1",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "online").write_text(online)
    monkeypatch.setattr(processors, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processors, "_PROCESSORS", tmp_path)
    return tmp_path


def online(machine: Path) -> list[str]:
    return [
        (machine / name / "online").read_text()
        for name in ("cpu0", "cpu1", "cpu2", "cpu3", "cpuidle")
    ]


def test_an_emulated_machine_has_one_meanwhile(machine: Path) -> None:
    with pytest.raises(KeyError), processors.alone() as gone:
        assert gone == ["cpu1", "cpu3"]
        assert online(machine) == ["1", "0", "0", "0", "1"]
        raise KeyError
    assert online(machine) == ["1", "1", "0", "1", "1"]


def test_a_scheduler_that_minds(machine: Path) -> None:
    with processors.alone(False) as gone:
        assert gone == [] and online(machine) == ["1", "1", "0", "1", "1"]


def test_real_processors_are_left_alone(machine: Path) -> None:
    (machine / "cpuinfo").write_text("model name\t: Intel(R) Xeon(R) Processor\n")
    with processors.alone() as gone:
        assert gone == [] and online(machine) == ["1", "1", "0", "1", "1"]
