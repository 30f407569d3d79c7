"""The doctor on this machine, as this user and as a user without any privilege."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.host import NAMES, Doctor, doctor

ROOT = Path(__file__).parents[3]
NOBODY = 65534


@pytest.fixture(scope="module")
def here() -> Doctor:
    return doctor()


def test_every_row_is_tried_and_explained(here: Doctor) -> None:
    assert tuple(row.name for row in here) == NAMES
    for row in here:
        assert row.reason
        assert bool(row.remedy) != row.ok, row


def test_what_needs_no_privilege_or_package_works_on_any_linux(here: Doctor) -> None:
    # Sanity of the trials themselves: these hold wherever the tests can run at all.
    assert here["C compiler"].ok, here["C compiler"]
    assert here["native core"].ok, here["native core"]


def test_examining_leaves_nothing_behind() -> None:
    def state() -> tuple[set[str], set[str], list[str]]:
        descriptors = {path.name for path in Path("/proc/self/fd").iterdir()}
        scratch = {path.name for path in Path(tempfile.gettempdir()).glob("workbench-doctor*")}
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return descriptors, scratch, mounts

    before = state()
    doctor([name for name in NAMES if name not in ("Chromium", "bcc")])
    assert state() == before


def test_command_line_prints_json() -> None:
    command = [sys.executable, "-m", "workbench.cli", "doctor", "--json", "BTF", "clang"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [row["name"] for row in rows] == ["BTF", "clang"]
    assert all(set(row) == {"name", "ok", "reason", "remedy"} for row in rows)


def test_command_line_names_the_nearest_for_a_typing_error() -> None:
    command = [sys.executable, "-m", "workbench.cli", "doctor", "uprobs"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "uprobe" in run.stderr


@pytest.fixture(scope="module")
def readable_copy() -> Iterator[Path]:
    """The package where everybody can read it: a checkout under /root cannot be read by others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "workbench", Path(folder, "workbench"), ignore=ignore)
        yield Path(folder)


@pytest.fixture(scope="module")
def unprivileged(readable_copy: Path) -> dict[str, dict[str, Any]]:
    script = "from workbench.host import doctor, NAMES; print(doctor([n for n in NAMES if n != 'Chromium']).to_json())"
    errors = []
    for python in (sys.executable, "/usr/bin/python3.11", "/usr/bin/python3"):
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if os.geteuid() == 0 else {}
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(readable_copy), "HOME": "/nonexistent"}
        try:
            run = subprocess.run(
                [python, "-c", script],
                env=environment, cwd="/", capture_output=True, text=True, check=False,
                **identity,  # type: ignore[call-overload]
            )  # fmt: skip
        except OSError as error:
            errors.append(f"{python}: {error}")
            continue
        if run.returncode == 0:
            return {row["name"]: row for row in json.loads(run.stdout)}
        errors.append(f"{python}: {run.stderr}")
    raise AssertionError("\n".join(errors))


def test_without_privilege_the_table_is_whole(unprivileged: dict[str, dict[str, Any]]) -> None:
    assert set(unprivileged) == set(NAMES) - {"Chromium"}
    for row in unprivileged.values():
        assert row["reason"] and bool(row["remedy"]) != row["ok"], row


def test_a_refusal_says_eperm_and_how_to_grant_it(unprivileged: dict[str, dict[str, Any]]) -> None:
    refused = [row for row in unprivileged.values() if row["reason"].startswith("EPERM")]
    for name in ("uprobe", "raw tracepoint", "ring buffer"):
        if not unprivileged[name]["ok"]:  # a machine may allow BPF to everybody
            assert unprivileged[name] in refused
            assert "setcap cap_bpf" in unprivileged[name]["remedy"], unprivileged[name]


def test_the_advised_capabilities_are_enough(here: Doctor, readable_copy: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can hand out capabilities")
    names = [name for name in ("uprobe_multi", "raw tracepoint", "ring buffer", "hardware breakpoint") if here[name].ok]
    script = f"from workbench.host import doctor; print(doctor({names!r}).to_json())"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+bpf,+perfmon",
            "--ambient-caps=+bpf,+perfmon", "env", f"PYTHONPATH={readable_copy}", python, "-c", script,
        ]  # fmt: skip
        run = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if run.returncode == 0:
            break
    rows = json.loads(run.stdout)
    assert [(row["name"], row["reason"]) for row in rows if not row["ok"]] == []
    assert len(rows) == len(names)


def test_what_root_can_do_unprivileged_users_may_lack_but_never_the_reverse(
    here: Doctor, unprivileged: dict[str, dict[str, Any]]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("compares root with nobody")
    versions = {"python perf trampolines"}  # about the interpreter, which may be another one for nobody
    more = {row["name"] for row in unprivileged.values() if row["ok"] and not here[row["name"]].ok}
    assert more <= versions
    assert not all(row["ok"] for row in unprivileged.values())
