from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import BadSpec
from workbench.native.stacks import NO_STACK, OVERFLOWED, StackInterner

STACK = st.tuples(st.integers(1, 3), st.lists(st.integers(0, 3), max_size=4).map(tuple))


def intern(interner: StackInterner, stacks: list[tuple[int, tuple[int, ...]]]) -> list[int]:
    addresses = [address for _, stack in stacks for address in stack]
    return interner.intern(
        [pid for pid, _ in stacks],
        np.array(addresses, np.uint64),
        [len(stack) for _, stack in stacks],
    ).tolist()


def told(interner: StackInterner) -> dict[int, tuple[int, tuple[int, ...]]]:
    new = interner.new()
    ends = np.cumsum(new.lengths)
    return {
        new.first + i: (pid, tuple(new.addresses[end - length : end].tolist()))
        for i, (pid, length, end) in enumerate(
            zip(new.pids.tolist(), new.lengths.tolist(), ends.tolist(), strict=True)
        )
    }


@settings(max_examples=200, deadline=None)
@given(batches=st.lists(st.lists(STACK, max_size=20), max_size=6))
def test_same_as_a_dict(batches: list[list[tuple[int, tuple[int, ...]]]]) -> None:
    interner = StackInterner()
    model: dict[tuple[int, tuple[int, ...]], int] = {}
    all_told: dict[int, tuple[int, tuple[int, ...]]] = {}
    for batch in batches:
        expected = [model.setdefault(one, len(model)) if one[1] else NO_STACK for one in batch]
        assert intern(interner, batch) == expected
        all_told |= told(interner)
    assert all_told == {number: one for one, number in model.items()}
    assert len(interner) == len(model)


def test_many_stacks_survive_growth() -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 40, 60_000).astype(np.int32)
    addresses = rng.integers(0, 1 << 47, int(lengths.sum())).astype(np.uint64)
    pids = rng.integers(1, 5, len(lengths)).astype(np.int32)
    interner = StackInterner()
    first = interner.intern(pids, addresses, lengths)
    np.testing.assert_array_equal(first, np.arange(len(lengths)))
    np.testing.assert_array_equal(interner.intern(pids, addresses, lengths), first)
    new = interner.new()
    assert new.first == 0
    np.testing.assert_array_equal(new.addresses, addresses)
    np.testing.assert_array_equal(new.lengths, lengths)
    np.testing.assert_array_equal(new.pids, pids)
    assert interner.new().pids.size == 0


def test_prefixes_order_and_process_make_a_difference() -> None:
    interner = StackInterner()
    assert intern(interner, [(1, (5, 6)), (1, (5,)), (1, (6, 5)), (2, (5, 6)), (1, (5, 6, 0))]) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_number_of_stacks_is_bounded() -> None:
    interner = StackInterner(max_stacks=2)
    assert intern(interner, [(1, (1,)), (1, (2,)), (1, (3,)), (1, (1,)), (1, (3,))]) == [
        0,
        1,
        OVERFLOWED,
        0,
        OVERFLOWED,
    ]
    assert interner.overflowed == 2
    assert len(told(interner)) == 2


def test_bytes_are_bounded_and_short_stacks_still_fit() -> None:
    interner = StackInterner(max_bytes=8 * 10)
    assert intern(interner, [(1, tuple(range(8))), (1, tuple(range(3))), (1, (1, 2))]) == [
        0,
        OVERFLOWED,
        1,
    ]
    assert interner.overflowed == 1


@pytest.mark.parametrize(
    ("pids", "addresses", "lengths"),
    [
        ([1], [1, 2], [1]),
        ([1], [1], [2]),
        ([1, 1], [1], [2, -1]),
        ([1], [1], [1, 0]),
        ([1], [], [1 << 30]),
    ],
)
def test_lengths_that_do_not_add_up(
    pids: list[int], addresses: list[int], lengths: list[int]
) -> None:
    interner = StackInterner()
    with pytest.raises(BadSpec):
        interner.intern(pids, np.array(addresses, np.uint64), lengths)
    assert len(interner) == 0


def test_limits_that_make_no_sense() -> None:
    for options in ({"max_stacks": 0}, {"max_bytes": 0}, {"max_stacks": 2**31 - 1}):
        with pytest.raises(BadSpec, match="no room for a table"):
            StackInterner(**options)


def test_closed_interner_says_so() -> None:
    interner = StackInterner()
    interner.close()
    interner.close()
    with pytest.raises(ValueError, match="closed"):
        interner.intern([1], [1], [1])
