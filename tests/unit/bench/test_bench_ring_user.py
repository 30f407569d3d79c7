"""What `workbench bench ring-user` takes for lost, torn or out of order."""

from __future__ import annotations

import numpy as np

from workbench.bench.ring_user import Checker
from workbench.cli.bench import benchmarks


def columns(producer: list[int], number: list[int]) -> dict[str, np.ndarray]:
    who, count = np.array(producer, np.uint64), np.array(number, np.uint64)
    return {"producer": who, "number": count, "check": who ^ count, "end": ~count}


def test_whole_records_of_several_producers() -> None:
    checker = Checker()
    checker.take(columns([1, 2, 1, 2], [0, 70, 1, 71]))
    checker.take(columns([1, 3], [2, 0]))
    assert (checker.received, checker.bad) == (6, 0)
    assert checker.following == {1: 3, 2: 72, 3: 1}


def test_gaps_and_torn_records_are_seen() -> None:
    checker = Checker()
    checker.take(columns([1, 1], [0, 2]))
    assert checker.bad == 1
    checker.take(columns([1], [4]))
    assert checker.bad == 2
    torn = columns([1], [5])
    torn["end"][0] = 0
    checker.take(torn)
    assert checker.bad == 3


def test_it_goes_by_its_name_with_a_dash() -> None:
    assert "ring-user" in benchmarks()
