"""Where a recording is put: what is at the path already is replaced only when asked, and only if it is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import check_samples, fill, small

import workbench as wb
from workbench.errors import BadSpec, NotPermitted
from workbench.frames.writer import RecordingWriter


def test_an_earlier_recording_is_replaced_only_when_asked(tmp_path: Path) -> None:
    small(tmp_path / "r", rows=3)
    with pytest.raises(BadSpec, match=r"exists already[^$]*overwrite"):
        RecordingWriter(tmp_path / "r")
    check_samples(wb.load(tmp_path / "r").samples, 3)
    writer = RecordingWriter(tmp_path / "r", overwrite=True)
    check_samples(wb.load(tmp_path / "r").samples, 3)  # still there while the new one is made
    fill(writer, 5)
    check_samples(writer.finish().samples, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_what_is_no_recording_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("important")
    with pytest.raises(BadSpec, match="not a readable recording"):
        RecordingWriter(folder, overwrite=True)
    file = tmp_path / "file"
    file.write_text("important")
    with pytest.raises(BadSpec, match="not a readable recording"):
        RecordingWriter(file, overwrite=True)
    small(tmp_path / "r")
    (tmp_path / "r" / "evaluation.ods").write_text("important")
    with pytest.raises(BadSpec, match=r"holds 'evaluation.ods'"):
        RecordingWriter(tmp_path / "r", overwrite=True)
    assert (folder / "thesis.tex").read_text() == file.read_text() == "important"
    assert (tmp_path / "r" / "evaluation.ods").read_text() == "important"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "r", "thesis"]


@pytest.mark.parametrize(
    "name", ["notes.md", ".hidden", "derived.parquet", "files/mine.txt", "spool/x", ".git/config"]
)
def test_a_recording_with_something_else_in_it_is_never_replaced(tmp_path: Path, name: str) -> None:
    recording = small(tmp_path / "r")
    mine = recording.path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("important")
    with pytest.raises(BadSpec, match="which is no part of a recording"):
        RecordingWriter(tmp_path / "r", overwrite=True)
    assert mine.read_text() == "important"


def test_a_link_is_never_replaced(tmp_path: Path) -> None:
    small(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BadSpec, match="exists already"):
        RecordingWriter(tmp_path / "link")
    check_samples(wb.load(tmp_path / "link").samples, 1000)


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    check_samples(small(tmp_path / "r").samples, 1000)


def test_path_taken_while_recording_loses_nothing(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "r")
    fill(writer, 10)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "x").write_text("mine")
    with pytest.raises(BadSpec, match="exists already"):
        writer.finish()
    check_samples(wb.load(tmp_path / "r.partial").samples, 10)
    assert (tmp_path / "r" / "x").read_text() == "mine"


def test_two_recorders_on_one_path(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        for overwrite in (False, True):
            with pytest.raises(BadSpec, match="another recorder is writing"):
                RecordingWriter(tmp_path / "r", overwrite=overwrite)
        fill(writer, 10)
    check_samples(wb.load(tmp_path / "r").samples, 10)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    for name in ("r.partial", "/"):
        with pytest.raises(BadSpec, match="cannot be the name"):
            RecordingWriter(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotPermitted, match="no recording can be made"):
        RecordingWriter(tmp_path / "file" / "r")
    with RecordingWriter(tmp_path / "r") as writer:
        for name in ("../x", "a/b", ".hidden", ""):
            with pytest.raises(BadSpec, match="name of an attached file"):
                writer.attach_file(name, b"")


def test_a_place_that_cannot_even_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match=r"no recording can be made .* too long"):
        RecordingWriter(tmp_path / ("x" * 300))
    with pytest.raises(NotPermitted, match="cannot be opened: File name too long"):
        wb.load(tmp_path / ("x" * 300))
