"""The period at 0 % against that under the kernel's own scheduler, with engines whose periods are known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from causal_engines import Synthetic

from workbench.causal.baseline import measure_baseline
from workbench.causal.target import Target
from workbench.sched.measured import Measured


class Endless(Target):
    def close(self) -> None:
        pass

    def pids(self) -> list[int]:
        return []

    def wait(self, seconds: float) -> bool:
        return True


class Other(Synthetic):
    """An engine under which the program is slower by a factor, in which one point is passed too rarely."""

    def __init__(self, factor: float, counts: list[int]) -> None:
        super().__init__(counts=counts)
        self.factor, self.plain, self.lent_times = factor, False, 0

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        self.plain, self.lent_times = True, self.lent_times + 1
        yield
        self.plain = False

    def end(self) -> list[Measured]:
        from dataclasses import replace

        noise = 1 + self.random.uniform(-0.01, 0.01)
        period = 1e7 * noise * (1.0 if self.plain else self.factor)
        return [replace(one, real_period=period) for one in super().end()]


@pytest.mark.parametrize(
    ("factor", "comparable"), [(1.0, True), (1.02, True), (1.2, False), (0.9, False)]
)
def test_a_difference_of_more_than_three_points_is_not_comparable(
    factor: float, comparable: bool
) -> None:
    engine = Other(factor, [50])
    found = measure_baseline(engine, engine.lent, Endless(), ["done"], pairs=8)
    assert found is not None
    assert found.comparable is comparable
    assert found.difference == pytest.approx(100 * (factor - 1), abs=1.5)
    assert engine.lent_times == 8 and not engine.plain


def test_a_point_that_is_passed_too_rarely_says_nothing() -> None:
    engine = Other(1.5, [2])
    assert measure_baseline(engine, engine.lent, Endless(), ["done"]) is None


def test_a_target_that_ends_is_given_up() -> None:
    class Ends(Endless):
        def wait(self, seconds: float) -> bool:
            return False

    engine = Other(1.0, [50])
    assert measure_baseline(engine, engine.lent, Ends(), ["done"]) is None
    assert not engine.plain
