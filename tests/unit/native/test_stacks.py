from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import BadSpec
from workbench.native.build import compiler
from workbench.native.library import CORE
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


COLLISION = r"""
#include "stacks.c"
#include <assert.h>
#include <stdio.h>

/* Inverse of an odd number modulo 2^64, by Newton's iteration. */
static uint64_t inverse(uint64_t x)
{
	uint64_t y = x;

	for (int i = 0; i < 6; i++)
		y *= 2 - x * y;
	return y;
}

static uint64_t unshift(uint64_t x, int by)
{
	uint64_t y = x;

	for (int i = 0; i < 3; i++)
		y = x ^ (y >> by);
	return y;
}

int main(void)
{
	const uint64_t ka = UINT64_C(0xff51afd7ed558ccd), kb = UINT64_C(0xc4ceb9fe1a85ec53);
	const uint64_t seed_a = 7 ^ (UINT64_C(2) << 32), seed_b = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t one[2] = { 0x401000, 0x402000 }, other[2] = { 0, 0x409999 };
	uint64_t a = (one[0] ^ seed_a) * ka, b = (one[1] ^ seed_b) * kb, c = (other[1] ^ seed_b) * kb;
	int32_t pids[3] = { 7, 7, 7 }, lengths[3] = { 2, 2, 2 }, ids[3];
	uint64_t both[6];

	a ^= a >> 29;
	b ^= b >> 31;
	c ^= c >> 31;
	other[0] = (unshift(a ^ mix(b) ^ mix(c), 29) * inverse(ka)) ^ seed_a;
	assert(hash_stack(7, one, 2) == hash_stack(7, other, 2));
	assert(one[0] != other[0]);

	struct wb_stacks *set = wb_stacks_new(100, 100);
	memcpy(both, one, sizeof(one));
	memcpy(both + 2, other, sizeof(other));
	memcpy(both + 4, one, sizeof(one));
	assert(wb_stacks_intern(set, 3, pids, lengths, both, 6, ids) == 2);
	printf("%d %d %d\n", ids[0], ids[1], ids[2]);
	wb_stacks_free(set);
	wb_stacks_free(NULL);
	return 0;
}
"""


def test_stacks_with_one_hash_are_told_apart(tmp_path: Path) -> None:
    source = tmp_path / "collision.c"
    source.write_text(COLLISION)
    native = CORE.parent
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    subprocess.run(
        [
            compiler(),
            "-std=c11",
            "-g",
            *sanitize,
            f"-I{native}",
            "-o",
            tmp_path / "collision",
            source,
        ],
        check=True,
    )
    done = subprocess.run([tmp_path / "collision"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "0"]


HOSTILE = """
import ctypes, random
import numpy as np
from workbench.native.stacks import StackInterner
from workbench.errors import BadSpec

rng = random.Random(3)
for _ in range(60):
    interner = StackInterner(max_stacks=rng.choice([1, 3000, 1 << 20]), max_bytes=8 * rng.choice([1, 20_000, 1 << 20]))
    model = {}
    for _ in range(20):
        stacks = [
            (rng.randrange(3), [rng.randrange(50) for _ in range(rng.randrange(6))])
            for _ in range(rng.randrange(300))
        ]
        lengths = [len(stack) for _, stack in stacks]
        flat = np.array([address for _, stack in stacks for address in stack], np.uint64)
        wrong = rng.random() < 0.2
        if wrong and lengths:
            lengths[rng.randrange(len(lengths))] += rng.choice([-7, 1, 1 << 30])
        try:
            ids = interner.intern([pid for pid, _ in stacks], flat, lengths).tolist()
        except BadSpec:
            assert wrong
            continue
        for (pid, stack), number in zip(stacks, ids):
            if number >= 0:
                assert model.setdefault(number, (pid, stack)) == (pid, stack)
            else:
                assert number == (-2 if stack else -1)
        new = interner.new()
        assert len(new.addresses) == new.lengths.sum()
    interner.close()
print("clean")
"""


def test_clean_under_sanitizers(run_sanitized: Callable[..., str]) -> None:
    assert run_sanitized(HOSTILE).split() == ["clean"]
