"""Scopes that are cgroups, in a real kernel: one run of one program in the guest, whose findings the tests look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from workbench.lab.vm import Vm

pytestmark = [pytest.mark.needs("QEMU"), pytest.mark.timeout(1500)]

PROGRAMS = Path(__file__).with_name("programs")
LIMIT = 1200.0  # seconds; alone on an idle machine it takes some ten
OTHER, EXT = os.SCHED_OTHER, 7


@pytest.fixture(scope="module")
def seen(vm: Vm) -> dict[str, Any]:
    """What tests/vm/programs/scopes.py saw."""
    vm.copy_in(PROGRAMS / "scopes.py")
    result = vm.run(["python3", "/tmp/scopes.py"], limit=LIMIT)
    errors = result.stderr.decode(errors="replace")
    assert result.status == 0, errors + vm.console[-3000:]
    found: dict[str, Any] = json.loads(result.text.rpartition("SEEN ")[2])
    assert not [one for one in found if one.endswith(" failed")], (found, errors)
    return found


def test_what_enters_a_cgroup_is_taken_and_what_leaves_it_given_back(seen: dict[str, Any]) -> None:
    # moved in with its threads, moved into one made later below, born inside by clone3: the program waits for each
    assert seen["taken"] and seen["again"] == []
    assert seen["a child"] == EXT
    assert seen["its parent"] == OTHER  # only the child went in
    assert seen["the child stays"] == EXT  # when its parent left
    assert seen["one that was named"] == EXT  # `take` holds wherever it goes
    assert seen["after"] == [OTHER] * 6


def test_a_cgroup_that_empties_and_goes(seen: dict[str, Any]) -> None:
    assert seen["population"] == ["populated", "empty", "removed"]


def test_a_command_in_a_cgroup_of_its_own(seen: dict[str, Any]) -> None:
    assert seen["run"] == [0, EXT, True]
    # The daemon that it left behind is where the command came from, with the kernel's own scheduler; no cgroup is left.
    assert seen["run: left behind"] == [1, [OTHER], []]


def test_the_cgroup_of_a_killed_controller_is_removed_at_the_next_start(
    seen: dict[str, Any],
) -> None:
    assert seen["killed: inside"]
    assert seen["killed: removed"] == [1, False]
    assert seen["killed: target"]  # it goes on, where it was before


def test_a_cgroup_is_removed_once(seen: dict[str, Any]) -> None:
    assert seen["made"] and seen["made: removed"]
    assert seen["state"] == "disabled"
