"""Schedulers in a real kernel: one run of one program in the guest, whose findings the tests look at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench.lab.vm import Vm
from workbench.objects.compile import compile_file

pytestmark = [pytest.mark.needs("QEMU", "clang"), pytest.mark.timeout(1500)]

PROGRAMS = Path(__file__).with_name("programs")
LIMIT = 900.0  # seconds; alone on an idle machine it takes some ten
OTHER, FIFO, EXT = os.SCHED_OTHER, os.SCHED_FIFO, 7
STALL = 1026  # SCX_EXIT_ERROR_STALL
ENDED = [64, "unregistered from user space"]  # SCX_EXIT_UNREG


@pytest.fixture(scope="module")
def seen(vm: Vm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/vm/programs/schedulers.py saw."""
    stalls = tmp_path_factory.mktemp("schedulers") / "stalls.bpf.o"
    shutil.copyfile(compile_file(PROGRAMS / "stalls.bpf.c"), stalls)
    vm.copy_in(stalls)
    vm.copy_in(PROGRAMS / "schedulers.py")
    result = vm.run(["python3", "/tmp/schedulers.py"], limit=LIMIT)
    errors = result.stderr.decode(errors="replace")
    assert result.status == 0, errors + vm.console[-3000:]
    found: dict[str, Any] = json.loads(result.text.rpartition("SEEN ")[2])
    assert not [one for one in found if one.endswith(" failed")], (found, errors)
    return found


def test_tasks_are_borrowed_and_given_back(seen: dict[str, Any]) -> None:
    assert seen["policies before"] == [OTHER, FIFO]
    assert seen["policies under it"] == [EXT, EXT]
    assert seen["policy of a child"] == EXT  # forked while it was under the scheduler
    assert seen["policies after"] == [OTHER, FIFO]
    assert seen["policy of a child after"] == OTHER
    assert seen["family"] == 0


def test_a_command_runs_under_the_scheduler(seen: dict[str, Any]) -> None:
    assert (seen["name"], seen["state"], seen["policy of a command"]) == (
        "example_fifo",
        "enabled",
        EXT,
    )
    assert seen["command"] == 0
    assert seen["grown"]["started"] > 0
    assert seen["grown"]["enqueued"] > 0


def test_statistics_are_frames(seen: dict[str, Any]) -> None:
    assert seen["statistics"]["columns"] == ["counter", "value", "source"]
    assert seen["statistics"]["sources"] == ["kernel", "scheduler"]
    watch = seen["watch"]
    assert watch["columns"] == ["time", "counter", "value", "source"]
    assert watch["dtypes"] == ["int64", "int64"]
    assert watch["readings"] == len(watch["enqueued"]) >= 2
    assert watch["enqueued"] == sorted(watch["enqueued"])


def test_never_two_at_once(seen: dict[str, Any]) -> None:
    assert seen["second"].startswith("missing-capability: the scheduler 'example_fifo' is enabled")
    assert "workbench sched status" in seen["second"]
    status, told = seen["status"]
    assert status == 0 and told["name"] == "example_fifo" and seen["holders"]
    assert len(told["processes"]) == 1 and told["events"]


def test_detaching_leaves_the_kernels_own(seen: dict[str, Any]) -> None:
    assert seen["in charge"] and seen["exit meanwhile"] == 0
    assert seen["exit"] == [*ENDED, True, False]
    assert seen["state after"] == "disabled"


def test_a_killed_controller(seen: dict[str, Any]) -> None:
    assert (seen["killed: policy"], seen["killed: state"]) == (EXT, "enabled")
    assert seen["killed: the target goes on"]
    assert (seen["killed: given back"], seen["killed: policy after"]) == (1, OTHER)


def test_the_watchdog_takes_a_scheduler_that_starves_its_tasks(seen: dict[str, Any]) -> None:
    kind, reason, message = seen["starved: exit"]
    assert kind == STALL and "stall" in reason and "failed to run" in message
    assert seen["starved: output"] == "499500"  # the task was run after all
    assert seen["starved: in charge"] is False
    assert (seen["starved: kept"], seen["starved: state"]) == (STALL, "disabled")


def test_a_cgroup_with_those_below(seen: dict[str, Any]) -> None:
    assert seen["cgroup: taken"] and seen["cgroup: again"] == []
    assert (seen["cgroup: policy"], seen["cgroup: policy after"]) == (EXT, OTHER)
    assert seen["cgroup: root"].startswith("bad-spec: ")
    assert seen["cgroup: gone"].startswith("target-gone: there is no cgroup")


def test_the_command_line(seen: dict[str, Any]) -> None:
    status, told = seen["run"]
    assert (status, told["status"], told["ended_early"]) == (
        EXT,
        EXT,
        False,
    )  # its policy is its status
    assert [told["exit"]["kind"], told["exit"]["reason"]] == ENDED
    assert told["counters"]["started"] > 0
    assert "no constant named 'slize'" in seen["run: unknown constant"]
    assert "has no scheduler" in seen["run: no scheduler"]
    assert seen["stats without one"] == 1


def test_schedcoz_loads_and_unloads(seen: dict[str, Any]) -> None:
    assert seen["schedcoz"] == ["schedcoz", True]
    assert seen["schedcoz: exit"] == [ENDED[0], "disabled"]


def test_schedulers_are_compared(seen: dict[str, Any]) -> None:
    assert seen["compared"] == [["own"] * 2 + ["fifo"] * 2, ["", ENDED[1]], ["fifo"]]
    assert seen["compared: started"] > 0
