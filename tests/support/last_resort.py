"""A pytest plugin: a test that its time limit cannot end ends the run, with the stacks of all threads.

pytest-timeout raises in the main thread, which takes until that thread comes back to Python, and lets go of a test that
has failed: a call that never returns, or a fixture that cannot be taken down, would hang for ever.
"""

from __future__ import annotations

import faulthandler
import os

import pytest

GRACE_S = 120


class LastResort:
    """One timer, set anew by every test."""

    def __init__(self, config: pytest.Config) -> None:
        asked = config.getoption("timeout", None)
        self.default = float(config.getini("timeout") if asked is None else asked)
        self.stderr = os.dup(2)  # before pytest captures it

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        self._arm(item)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector) -> None:
        if isinstance(node, pytest.Item) and not node.config.getoption("usepdb"):
            self._arm(node)  # pytest cancels it when a test fails

    def pytest_unconfigure(self) -> None:
        faulthandler.dump_traceback_later(GRACE_S, exit=True, file=self.stderr)  # threads that Python waits for

    def _arm(self, item: pytest.Item) -> None:
        mark = item.get_closest_marker("timeout")
        limit = mark.args[0] if mark and mark.args else self.default
        faulthandler.dump_traceback_later(limit + GRACE_S, exit=True, file=self.stderr)
