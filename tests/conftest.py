"""Tests name the capabilities they need; where one is missing they are skipped, and the last lines say so."""

from __future__ import annotations

import signal
from collections import defaultdict

import pytest
from hypothesis import settings
from last_resort import LastResort
from run_again import RunAgain

from workbench import host
from workbench.errors import WorkbenchError

# The same examples in every run; `--hypothesis-profile random` looks for new ones.
settings.register_profile("random", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.load_profile("same")

MISSING = pytest.StashKey[dict[str, set[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    # A job in the background of a shell, or under nohup, ignores these, and so would every program the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    config.addinivalue_line(
        "markers",
        "needs(*capabilities): rows of `workbench doctor` without which the test cannot run here",
    )
    config.stash[MISSING] = defaultdict(set)
    config.pluginmanager.register(RunAgain())
    config.pluginmanager.register(LastResort(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = config.stash[MISSING]
    needs = {item: [name for mark in item.iter_markers("needs") for name in mark.args] for item in items}
    if names := {name for wanted in needs.values() for name in wanted}:
        try:
            host.doctor(sorted(names))  # all in one go: a process per name would cost more
        except WorkbenchError as error:
            raise pytest.UsageError(f"a test needs what the doctor does not know: {error}") from error
    for item, wanted in needs.items():
        absent = [row for row in map(host.check, dict.fromkeys(wanted)) if not row.ok]
        for row in absent:
            missing[row.name].add(item.nodeid)
        if absent:
            reason = "; ".join(f"needs {row.name}: {row.reason}" for row in absent)
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    missing = config.stash[MISSING]
    terminalreporter.section("capabilities missing on this machine")
    if not missing:
        terminalreporter.line("none that a test of this run needs")
    for name in sorted(missing):
        count = len(missing[name])
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.line(f"{name} ({tests} skipped): {host.check(name).reason}")
