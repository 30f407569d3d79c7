"""Comparing conditions on a machine whose speed drifts: what is put in comes out, with errors that hold."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.causal.drift import effects


def measured(
    seed: int, drift: float, error: float, rounds: int = 40
) -> tuple[list[float], list[float], list[str]]:
    """Three conditions, b 10 % and c 30 % shorter than a, in shuffled rounds, on a machine that drifts."""
    random = np.random.default_rng(seed)
    times, values, conditions, speed = [], [], [], 0.0
    for _ in range(rounds):
        for one in random.permutation(["a", "b", "c"]):
            speed += drift * random.normal()
            true = {"a": 0.0, "b": np.log(0.9), "c": np.log(0.7)}[str(one)]
            times.append(float(len(times)))
            values.append(true + speed + error * random.normal())
            conditions.append(str(one))
    return times, values, conditions


@pytest.mark.parametrize(("drift", "error"), [(0.0, 0.03), (0.02, 0.02), (0.05, 0.005)])
def test_what_was_put_in_comes_out(drift: float, error: float) -> None:
    scores = []
    for seed in range(20):
        found = effects(*measured(seed, drift, error))
        for one, true in (("b", np.log(0.9)), ("c", np.log(0.7))):
            difference, standard = found.difference(one, "a")
            scores.append((difference - true) / standard)
    # 40 values that should be standard normal: their spread says whether the errors are what they are said to be.
    assert 0.7 < np.std(scores) < 1.4
    assert abs(np.mean(scores)) < 0.5


def test_drift_is_taken_off_where_means_are_fooled_by_it() -> None:
    by_model, by_means = [], []
    for seed in range(20):
        times, values, conditions = measured(seed, 0.05, 0.005)
        found = effects(times, values, conditions)
        by_model.append(found.difference("c", "a")[0] - np.log(0.7))
        mean = {
            one: np.mean([v for v, c in zip(values, conditions, strict=True) if c == one])
            for one in "ac"
        }
        by_means.append(mean["c"] - mean["a"] - np.log(0.7))
    assert np.std(by_model) < 0.8 * np.std(by_means)


def test_an_interruption_does_not_move_the_result() -> None:
    times, values, conditions = measured(1, 0.0, 0.01)
    undisturbed = effects(times, values, conditions).difference("c", "a")[0]
    values[conditions.index("c", 20)] += 3.0
    assert effects(times, values, conditions).difference("c", "a")[0] == pytest.approx(
        undisturbed, abs=0.01
    )


def test_one_value_each_gives_the_values_without_errors() -> None:
    found = effects([0, 1], [1.0, 2.0], ["a", "b"])
    difference, error = found.difference("b", "a")
    assert difference == 1.0
    assert np.isnan(error)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 times, 1 values"):
        effects([0, 1], [1.0], ["a", "b"])
