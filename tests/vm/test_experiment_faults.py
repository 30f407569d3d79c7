"""Faults while experiments run, in a real kernel: one run of one program in the guest, whose findings are looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from workbench.lab.vm import Vm
from workbench.native.build import workload

pytestmark = [pytest.mark.needs("QEMU"), pytest.mark.timeout(3000)]

PROGRAMS = Path(__file__).with_name("programs")
LIMIT = 2700.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one
OTHER = os.SCHED_OTHER
OWN = "disabled"


@pytest.fixture(scope="module")
def seen(vm: Vm) -> dict[str, Any]:
    """What tests/vm/programs/faults.py saw."""
    vm.copy_in(workload("causal_shapes"))
    vm.copy_in(PROGRAMS / "faults.py")
    result = vm.run(["python3", "/tmp/faults.py", "/tmp/causal_shapes"], limit=LIMIT)
    errors = result.stderr.decode(errors="replace")
    assert result.status == 0, errors + vm.console[-3000:]
    found: dict[str, Any] = json.loads(result.text.rpartition("SEEN ")[2])
    assert not [one for one in found if one.endswith(" failed")], (found, errors)
    return found


def counted(run: dict[str, Any]) -> bool:
    """Both experiments count, and they predict what the program is made for: 70,000 of 90,000 turns half as long."""
    right = run["change"] == [pytest.approx(-39, abs=5)]
    return bool(
        right and run["reasons"] == ["", ""] and run["status"] == "complete" and run["state"] == OWN
    )


def test_a_cgroup_is_profiled_and_a_jump_of_the_time_of_day_changes_nothing(
    seen: dict[str, Any],
) -> None:
    assert counted(seen["cgroup"]), seen["cgroup"]
    assert seen["cgroup: policies"] == [OTHER]


def test_a_cgroup_that_empties_and_is_removed_ends_the_run(seen: dict[str, Any]) -> None:
    first, second = seen["removed"]["reasons"]
    assert first == "" and second in [
        f"the cgroup /sys/fs/cgroup/box is {how}" for how in ("empty", "gone")
    ]
    assert seen["removed"]["state"] == OWN and seen["removed: is gone"]


def test_a_command_in_a_cgroup_of_its_own(seen: dict[str, Any]) -> None:
    assert counted(seen["made"]), seen["made"]
    assert seen["made: left"] == []


def test_a_target_that_exits_ends_the_run(seen: dict[str, Any]) -> None:
    assert seen["exited"]["reasons"] == ["", "the target ended"] and seen["exited"]["state"] == OWN


def test_an_experiment_in_which_the_machine_stood_still_is_dropped(seen: dict[str, Any]) -> None:
    first, second = seen["still"]["reasons"]
    assert first == "" and second.endswith("ms nothing was sampled: the machine stood still")


def test_a_controller_that_is_killed_while_tasks_are_withheld(seen: dict[str, Any]) -> None:
    assert (seen["killed: withheld"], seen["killed: state before"]) == ("withheld", "enabled")
    assert seen["killed: goes on"]
    assert seen["killed: policies"] == [OTHER]


def test_a_scheduler_that_loses_tasks_is_taken_away(seen: dict[str, Any]) -> None:
    run = seen["stalled"]
    [reason] = run["reasons"]  # there is nothing to experiment with afterwards
    assert reason.startswith("the kernel took the scheduler away: ") and "stall" in reason
    assert "failed to run" in reason and run["state"] == OWN
    assert seen["stalled: goes on"] and seen["stalled: policies"] == [OTHER]


def test_another_scheduler_is_left_alone(seen: dict[str, Any]) -> None:
    assert seen["another"].startswith("missing-capability: the scheduler 'example_fifo' is enabled")
    assert seen["another: state"] == "example_fifo"
