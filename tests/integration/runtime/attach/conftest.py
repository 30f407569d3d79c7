"""The userspace runtime attaches on x86-64; elsewhere it says so, which needs no target."""

from __future__ import annotations

import platform

import pytest


@pytest.fixture(autouse=True)
def _x86_64_only() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the userspace runtime attaches on x86-64 only")
