"""The rows of the userspace runtime: proven by trying, refused with a reason, nothing left behind."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.host import doctor, tries

ROWS = ("executable memory", "userspace JIT", "userspace maps", "userspace probe")

FAULT = r"[A-Z]\w+(Error|Exception|Failed): |no answer|trying it killed|the process that tried"

MEMORY_DENY_WRITE_EXECUTE = """
import ctypes, json, mmap
from workbench.host import trial, try_runtime
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN (Linux 6.3)
    print(json.dumps(None))
else:
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
        refused = False
    except OSError:
        refused = True
    rows = {name: trial.attempt(trial.TRIALS[name]) for name in ("executable memory", "userspace JIT")}
    print(json.dumps([refused, {name: [row.ok, row.reason] for name, row in rows.items()}]))
"""


def test_every_row_works_where_its_packages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the runtime itself is no missing capability: tests that are skipped for it would hide it."""
    monkeypatch.setattr(tries, "_known", {})
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "namespaces"))
    found = doctor((*ROWS, "ptrace"))
    for row in found:
        assert not re.match(FAULT, row.reason), row
    refused = {row.name for row in found if not row.ok and "not installed" not in row.reason}
    if found["ptrace"].ok and platform.machine() == "x86_64":
        assert not refused & {"userspace JIT", "userspace maps", "userspace probe"}, found
    assert not list((tmp_path / "namespaces").iterdir()), "nothing is left"


def test_a_folder_that_cannot_hold_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "_known", {})  # what is found here holds for this test alone
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "file"))
    row = doctor(("userspace maps",))["userspace maps"]
    assert not row.ok and str(tmp_path / "file") in row.reason
    assert "WORKBENCH_NAMESPACES" in row.remedy


def test_nothing_is_writable_and_executable_at_once() -> None:
    """Under the kernel's own rule against memory that gains execution, code is compiled and runs all the same."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_DENY_WRITE_EXECUTE],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    if answer is None:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    refused, rows = answer
    assert refused, "the rule is in force"
    assert all(ok or "not installed" in reason for ok, reason in rows.values()), rows
