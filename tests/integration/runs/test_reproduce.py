"""`workbench reproduce`: re-executes from recordings, without privilege, and fails when a number does not hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from runs_support import notebook_maker

COMMAND = (sys.executable, "-m", "workbench.cli", "reproduce")

# Gives up every capability before the command starts: what is left of root is an ordinary user who owns some files.
UNPRIVILEGED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in range(64):
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capset(header, data) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a paper, read-only as a reviewer may have it."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("notebooks", "experiments", "datasets/one"):
        (root / name).mkdir(parents=True)
    (root / "datasets" / "one" / "values").write_text("1 2 3 4")
    maker = notebook_maker(root / "notebooks")
    maker(
        "import pathlib, workbench.runs.claims as wb\n"
        "values = [int(word) for word in pathlib.Path(recording, 'values').read_text().split()]",
        "wb.claim('mean', sum(values) / len(values), 'ms')",
        "wb.claim('largest at', values.index(max(values)))",
        "print('effective capabilities', open('/proc/self/status').read().split('CapEff:')[1].split()[0])",
        "if broken: raise ValueError('broken on purpose')",
        name="values",
        parameters="recording = ''\nbroken = False",
    )
    common = "notebook: ../notebooks/values.ipynb, recordings: {recording: ../datasets/one}"
    (root / "experiments" / "values.yaml").write_text(
        "notebook: ../notebooks/values.ipynb\nrecordings: {recording: ../datasets/one}\n"
        "claims:\n  - {name: mean, expected: 2.6, tolerance: 0.1, unit: ms}\n  - {name: largest at, equals: 3}\n"
    )
    (root / "experiments" / "paper.yaml").write_text("title: A paper\nexperiments: [values.yaml]\n")
    (root / "experiments" / "wrong.yaml").write_text(
        "experiments:\n  - values.yaml\n"
        f"  - {{name: above, {common}, claims: [{{name: mean, at_most: 2}}]}}\n"
        f"  - {{name: absent, {common}, claims: [{{name: median, at_most: 2}}]}}\n"
        f"  - {{name: broken, {common}, parameters: {{broken: true}}, claims: [{{name: mean, at_most: 9}}]}}\n"
    )
    for path in sorted(root.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o555)
    return root


def test_a_reviewer_without_privilege(checkout: Path, tmp_path: Path) -> None:
    """No capability, a checkout and a current directory that cannot be written, no home."""
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, *COMMAND, "experiments/paper.yaml"],
        capture_output=True,
        text=True,
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "the current directory cannot be written" in done.stderr
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert ["experiment", "claim", "expected", "got", "tolerance", "ok"] in rows
    assert ["values", "mean", "2.6 ms", "2.5 ms", "± 0.1", "ok"] in rows
    assert ["values", "largest at", "3", "3", "exact", "ok"] in rows
    assert "2 of 2 claims hold; 1 of 1 notebooks completed" in done.stdout
    (executed,) = tmp_path.glob("workbench-reproduced-*/values/values.ipynb")
    nb = nbformat.read(executed, 4)
    assert "effective capabilities 0000000000000000\n" in [
        output.text for cell in nb.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    ]


def test_what_does_not_hold_fails(checkout: Path, tmp_path: Path) -> None:
    arguments = [str(checkout / "experiments" / "wrong.yaml"), "-o", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(row["experiment"], row["claim"], row["got"], row["ok"]) for row in found["claims"]] == [
        ("values", "mean", 2.5, True),
        ("values", "largest at", 3, True),
        ("above", "mean", 2.5, False),
        ("absent", "median", None, False),
        ("broken", "mean", None, False),
    ]
    assert [point["status"] for point in found["points"]] == ["completed"] * 3 + ["failed"]
    assert found["ok"] is False

    again = subprocess.run([*COMMAND, *arguments, "--resume"], capture_output=True, text=True)
    assert again.returncode == 1
    assert "3 of 4 taken from the cache" in again.stderr
    assert "broken: failed: ValueError: broken on purpose" in again.stdout
    assert "absent, median: not claimed; the notebook claims mean, largest at" in again.stdout
    assert "2 of 5 claims hold; 3 of 4 notebooks completed" in again.stdout


def test_a_missing_recording_is_named(checkout: Path, tmp_path: Path) -> None:
    paper = tmp_path / "paper.yaml"
    paper.write_text(
        "experiments:\n  - {name: gone, notebook: "
        f"{checkout}/notebooks/values.ipynb, recordings: {{recording: nowhere}}}}\n"
    )
    done = subprocess.run([*COMMAND, str(paper), "-o", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"recordings.recording: there is no recording {tmp_path}/nowhere" in done.stderr
