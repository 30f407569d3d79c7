from __future__ import annotations

from pathlib import Path
from typing import Any

import workbench as wb
from workbench.frames import checkpoint
from workbench.frames.writer import RecordingWriter


def _losses(lost: int) -> tuple[str, dict[str, Any]]:
    columns = {"collector": ["cpu"], "frame": ["samples"], "cause": ["ring full"], "lost": [lost]}
    return "losses", columns


def test_what_is_kept_counts_until_the_rows_themselves_are_there(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "r", collectors=["cpu"])
    writer.note(counted_in_maps=["cpu"])
    assert "none of cpu" in wb.load(tmp_path / "r").counts_as_of
    for lost in (1, 2, 3, 4):
        writer.checkpoint([_losses(lost)])
        assert wb.load(tmp_path / "r").lost == {"samples": lost}
    spool = writer.folder / "spool"
    assert len(list(spool.glob("checkpoint.*"))) == 2
    assert "of cpu as of" in wb.load(tmp_path / "r").counts_as_of
    writer.append(*_losses(5))
    recording = writer.finish()
    assert recording.lost == {"samples": 5} and recording.counts_as_of == ""
    assert checkpoint.find(spool) is None


def test_a_damaged_pointer_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path) is None
    for text in ("", "x y", "1", "-1 5", "7 5"):
        (tmp_path / "checkpoint").write_text(text)
        assert checkpoint.find(tmp_path) is None
