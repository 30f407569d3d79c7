"""What becomes of a trial that succeeds, fails, crashes, hangs or leaks."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

from workbench.errors import BadSpec, MissingCapability
from workbench.host import NAMES, check, doctor
from workbench.host.trial import TRIALS, Absent, Trial, attempt, grant, holding


def row_of(run: object) -> tuple[bool, str, str]:
    row = attempt(Trial("x", run, "buy one", "ask root", 1.0))  # type: ignore[arg-type]
    return row.ok, row.reason, row.remedy


def raising(error: Exception) -> object:
    def run(stack: ExitStack) -> str:
        raise error

    return run


def test_success_reports_how_it_was_proven() -> None:
    assert row_of(lambda stack: "did it") == (True, "did it", "")


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (Absent("none here"), "none here", "buy one"),
        (Absent("none here", "look there"), "none here", "look there"),
        (OSError(errno.ENOENT, "No such file", "/x"), "ENOENT: No such file (/x)", "buy one"),
        (MissingCapability("no clang", "get clang"), "no clang", "get clang"),
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops", "buy one"),
    ],
)
def test_failure_gives_reason_and_remedy(error: Exception, reason: str, remedy: str) -> None:
    assert row_of(raising(error)) == (False, reason, remedy)


def test_refusal_advises_by_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = raising(OSError(errno.EPERM, "Operation not permitted"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert row_of(refused) == (False, "EPERM: Operation not permitted", "ask root")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ok, reason, remedy = row_of(refused)
    assert not ok and "even to root" in reason and remedy == "buy one"


def test_what_was_opened_is_closed_even_on_failure() -> None:
    opened: list[int] = []

    def run(stack: ExitStack) -> str:
        opened.append(holding(stack, os.open(os.devnull, os.O_RDONLY)))
        raise Absent("no")

    row_of(run)
    with pytest.raises(OSError):
        os.fstat(opened[0])


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(BadSpec, match="uprobe_multi"):
        doctor(["uprobe_mutli"])


def test_a_row_is_tried_once() -> None:
    assert check("native core") is check("native core")


def test_every_trial_advises_and_has_a_limit() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 35
    for one in TRIALS.values():
        assert one.remedy and 0 < one.limit <= 60


def test_grant_names_the_real_interpreter() -> None:
    assert grant("bpf").endswith(f"setcap cap_bpf+ep {Path(sys.executable).resolve()}")


BROKEN = """
import os, signal, time
from workbench.host import trial, tries

def one(name, limit=5.0):
    return lambda function: trial.trial(name, "advice", limit=limit)(function)

@one("crash")
def crash(stack):
    os.kill(os.getpid(), signal.SIGSEGV)

@one("hang", limit=0.5)
def hang(stack):
    os.write(2, b"x")
    time.sleep(600)

@one("exit")
def leave(stack):
    os._exit(7)

@one("noisy")
def noisy(stack):
    print("chatter")
    os.system("echo chatter")
    return "fine"

@one("leak")
def leak(stack):
    child = os.fork()
    if not child:
        time.sleep(600)
    return f"child {child}"
"""


def test_a_crash_a_hang_and_a_leak_are_rows_and_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    # The child of the doctor must know these trials as well: it imports what PYTHONPATH offers as sitecustomize.
    (tmp_path / "sitecustomize.py").write_text("import broken\n")
    script = textwrap.dedent("""
        from workbench.host import tries
        for row in tries.doctor(["crash", "noisy", "hang", "exit", "leak"]):
            print(row.name, row.ok, row.reason, sep="|")
    """)
    root = str(Path(__file__).parents[3])
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), root))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *lines, leak = run.stdout.splitlines()
    assert lines == [
        "crash|False|trying it killed the process that tried: SIGSEGV",
        "noisy|True|fine",
        "hang|False|no answer within 0.5 s",
        "exit|False|the process that tried it exited with status 7",
    ]
    match = re.fullmatch(r"leak\|True\|child (\d+)", leak)
    assert match
    # The leaked grandchild was in the group of the process that tried, and went with it.
    assert state_of(int(match[1])) in ("gone", "Z")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
