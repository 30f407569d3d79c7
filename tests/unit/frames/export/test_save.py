"""`wb.export`: a whole file or none, from a recording or its folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from frameset import FrameSet, database

import workbench as wb
from workbench.errors import BadSpec, MissingFrame, NotPermitted
from workbench.frames.export import exporter, exporters

TOUR = Path(__file__).parents[4] / "datasets/tour"


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


@pytest.mark.parametrize("name", [one.name for one in exporters()])
def test_the_file_holds_what_the_exporter_writes(
    name: str, recording: FrameSet, tmp_path: Path
) -> None:
    sink = io.BytesIO()
    exporter(name).write(recording, sink)
    path = wb.export(recording, name, tmp_path / "out")
    assert path == tmp_path / "out" and path.read_bytes() == sink.getvalue()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_will_do(tmp_path: Path) -> None:
    path = wb.export(str(TOUR), "speedscope", str(tmp_path / "out.json"))
    assert path.read_bytes() == wb.export(wb.load(TOUR), "speedscope", tmp_path / "two").read_bytes()
    profiles = json.loads(path.read_text())["profiles"]
    assert sum(len(one["samples"]) for one in profiles) == len(wb.load(TOUR).samples)


def test_an_existing_file_is_replaced_only_when_asked(recording: FrameSet, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(BadSpec, match="exists") as caught:
        wb.export(recording, "folded", path)
    assert "overwrite" in caught.value.hint and path.read_text() == "mine"
    wb.export(recording, "folded", path, overwrite=True)
    assert b"sqlite3" in path.read_bytes()


def test_what_cannot_be_written_leaves_nothing(recording: FrameSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("no/such/folder/out", "file/out"):
        with pytest.raises(NotPermitted, match="cannot write"):
            wb.export(recording, "folded", tmp_path / place)
    with pytest.raises(BadSpec, match="no export format"):
        wb.export(recording, "svg", tmp_path / "out")
    with pytest.raises(MissingFrame):
        wb.export(FrameSet("empty", {}), "folded", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
