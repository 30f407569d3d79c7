"""What the suite does with tests that fail: the live ones are run again, all fixtures anew, and named at the end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "support"
CONFTEST = """
from last_resort import LastResort
from run_again import RunAgain

def pytest_configure(config):
    config.addinivalue_line("markers", "needs(*capabilities): ...")
    config.pluginmanager.register(RunAgain())
    config.pluginmanager.register(LastResort(config))
"""


def run(folder: Path, body: str, *options: str) -> tuple[int, str]:
    """Run pytest on a file of live tests."""
    test = folder / "tests" / "integration" / "test_it.py"
    test.parent.mkdir(parents=True)
    test.write_text(textwrap.dedent(body))
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {SUPPORT}\ntimeout = 60\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options, str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout + done.stderr


def test_one_that_passes_at_the_second_try_passes_and_is_named(tmp_path: Path) -> None:
    status, shown = run(
        tmp_path,
        """
        import pytest
        made, tries = [], []

        @pytest.fixture(scope="module")
        def whole():
            made.append("module")
            yield
            made.append("gone")

        @pytest.fixture(scope="session", autouse=True)
        def breaks_once():
            made.append("session")
            if len(made) == 1:
                raise OSError("not now")

        def test_first(whole):
            assert made == ["session", "session", "module"]

        def test_second(whole):
            tries.append(1)
            assert len(tries) == 3, "too early"

        def test_third(whole):
            assert made[3:] == ["gone", "session", "module"] * 2
        """,
    )
    assert status == 0 and "3 passed, 3 rerun" in shown, shown
    assert "test_it.py::test_first (setup)" in shown and "OSError: not now" in shown
    assert shown.count("test_it.py::test_second (call): test_it.py:") == 2 and "too early" in shown


def test_one_that_fails_at_every_try_fails(tmp_path: Path) -> None:
    status, shown = run(tmp_path, "def test_it():\n    assert False, 'never'\n")
    assert status == 1 and "1 failed, 2 rerun" in shown, shown


def test_one_that_is_not_live_has_one_try(tmp_path: Path) -> None:
    (tmp_path / "test_pure.py").write_text(
        "import pytest\n"
        "def test_pure():\n    assert False\n"
        "@pytest.mark.needs('x')\ndef test_with_a_need():\n    assert False\n"
    )
    status, shown = run(tmp_path, "def test_it():\n    pass\n")
    assert status == 1 and "2 failed, 1 passed, 2 rerun" in shown, shown


def test_not_many(tmp_path: Path) -> None:
    status, shown = run(
        tmp_path,
        """
        import pytest

        @pytest.mark.parametrize("n", range(20))
        def test_it(n):
            assert n < 0
        """,
    )
    assert status == 1 and "20 failed, 12 rerun" in shown, shown


def test_what_a_failed_test_started_is_ended(tmp_path: Path) -> None:
    status, shown = run(
        tmp_path,
        """
        import subprocess
        import pytest
        from run_again import children

        @pytest.fixture(scope="session")
        def kept():
            with subprocess.Popen(["sleep", "1000"]) as process:
                yield process
                process.kill()

        def test_first(kept):
            pass

        left = []

        def test_second(kept):
            assert children() == {kept.pid}
            left.append(subprocess.Popen(["sleep", "1000"]))
            assert len(left) == 3
            left[-1].kill()

        def test_third(kept):
            assert children() - {left[-1].pid} == {kept.pid}
        """,
    )
    assert status == 0 and "3 passed, 2 rerun" in shown, shown


def test_every_try_has_its_own_time_limit(tmp_path: Path) -> None:
    status, shown = run(
        tmp_path,
        """
        import threading

        tries = []

        def test_it():
            tries.append(1)
            if len(tries) < 3:
                threading.Event().wait(60)
        """,
        "--timeout=1",
    )
    assert status == 0 and "1 passed, 2 rerun" in shown and "Timeout" in shown, shown


def test_a_thread_that_stays_ends_the_run(tmp_path: Path) -> None:
    stays = """
        import threading

        import last_resort

        last_resort.GRACE_S = 1

        def test_it():
            threading.Thread(target=threading.Event().wait).start()
        """
    status, shown = run(tmp_path, stays)
    assert status == 1 and "1 passed" in shown and "Timeout (0:00:01)" in shown, shown


def test_what_no_limit_ends_ends_the_run(tmp_path: Path) -> None:
    hang = """
        import ctypes
        import signal

        import last_resort
        import pytest

        last_resort.GRACE_S = 1

        @pytest.fixture
        def stays():
            yield
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            ctypes.CDLL(None).pause()

        @pytest.mark.timeout(1)
        def test_it(stays):
            assert False
        """
    status, shown = run(tmp_path, hang)
    assert status == 1 and "Timeout (0:00:02)" in shown and "in stays" in shown, shown
