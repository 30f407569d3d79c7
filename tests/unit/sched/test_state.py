"""What the kernel's files say is read right, and a machine without sched_ext gets an answer that helps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import host
from workbench.cli import main
from workbench.errors import BadSpec, MissingCapability, TargetGone
from workbench.objects.model import builtin
from workbench.sched import Scheduler, borrowed, read_state, state

WAITS = "import sys, os\nprint('ready', flush=True)\nsys.stdin.read()"
# SCHED_BATCH stands for SCHED_EXT where a kernel without sched_ext refuses that policy: both are set by their number.
BATCH = 3


def write(folder: Path, **content: str) -> None:
    for name, text in content.items():
        path = folder / name.replace("root_", "root/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_state_of_a_kernel_with_a_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path, state="enabled\n", enable_seq="3\n", root_ops="example_fifo\n",
        root_events="SCX_EV_SELECT_CPU_FALLBACK 0\nSCX_EV_ENQ_SKIP_EXITING 27\n\n",
    )  # fmt: skip
    monkeypatch.setattr(state, "_SYSFS", tmp_path)
    found = read_state()
    assert (found.state, found.name, found.loads, found.enabled) == (
        "enabled",
        "example_fifo",
        3,
        True,
    )
    assert found.events == {"SCX_EV_SELECT_CPU_FALLBACK": 0, "SCX_EV_ENQ_SKIP_EXITING": 27}


def test_state_of_a_kernel_without_a_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, state="disabled\n", enable_seq="3\n")
    monkeypatch.setattr(state, "_SYSFS", tmp_path)
    found = read_state()
    assert (found.name, found.enabled, found.events) == ("", False, {})


def test_another_scheduler_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, state="enabled\n", enable_seq="1\n", root_ops="somebody\n")
    monkeypatch.setattr(state, "_SYSFS", tmp_path)
    with pytest.raises(
        MissingCapability, match=r"'somebody' is enabled[\s\S]*workbench sched status"
    ):
        Scheduler(builtin("example_fifo"))


def test_an_object_without_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, state="disabled\n")
    monkeypatch.setattr(state, "_SYSFS", tmp_path)
    with pytest.raises(MissingCapability, match=r"has no scheduler[\s\S]*struct_ops"):
        Scheduler(builtin("cpu"))
    with pytest.raises(MissingCapability, match="has no scheduler 'other'"):
        Scheduler(builtin("example_fifo"), name="other")


def test_a_kernel_without_sched_ext_names_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if host.check("sched_ext").ok:  # else: this machine as it is
        monkeypatch.setattr(state, "_SYSFS", tmp_path)
    for words in (["status"], ["stats"], ["run", "example_fifo", "--", "true"]):
        assert main(["sched", *words]) == MissingCapability.exit_status
        assert "workbench lab run -- workbench sched run" in capsys.readouterr().err
    with pytest.raises(MissingCapability, match="no sched_ext"):
        Scheduler(builtin("example_fifo"))


def test_status_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path,
        state="enabled\n",
        enable_seq="1\n",
        root_ops="somebody\n",
        root_events="SCX_EV_X 5\n",
    )
    monkeypatch.setattr(state, "_SYSFS", tmp_path)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    assert main(["sched", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["name"], found["events"]) == (
        "enabled",
        "somebody",
        {"SCX_EV_X": 5},
    )
    assert main(["sched", "stats"]) == 0
    assert "SCX_EV_X" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["run", "example_fifo"], ["run", "example_fifo", "--constant", "x=y", "--", "true"]]
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sched", *words]) == BadSpec.exit_status
    assert "hint: " in capsys.readouterr().err


def test_policies_are_borrowed_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(borrowed, "SCHED_EXT", BATCH)
    forks = "import os, sys\nsys.stdin.readline()\npid = os.fork()\nif pid: print(pid, flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", f"print('ready', flush=True)\n{forks}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as target:  # fmt: skip
        assert target.stdin and target.stdout and target.stdout.readline() == "ready\n"
        loan = borrowed.Borrowed()
        loan.take(target.pid)
        assert state.policies(target.pid) == {target.pid: BATCH}
        target.stdin.write("\n")
        target.stdin.flush()
        child = int(target.stdout.readline())
        assert os.sched_getscheduler(child) == BATCH  # inherited
        loan.give_back()
        assert [os.sched_getscheduler(pid) for pid in (target.pid, child)] == [0, 0]
        assert not list((tmp_path / "sched").iterdir())


def test_a_killed_controllers_threads_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(borrowed, "SCHED_EXT", BATCH)
    takes = (
        "import sys, os, signal\nfrom workbench.sched import borrowed\nborrowed.SCHED_EXT = 3\n"
        "borrowed.Borrowed().take(int(sys.argv[1]))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as target:
        assert target.stdout and target.stdout.readline()
        subprocess.run([sys.executable, "-c", takes, str(target.pid)], check=False, timeout=60)
        assert os.sched_getscheduler(target.pid) == BATCH
        assert borrowed.give_back_left() == 1
        assert os.sched_getscheduler(target.pid) == 0
        assert borrowed.give_back_left() == 0


def test_processes_of_a_cgroup_and_of_those_below(tmp_path: Path) -> None:
    for name, text in {"": "", "a": "11\n12\n", "a/b": "13\n"}.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cgroup.procs").write_text(text)
    assert sorted(state.members(tmp_path)) == [11, 12, 13]
    assert state.members(tmp_path / "a" / "b") == [13]
    with pytest.raises(TargetGone, match="no cgroup"):
        state.members(tmp_path / "gone")


def test_damaged_notes_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    (tmp_path / "sched").mkdir()
    for name, text in {
        "1-0": "{",
        "x-y": "{}",
        "2-0": "[]",
        "3-0": '{"pids": {"a": 1}, "before": {}}',
    }.items():
        (tmp_path / "sched" / f"{name}.json").write_text(text)
    assert borrowed.give_back_left() == 0


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as target:
        target.wait()
    with pytest.raises(TargetGone):
        borrowed.Borrowed().take(target.pid)
