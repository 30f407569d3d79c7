"""Without the extra `runtime`: what is missing is named with the command that installs it; the rest works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, subprocess, sys
sys.modules[sys.argv[1]] = None
import workbench as wb
from workbench.host import trial, try_runtime
from workbench.objects.model import builtin

found = {"rows": {}}
for name in ("userspace maps", "userspace JIT", "userspace probe"):
    row = trial.attempt(trial.TRIALS[name])
    found["rows"][name] = [row.ok, row.reason, row.remedy]
obj = builtin("example_calls")
found["accepted"] = sorted(obj.verify())
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
try:
    with obj.load("userspace", pid=child.pid) as loaded:
        loaded.attach("count", "libc:malloc")
except wb.WorkbenchError as error:
    found["error"] = [type(error).__name__, error.message, error.hint]
child.communicate("\\n")
print(json.dumps(found))
"""


@pytest.mark.needs("clang", "userspace JIT", "userspace maps", "userspace probe")
@pytest.mark.parametrize(
    ("package", "name", "missing"),
    [
        ("llvmlite", "llvmlite", {"userspace JIT", "userspace probe"}),
        ("iced_x86", "iced-x86", {"userspace probe"}),
    ],
)
def test_a_missing_package_is_named(
    package: str, name: str, missing: set[str], tmp_path: Path
) -> None:
    # What was compiled before would run without LLVM.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, package], capture_output=True, text=True, check=False,
        env={**os.environ, "WORKBENCH_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    remedy = "pip install 'bpf-workbench[runtime]'"
    assert {row for row, (ok, _, _) in found["rows"].items() if not ok} == missing
    assert all(name in found["rows"][row][1] and found["rows"][row][2] == remedy for row in missing)
    assert found["accepted"] == ["called", "count", "returned"]
    kind, message, hint = found["error"]
    assert kind == "MissingCapability" and name in message and hint == remedy
