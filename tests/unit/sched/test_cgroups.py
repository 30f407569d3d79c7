"""Control groups as scopes, on this machine's own hierarchy where this user may make one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.causal.target import CgroupTarget, ProcessTarget
from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone
from workbench.sched import cgroups
from workbench.sched.cgroups import MadeCgroup, Population, cgroup_of, parse_scope, scope_folder

WAITS = [sys.executable, "-S", "-c", "import sys; print(1, flush=True); sys.stdin.read()"]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeCgroup]:
    monkeypatch.setattr(cgroups, "_notes", lambda: tmp_path)
    try:
        one = MadeCgroup()
    except (MissingCapability, NotPermitted) as error:
        pytest.skip(f"no cgroup can be made here: {error.message}")
    yield one
    one.end()
    one.remove()
    assert not one.folder.exists()


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield process
        process.kill()


def test_what_a_scope_says(tmp_path: Path) -> None:
    assert parse_scope("pid") == ("pid", None)
    assert parse_scope("cgroup") == ("cgroup", None)
    for strange in ("", "pid:4", "cgroup:", "machine"):
        with pytest.raises(BadSpec, match="is not known"):
            parse_scope(strange)
    with pytest.raises(TargetGone, match="there is no cgroup"):
        parse_scope(f"cgroup:{tmp_path / 'none'}")
    with pytest.raises(BadSpec, match="is not a cgroup"):
        parse_scope(f"cgroup:{tmp_path}")


def test_a_process_enters_and_what_is_left_is_moved_back(
    made: MadeCgroup, waiting: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    origin = cgroup_of(waiting.pid)
    assert scope_folder(made.folder) == made.folder
    assert [path.read_text() for path in tmp_path.iterdir()] == [str(made.folder)]
    (made.folder / "below").mkdir()
    made.enter(waiting.pid)
    assert cgroup_of(waiting.pid) == made.folder
    made.remove()
    assert cgroup_of(waiting.pid) == origin and waiting.poll() is None
    assert not made.folder.exists() and not list(tmp_path.iterdir())


def test_a_target_that_is_a_cgroup_ends_when_it_is_empty(
    made: MadeCgroup, waiting: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(TargetGone, match="no process is in the cgroup"):
        CgroupTarget(made.folder)
    made.enter(waiting.pid)
    target = CgroupTarget(made.folder)
    assert (target.pid, target.pids(), target.wait(0.01)) == (waiting.pid, [waiting.pid], True)
    waiting.kill()
    assert target.wait(60) is False and target.pids() == []
    assert target.ended == f"the cgroup {made.folder} is empty"
    made.remove()
    assert target.wait(60) is False and target.pids() == []
    assert target.ended == f"the cgroup {made.folder} is gone"
    target.close()


def test_a_command_beside_what_is_in_a_cgroup(
    made: MadeCgroup, waiting: subprocess.Popen[bytes]
) -> None:
    made.enter(waiting.pid)
    target = ProcessTarget(os.getpid(), made.folder)
    assert {os.getpid(), waiting.pid} <= set(target.pids())
    assert len(target.pids()) == len(set(target.pids()))
    target.close()


def test_who_does_not_listen_is_killed(made: MadeCgroup) -> None:
    deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-S", "-c", deaf], stdin=-1, stdout=-1) as process:
        assert process.stdout and process.stdout.readline()
        made.enter(process.pid)
        watch = Population(made.folder)
        assert watch.state == "populated"
        made.end(0.05)
        assert watch.state == "empty" and process.wait(60) == -9
        watch.close()


def test_only_the_cgroups_of_controllers_that_are_gone_are_removed(made: MadeCgroup) -> None:
    assert cgroups.remove_left() == 0 and made.folder.exists()
