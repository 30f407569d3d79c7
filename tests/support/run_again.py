"""A pytest plugin: a test that watches the live system and fails is run again, and the last lines name it.

What such a test sees depends on what else the machine does. A failure that stays is a failure; one that does not is
shown with its message, so that nobody takes it for a pass at the first try. Tests of pure code get one try.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

LIVE = ("tests/integration", "tests/notebooks", "tests/unit/runtime")
TRIES = 3
MOST = 12  # in one run; a machine on which more fails has another problem


class RunAgain:
    """Runs failed tests of the live system again."""

    def __init__(self) -> None:
        self.failed: list[pytest.TestReport] = []
        self.tries: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not is_live(item) or item.config.getoption("usepdb"):
            return None
        hook, before = item.ihook, children()
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        self.tries[item.nodeid] += 1
        failed = next((report for report in reports if report.failed), None)
        if failed is not None and self._may_run_again(item) and taken_down(item):
            for pid in children() - before:
                end(pid)
            failed.outcome = "rerun"  # type: ignore[assignment]
            self.failed.append(failed)
            hook.pytest_runtest_logreport(report=failed)
            hook.pytest_timeout_cancel_timer(item=item)
            hook.pytest_runtest_protocol(item=item, nextitem=nextitem)  # with a time limit of its own
        else:
            for report in reports:
                hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _may_run_again(self, item: pytest.Item) -> bool:
        stopping = item.session.shouldstop or item.session.shouldfail
        return not stopping and self.tries[item.nodeid] < TRIES and len(self.failed) < MOST

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return ("rerun", "R", "RERUN") if str(report.outcome) == "rerun" else None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.failed:
            terminalreporter.section("failed, and run again")
        for report in self.failed:
            terminalreporter.line(f"{report.nodeid} ({report.when}): {message(report)}")


def is_live(item: pytest.Item) -> bool:
    """Whether it needs a capability of this machine, or runs programs to watch them."""
    folders = [item.config.rootpath / name for name in LIVE]
    return any(item.iter_markers("needs")) or any(item.path.is_relative_to(folder) for folder in folders)


def taken_down(item: pytest.Item) -> bool:
    """End every fixture, whatever its scope: the next try begins from nothing."""
    try:
        item.session._setupstate.teardown_exact(None)
    except Exception:  # what a fixture leaves undone would disturb the next try
        return False
    return True


def children() -> set[int]:
    """Processes that this one started and that are not gone."""
    found, mine = set(), str(os.getpid())
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone
            state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].decode().split()[:2]
            if parent == mine and state != "Z":
                found.add(int(folder.name))
    return found


def end(pid: int) -> None:
    """What a test that failed left running."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def message(report: pytest.TestReport) -> str:
    """Where it failed, and the first line of why."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return str(report.longrepr).splitlines()[-1]
    return f"{Path(crash.path).name}:{crash.lineno}: {crash.message.splitlines()[0]}"
