"""Which experiments are chosen, and how long they last."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import pytest

from workbench.causal.plan import Choice, Length, Plan, choices, draw_speedup
from workbench.causal.regions import Region
from workbench.errors import BadSpec

A, B = Region("a"), Region("b")


def test_speed_ups_are_drawn_as_coz_does() -> None:
    random = Random(7)
    drawn = Counter(draw_speedup(random) for _ in range(28_000))
    assert sorted(drawn) == [pytest.approx(step / 20) for step in range(21)]
    assert drawn[0.0] == pytest.approx(8000, abs=400)  # 5 standard deviations
    assert all(drawn[step / 20] == pytest.approx(1000, abs=160) for step in range(1, 21))


def test_regions_are_chosen_as_often_as_they_were_sampled() -> None:
    plan = Plan((A, B), weights=(3, 1))
    drawn = Counter(one.region.spec for one in itertools.islice(choices(plan, Random(3)), 4000))
    assert drawn["a"] == pytest.approx(3000, abs=140)


def test_given_speed_ups_come_in_turn_with_zero_and_shuffled() -> None:
    plan = Plan((A, B), speedups=(0.5, 0.25), rounds=20)
    made = list(choices(plan, Random(1)))
    turns = [made[at : at + 6] for at in range(0, len(made), 6)]
    assert len(turns) == 20
    every = {Choice(region, speedup) for region in (A, B) for speedup in (0.0, 0.25, 0.5)}
    assert all(set(turn) == every for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 10


def test_the_same_seed_makes_the_same_choices() -> None:
    def made(seed: int) -> list[Choice]:
        return list(itertools.islice(choices(Plan((A, B)), Random(seed)), 50))

    assert made(5) == made(5) != made(6)


def test_length_follows_the_rate_of_progress() -> None:
    length = Length(0.5)
    seen = []
    for fewest in (4, 0, 4, 4, 4, 4):
        length.learn(fewest)
        seen.append(length.seconds)
    assert seen == [1, 2, 4, 8, 8, 8]  # 16 times the shortest at most
    for fewest in (5, 10):
        length.learn(fewest)
        assert length.seconds == 8
    for _ in range(6):
        length.learn(11)
    assert length.seconds == 0.5


@pytest.mark.parametrize(
    "fields",
    [
        {"speedups": (1.1,)},
        {"speedups": (-0.1,)},
        {"weights": (1.0,)},
        {"shortest": 0},
        {"seconds": -1},
        {"rounds": 2},
        {"regions": ()},
    ],
)
def test_plans_that_make_no_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadSpec):
        Plan(**{"regions": (A, B), **fields})  # type: ignore[arg-type]
