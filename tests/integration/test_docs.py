"""docs/python.md: every public name is there, and its examples run as they stand."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import workbench
from workbench.collectors import registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()


def run_example(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the code below a heading as a reader would, in a folder that has datasets/."""
    (folder / "datasets").symlink_to(ROOT / "datasets")
    monkeypatch.chdir(folder)
    found = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found, heading
    names: dict[str, Any] = {}
    exec(compile(found[1], heading, "exec"), names)
    return names


def test_every_public_name_is_described() -> None:
    assert {name for name in workbench._PUBLIC if f"`wb.{name}" not in PAGE} == set()


def test_looking_at_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_example("Look at a recording", tmp_path, monkeypatch)
    assert "futex" in capsys.readouterr().out
    assert (tmp_path / "faults.pdf").read_bytes()[:5] == b"%PDF-"
    assert names["waits"]["count"].sum() > 100


def test_every_option_of_a_collector_is_described() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("collectors.md", "gpu.md")]
    for name, _, usage in registry.summary():
        assert f"`{name}" in pages[0]
        for option in re.findall(r"\[,(\w+)=", usage):
            assert any(f"| `{option}=" in page for page in pages), (name, option)


@pytest.mark.needs("raw tracepoint", "clang", "libbpf", "LOOKUP_BATCH")
def test_a_program_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_example("Run a BPF program of your own", tmp_path, monkeypatch)
    calls = dict(zip(names["pids"].tolist(), names["counts"].tolist(), strict=True))
    assert calls[os.getpid()] >= 3, "open, read and close of its own source"


@pytest.mark.needs("clang", "userspace JIT", "userspace maps", "userspace probe")
def test_a_program_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("Run it without root", tmp_path, monkeypatch)
    shown = capsys.readouterr().out
    assert "{4: 1, 6: 1} 2" in shown or "{6: 1, 4: 1} 2" in shown
    assert "or null" in shown


def test_links_between_the_pages_resolve() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "datasets").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
