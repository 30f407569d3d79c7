"""What the tests of these folders need; without it they are skipped, and the run's last lines say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_rows import mark

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before the rows are tried
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, HERE / "jit", "userspace JIT")
    mark(items, HERE / "isa", "userspace JIT", only="conformance")
