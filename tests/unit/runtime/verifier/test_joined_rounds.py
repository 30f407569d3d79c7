"""Loops that walking every path does not get through: rounds are joined, and those of counted loops kept apart."""

# ruff: noqa: E501
from __future__ import annotations

import pytest
from verifier_attacks import VALUE, Attack

from workbench.errors import VerifierRejected
from workbench.runtime.verifier import Verdict, verify

_CALL = "r1 = 8388608 | r2 = subprog[{0}] | r3 = r6 | r4 = 0 | call 181"
_MAIN = (
    "*(u64 *)(r10 - 8) = 0 | r6 = r10 | r6 += -8 | "
    + _CALL.format("{0}")
    + " | r0 = *(u64 *)(r10 - 8) | exit | "
)
_AGAIN = "again: r6 = r2 | " + _CALL.format("count") + " | r0 = 0 | exit | "
_ADD = "count: r3 = *(u64 *)(r2 + 0) | r3 += 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit"
_UNTIL = "count: r3 = *(u64 *)(r2 + 0) | r3 += 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | if r3 < 100000 goto end | r0 = 1 | end: exit"

# Words and the longest of them, as clang writes it: every letter is another path.
_WORDS = (
    VALUE
    + "w0 = 0 | r2 = 0 | w1 = 0 | w3 = 0 | goto begin | letter: w3 += 1 | next: r2 += 1 | if r2 != {bytes} goto begin | "
    "done: w0 <<= 16 | w0 |= w1 | out: exit | begin: r4 = r9 | r4 += r2 | r4 = *(u8 *)(r4 + 0) | if w4 == 0 goto done | "
    "if w4 != 32 goto letter | w4 = 1 | if w3 != 0 goto some | w4 = 0 | some: if w3 > w1 goto longer | w3 = w1 | "
    "longer: w1 = w3 | w0 += w4 | w3 = 0 | goto next"
)


def verdict(text: str, budget: int = 120_000) -> Verdict:
    one = Attack("loops", "", text)
    return verify(one.program(), one.object(), budget=budget)


@pytest.mark.parametrize("text", [_MAIN.format("count"), _MAIN.format("again") + _AGAIN])
@pytest.mark.parametrize("count", [_ADD, _UNTIL])
def test_rounds_of_callbacks_are_joined_early(text: str, count: str) -> None:
    found = verdict(text + count)
    assert found.steps < 500
    assert not found.unbounded


def test_a_number_that_bounds_an_access_is_not_forgotten_by_further_rounds() -> None:
    count = "count: r3 = *(u64 *)(r2 + 0) | if r3 > 9 goto end | r3 += 1 | *(u64 *)(r2 + 0) = r3 | end: r0 = 0 | exit"
    use = VALUE + "*(u64 *)(r10 - 16) = 0 | r6 = r10 | r6 += -16 | " + _CALL.format("again")
    use += " | r1 = *(u64 *)(r10 - 16) | r9 += r1 | r0 = *(u8 *)(r9 + {0}) | out: exit | "
    assert not verdict(use.format(0) + _AGAIN + count).unbounded
    with pytest.raises(VerifierRejected, match="map value"):
        verdict(use.format(54) + _AGAIN + count)


@pytest.mark.parametrize("budget", [12, 500])
def test_rounds_of_a_counted_loop_stay_apart(budget: int) -> None:
    """The joined walk knows where each round reads, and that the loop ends."""
    found = verdict(_WORDS.format(bytes=64), budget)
    assert found.widened
    assert not found.unbounded
    with pytest.raises(VerifierRejected, match="map value"):
        verdict(_WORDS.format(bytes=65), budget)


def test_a_loop_of_more_rounds_than_are_kept_apart_stops_at_its_bound() -> None:
    found = verdict(
        VALUE
        + "r1 = 0 | call 7 | r6 = r0 | r7 = 0 | a: r7 += 1 | r8 = r7 | r8 &= 7 | r8 += r9 | r1 = *(u8 *)(r8 + 0) | r6 += r1 | "
        "if r7 < 50000 goto a | out: r0 = 0 | exit",
        1000,
    )
    assert found.widened
    assert found.unbounded
