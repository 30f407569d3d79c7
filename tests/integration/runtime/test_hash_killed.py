"""Processes killed inside operations on hash maps: at their instructions one by one, and at random times."""

from __future__ import annotations

import ctypes
import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hash_workers import Crew
from map_victims import killed_at_step

from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Map, Space, current_run
from workbench.runtime.maps.core import MapError, core
from workbench.runtime.maps.hash_check import problems, settle

HASH, PERCPU, LRU, LRU_PERCPU = 1, 5, 9, 10
LONG = bool(os.environ.get("WORKBENCH_LONG"))
# At every single instruction in the long run, at every 23rd otherwise (others in each scenario).
STRIDE = 1 if LONG else 23


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def value_of(made: Map, key: int) -> bytes | None:
    try:
        found = made.lookup(number(key))
    except KeyError:
        return None
    return bytes(found) if isinstance(found, bytes) else found[0].tobytes()


def whole(made: Map) -> None:
    assert settle(made) == 0
    assert problems(made) == []


def every_step(
    made: Map,
    function: str,
    key: int,
    prepare: Callable[[], None],
    allowed: list[bytes | None],
    *,
    warm: int = 0,
    warm_key: int | None = None,
    first: int = 1,
) -> None:
    """Kill at one instruction after the other: the key is as before or as after, the map is whole and goes on."""
    seen = set()
    for steps in range(first, 100_000, STRIDE):
        prepare()
        over = killed_at_step(
            made.space, function, made, number(key), number(77) * 64, 0, steps, warm,
            number(key if warm_key is None else warm_key), number(1) * 64,
        )  # fmt: skip
        assert not warm or biased(made), "the child did not work alone for long enough"
        found = value_of(made, key)
        assert found in allowed, steps
        seen.add(found)
        with suppress(KeyError):  # whoever meets what is left must get through
            del made[number(key)]
        whole(made)
        if over:
            assert found == allowed[-1]
            break
    assert seen == set(allowed)


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("kind", [HASH, LRU])
def test_replacing_killed_at_its_instructions(space: Space, kind: int) -> None:
    made = space.create(LinkedMap("h", kind, 8, 8, 4))
    every_step(
        made, "wb_map_write", 5, lambda: made.update(number(5), number(1)), [number(1), number(77)]
    )


@pytest.mark.needs("ptrace")
def test_a_lock_taken_from_the_dead_without_recovery_loses_slots(space: Space) -> None:
    """The control, a design that fails: opening a dead thread's lock and record destroys what recovery decides by."""
    made = space.create(LinkedMap("h", HASH, 8, 8, 4))
    header = int(made.struct.reserved[0])
    block = int(made.struct.reserved[1]) + 128 * 2  # of participant 2, the child
    heads = (ctypes.c_uint64 * 2).from_address(header)
    state = ctypes.c_uint64.from_address(block)
    armed = 0xFFFF << 32
    found: list[str] = []
    for steps in range(1, 100_000):  # from the instruction on that armed its record
        made.update(number(5), number(1))
        if killed_at_step(
            space, "wb_map_write", made, number(5), number(77), 0, steps, since=(block, armed)
        ):
            break
        if state.value & armed:
            heads[1] &= (1 << 52) - 1
            state.value = 0
            found = [one for one in problems(made) if "slots that are not linked or free" in one]
            if found:
                break
        else:
            settle(made)
    assert found, "the check of a map's wholeness sees nothing"


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("kind", [HASH, PERCPU])
def test_inserting_killed_at_its_instructions(space: Space, kind: int) -> None:
    made = space.create(LinkedMap("h", kind, 8, 8, 4))
    made.update(number(1), number(1) * (made.cpus))
    every_step(made, "wb_map_write", 5, lambda: None, [None, number(77)], first=2)


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("function", ["wb_map_erase", "wb_map_take"])
def test_deleting_killed_at_its_instructions(space: Space, function: str) -> None:
    made = space.create(LinkedMap("h", HASH, 8, 8, 4))
    made.update(number(1), number(1))
    every_step(
        made, function, 5, lambda: made.update(number(5), number(1)), [number(1), None], first=3
    )


@pytest.mark.parametrize("kind", [HASH, LRU])
def test_a_program_that_holds_and_replaces_for_long(space: Space, kind: int) -> None:
    """More often than there are slots: what it was given stays, and no update fails."""
    made = space.create(LinkedMap("h", kind, 8, 8, 4))
    made.update(number(5), number(1))
    drive = core().wb_map_drive_held
    drive.restype, drive.argtypes = (
        ctypes.c_int64,
        (*(ctypes.c_void_p,) * 2, *(ctypes.c_uint64,) * 2),
    )
    for turn in range(3):
        assert drive(current_run(space), made.handle, 5, 5000) == 0
        assert value_of(made, 5) == number(1 + 5000 * (turn + 1))
    whole(made)


# More than twice what a thread that has lost the bias often has to do alone before it gets it.
ALONE = 70_000


def biased(made: Map) -> bool:
    """Whether some thread, dead or not, writes to the map without locks."""
    return int(ctypes.c_uint64.from_address(made.struct.segment + 256).value) != 1 << 12


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("kind", [HASH, LRU])
def test_replacing_with_the_bias_killed_at_its_instructions(space: Space, kind: int) -> None:
    made = space.create(LinkedMap("h", kind, 8, 64, 4))
    every_step(
        made, "wb_map_write", 5, lambda: None, [number(1) * 8, number(77) * 8], warm=ALONE
    )  # fmt: skip


@pytest.mark.needs("ptrace")
def test_inserting_with_the_bias_killed_at_its_instructions(space: Space) -> None:
    made = space.create(LinkedMap("h", HASH, 8, 8, 4))
    every_step(
        made, "wb_map_write", 5, lambda: None, [None, number(77)], warm=ALONE, warm_key=6, first=2
    )


@pytest.mark.needs("ptrace")
def test_deleting_with_the_bias_killed_at_its_instructions(space: Space) -> None:
    made = space.create(LinkedMap("h", HASH, 8, 8, 4))
    every_step(
        made, "wb_map_erase", 5, lambda: made.update(number(5), number(1)), [number(1), None],
        warm=ALONE, warm_key=6, first=3,
    )  # fmt: skip


@pytest.mark.needs("ptrace")
def test_taking_the_bias_away_killed_at_its_instructions(space: Space) -> None:
    """From a live thread, this one, which goes on afterwards."""
    made = space.create(LinkedMap("h", HASH, 8, 8, 4))
    drive = core().wb_map_drive
    pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
    drive.argtypes = (pointer, pointer, ctypes.c_int, u64, u64, u64, u64)

    def alone() -> None:
        drive(current_run(space), made.handle, 2, 5, 1, ALONE, 1)
        assert biased(made)
        made.update(number(5), number(1))

    every_step(made, "wb_map_write", 5, alone, [number(1), number(77)], first=4)


def one_bucket(made: Map, count: int) -> list[int]:
    """Keys that share a bucket, `count` of them in the map: the last are in the chain."""
    words = (ctypes.c_uint64 * 8).from_address(int(made.struct.reserved[0]))
    keys: list[int] = []
    for key in range(100_000):
        before = words[7], words[0]
        made.update(number(key), number(1))
        chained = len(keys) >= 7 and words[7] != before[0]
        if chained or words[0] != before[1] or (len(keys) == 7 and words[0] >> 56):
            keys.append(key)
        else:
            # In another bucket, or in this one's chain behind its first: that cannot be, new ones go first.
            del made[number(key)]
        if len(keys) == count:
            return keys
    raise AssertionError("no keys share a bucket")


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("which", [0, 6, 8])
def test_chains_killed_at_their_instructions(space: Space, which: int) -> None:
    made = space.create(LinkedMap("h", HASH, 8, 8, 64))
    keys = one_bucket(made, 10)
    every_step(
        made, "wb_map_erase", keys[which], lambda: made.update(number(keys[which]), number(1)),
        [number(1), None], first=4,
    )  # fmt: skip
    assert len(made) == 9
    for key in keys:
        assert (value_of(made, key) == number(1)) == (key != keys[which])


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("kind", [LRU, *([LRU_PERCPU] * LONG)])
def test_evicting_killed_at_its_instructions(space: Space, kind: int) -> None:
    made = space.create(LinkedMap("h", kind, 8, 8, 3))

    def fill() -> None:
        for key in (1, 2, 3):
            made.update(number(key), number(1) * made.cpus)

    every_step(made, "wb_map_write", 5, fill, [None, number(77)], first=5)


@pytest.mark.needs("ptrace")
def test_stealing_killed_at_its_instructions(space: Space) -> None:
    """The only credit is this process's: the child has to take it from the block of a live thread."""
    made = space.create(LinkedMap("h", HASH, 8, 8, 2))

    def hold() -> None:
        made.update(number(1), number(1))
        made.update(number(2), number(1))
        with pytest.raises(MapError, match="E2BIG"):
            made.update(number(3), number(1))
        del made[number(2)]

    every_step(made, "wb_map_write", 5, hold, [None, number(77)], first=6)


@pytest.mark.needs("ptrace")
def test_first_operation_killed_at_its_instructions(space: Space) -> None:
    """A map that nobody used yet: adopting the block, taking slots and credits from the store."""
    for steps in range(1, 100_000, 10 * STRIDE):
        made = space.create(LinkedMap("h", HASH, 8, 256, 4))
        over = killed_at_step(space, "wb_map_write", made, number(5), number(77) * 32, 0, steps)
        assert value_of(made, 5) in (None, number(77) * 32)
        made.update(number(5), number(3) * 32)
        whole(made)
        made.path.unlink()
        space.maps.clear()
        if over:
            return


@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("part", [0.35, 0.6, 0.75, 0.9] if LONG else [0.75, 0.9])
def test_reapers_killed_too(space: Space, part: float) -> None:
    """The first child dies inside an update, the second while it cleans up after the first, at any instruction."""
    made = space.create(LinkedMap("h", HASH, 8, 8, 4))
    made.update(number(5), number(1))
    length = next(  # instructions of one update
        n
        for n in range(50, 100_000, 10)
        if killed_at_step(space, "wb_map_write", made, number(5), number(2), 0, n)
    )
    for steps in range(1, 100_000, STRIDE):
        made.update(number(5), number(1))
        killed_at_step(space, "wb_map_write", made, number(5), number(77), 0, int(length * part))
        over = killed_at_step(space, "wb_map_write", made, number(5), number(78), 0, steps)
        found = value_of(made, 5)
        assert found in (number(1), number(77), number(78))
        made.update(number(5), number(4))
        whole(made)
        if over:
            assert found == number(78)
            return


@pytest.mark.parametrize(
    ("kind", "keys", "entries"),
    [(HASH, 300, 250), (HASH, 5, 8), (LRU, 300, 100), (LRU, 3000, 2000)],
)
def test_killed_at_random(space: Space, kind: int, keys: int, entries: int) -> None:
    """One of three dies, every other time staying a zombie; the others go on; then all die."""
    made = space.create(LinkedMap("h", kind, 8, 64, entries))
    crew = Crew(made, keys)
    random_number = random.Random(kind * keys)
    try:
        for turn in range(250 if LONG else 4):
            for worker in range(3):
                crew.start(worker)
            crew.progress([0, 1, 2], random_number.randrange(1, 2000))
            crew.kill(0, reap=bool(turn % 2))
            crew.progress([1, 2], 50)
            crew.kill(1)
            crew.kill(2)
            if not turn % 2:
                whole(made)  # with the zombie there
                crew.reap(0)
            whole(made)
        assert crew.wrong == 0
    finally:
        crew.close()


@pytest.mark.parametrize(("kind", "keys", "entries"), [(HASH, 200, 300), (LRU, 300, 100)])
def test_pointers_hold_their_values(space: Space, kind: int, keys: int, entries: int) -> None:
    """A value that a program holds stays that key's value, whole, while three processes replace it."""
    made = space.create(LinkedMap("h", kind, 8, 64, entries))
    crew = Crew(made, keys)
    try:
        for worker in range(3):
            crew.start(worker)
        crew.start(3, writes=False)
        crew.progress([0, 1, 2, 3], 100_000 if not LONG else 20_000_000)
        crew.stop()
        assert crew.wrong == 0
        whole(made)
    finally:
        crew.close()


def test_pointers_of_who_does_not_say_that_it_runs(space: Space) -> None:
    """The control: without an epoch, values are torn or another key's; the test above can see that."""
    made = space.create(LinkedMap("h", HASH, 8, 2048, 2))
    crew = Crew(made, 2)
    try:
        crew.start(0)
        crew.start(1, writes=False, guarded=False)
        for _ in range(2000):
            crew.progress([0, 1], 1000)
            if crew.wrong:
                return
        raise AssertionError("an unguarded reader never saw a value change under its hands")
    finally:
        crew.close()
