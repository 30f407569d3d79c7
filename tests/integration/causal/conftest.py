"""Experiments without the scheduler need the userspace runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_rows import mark


@pytest.hookimpl(tryfirst=True)  # before the rows are tried
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, Path(__file__).parent, "userspace JIT", "userspace probe", "C compiler")
