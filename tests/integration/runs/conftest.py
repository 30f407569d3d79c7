from __future__ import annotations

from pathlib import Path

import pytest
from runs_support import Announcement, NotebookMaker, notebook_maker


@pytest.fixture
def notebook(tmp_path: Path) -> NotebookMaker:
    return notebook_maker(tmp_path)


@pytest.fixture
def announcement(tmp_path: Path) -> Announcement:
    return Announcement(tmp_path / "announcement")
