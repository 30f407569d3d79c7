from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workbench.collectors.watch.limits import UNLIMITED, Limits, Turns, Window
from workbench.collectors.watch.slots import Place, pieces


@given(st.integers(1, 1 << 48), st.integers(1, 300))
def test_pieces_cover_a_range_exactly_and_are_aligned(address: int, length: int) -> None:
    found = pieces(address, length)
    covered = [byte for one in found for byte in range(one.address, one.address + one.size)]
    assert covered == list(range(address, address + length))
    assert all(one.size in (1, 2, 4, 8) and one.address % one.size == 0 for one in found)
    assert len(found) <= length // 8 + 6


@given(st.integers(5, 40), st.integers(1, 4), st.integers(0, 1000))
def test_turns_are_fair_and_never_double(places: int, slots: int, seed: int) -> None:
    turns = Turns([Place(8 * i, 8) for i in range(places)], seed)
    taken: Counter[Place] = Counter()
    for _ in range(places * 3):
        chosen = turns.take(slots)
        assert len(set(chosen)) == slots
        taken.update(chosen)
    assert len(taken) == places
    assert max(taken.values()) - min(taken.values()) <= 2


def test_turns_can_be_repeated_by_their_seed() -> None:
    places = [Place(8 * i, 8) for i in range(10)]
    first, second = Turns(places, 3), Turns(places, 3)
    assert [first.take(2) for _ in range(20)] == [second.take(2) for _ in range(20)]


def test_no_limits() -> None:
    limits = Limits(0, 0)
    assert limits.budget == limits.share == UNLIMITED
    limits.begin(0)
    assert not limits.renew(10**12)


def test_rate_is_shared_out_over_windows() -> None:
    limits = Limits(1000, 500)
    assert (limits.budget, limits.share, limits.window) == (1000, 50, 100_000_000)
    limits.begin(0)
    assert not limits.renew(99_999_999)
    assert limits.renew(100_000_000)
    assert not limits.renew(150_000_000)
    slow = Limits(0, 2)
    assert (slow.share, slow.window) == (1, 500_000_000)


def test_a_window_counts_the_time_armed() -> None:
    window = Window(Place(8, 8), 100)
    window.arm(100)
    window.arm(120)
    window.disarm(150)
    window.disarm(170)
    window.arm(200)
    window.disarm(230)
    assert window.armed == 80
