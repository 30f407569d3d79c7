"""`workbench lab` without a guest: what is wrong is said before anything boots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.cli.lab import SUBVERBS


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_subverb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in SUBVERBS:
        with pytest.raises(SystemExit) as ended:
            main(["lab", name, "--help"])
        assert ended.value.code == 0
    assert "usage: workbench lab" in capsys.readouterr().out


@pytest.mark.needs("QEMU")
def test_an_empty_cache(capsys: pytest.CaptureFixture[str], empty: Path) -> None:
    assert main(["lab", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["kernels"] == []
        and found["bytes"] == 0
        and "no kernel is prepared" in found["problem"]
    )
    assert main(["lab", "status"]) == 0
    assert "workbench lab prepare" in capsys.readouterr().out
    assert main(["lab", "run", "--", "true"]) == 3
    assert "workbench lab prepare" in capsys.readouterr().err
    assert main(["lab", "clean", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 0
    assert not empty.exists()


@pytest.mark.needs("QEMU")
@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["run"], 2, "no command"),
        (["run", "--kernel", "../x", "--", "true"], 2, "no release"),
        (["run", "--kernel", "9.9-none", "--", "true"], 3, "not prepared"),
    ],
)
def test_bad_input(
    words: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *words]) == status
    assert text in capsys.readouterr().err


@pytest.mark.needs("QEMU")
def test_a_kernel_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no kernel")
    assert main(["lab", "prepare", "--kernel", str(file)]) == 2
    assert "no Linux kernel image" in capsys.readouterr().err
    assert main(["lab", "prepare", "--kernel", str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err
