"""What the tests of these folders need; without it they are skipped, and the run's last lines say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_rows import mark

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before the rows are tried
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, HERE / "attach", "userspace probe")
    mark(items, HERE / "helpers", "userspace JIT")
    mark(items, HERE / "verifier", "userspace JIT", only="attacks")
    for name in ("jit_programs", "differential_fuzz", "packet_loads"):
        mark(items, HERE, "userspace JIT", only=name)
    for name in ("in_user_space", "syscall_tracepoints"):
        mark(items, HERE, "userspace JIT", "userspace probe", only=name)
