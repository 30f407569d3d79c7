"""The hash family against the kernel's own maps and a model: the same operations, the same results and errors."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from map_pairs import KernelMap, SharedMap, create_errors

from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space
from workbench.runtime.maps.hash_check import problems

pytestmark = pytest.mark.needs("ring buffer")

HASH, PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH = 1, 5, 9, 10
NO_PREALLOC, NO_COMMON_LRU, NUMA, ZERO_SEED = 1, 2, 4, 64
ENOENT, EEXIST, E2BIG, EINVAL = 2, 17, 7, 22

SHAPES = [
    (kind, key, value, entries, flags)
    for kind in (HASH, PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH)
    for key, value, entries, flag_sets in (
        (
            8,
            8,
            3,
            (
                0,
                NO_PREALLOC,
                NO_COMMON_LRU,
                3,
                ZERO_SEED,
                8,
                16,
                24,
                128,
                256,
                384,
                1 << 10,
                1 << 20,
            ),
        ),
        (0, 8, 3, (0,)),
        (8, 0, 3, (0,)),
        (8, 8, 0, (0,)),
        (1, 1, 1, (0, NO_PREALLOC)),
        (513, 5, 7, (0,)),
        (8, 32768, 2, (0,)),
        (8, 32769, 2, (0,)),
        (8, 1 << 22, 1, (0,)),
        (1 << 22, 8, 1, (0,)),
        (0xFFFFFFFF, 0xFFFFFFFF, 1, (0,)),
    )
    for flags in flag_sets
]


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def forget(space: Space, ours: SharedMap) -> None:
    """A few hundred maps a test: take each out of the file system at once."""
    ours.map.path.unlink()
    ours.map.path.with_suffix(".json").unlink()
    space.maps.clear()


def test_what_may_be_created() -> None:
    different = {}
    with Space() as space:
        for shape in SHAPES:
            kernel, ours = create_errors(space, LinkedMap("m", *shape))
            for made in space.maps.values():
                made.path.unlink()
            space.maps.clear()
            if kernel != ours:
                different[shape] = (kernel, ours)
    assert not different


operations = st.lists(
    st.tuples(
        st.sampled_from(("lookup", "update", "update", "update", "delete", "take")),
        st.integers(0, 8),
        st.integers(0, 255),
        st.sampled_from((0, 0, 0, 0, 1, 2, 3, 4, 8, 1 << 40)),
    ),
    min_size=1,
    max_size=60,
)


@seed(5)
@settings(max_examples=60, deadline=None, database=None)
@given(operations=operations)
@pytest.mark.parametrize("key_size", [1, 4, 8, 13])
def test_hash(space: Space, key_size: int, operations: list[tuple[str, int, int, int]]) -> None:
    """Five entries at most: full maps refuse exactly when the kernel's do; the model says so too."""
    shape = LinkedMap("h", HASH, key_size, 12, 5)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    model: dict[bytes, bytes] = {}
    try:
        for name, number, content, flags in operations:
            key, value = bytes([number]) * key_size, bytes([content]) * 12
            both = []
            for one in (kernel, ours):
                if name == "lookup":
                    both.append(one.lookup(key, flags & 0xFFFFFFFB))
                elif name == "update":
                    both.append(one.update(key, value, flags))
                elif name == "delete":
                    both.append(one.delete(key))
                else:
                    both.append(one.take(key))
            assert both[0] == both[1], (name, number, flags)
            error, result = both[1]
            match name:
                case "update":
                    if flags > 2:
                        expected = EINVAL
                    elif key in model:
                        expected = EEXIST if flags == 1 else 0
                    else:
                        expected = ENOENT if flags == 2 else E2BIG if len(model) == 5 else 0
                    if not expected:
                        model[key] = value
                    assert error == expected
                case "delete" | "take":
                    assert error == (0 if key in model else ENOENT)
                    held = model.pop(key, b"")
                    assert name == "delete" or result == held
                case _ if not error:
                    assert result == model[key]
        assert walked(ours) == walked(kernel) == set(model)
        assert problems(ours.map) == []
    finally:
        kernel.close()
        forget(space, ours)


def walked(made: KernelMap | SharedMap) -> set[bytes]:
    """All keys, by next_key from the first."""
    keys: list[bytes] = []
    error, key = made.next_key(None)
    while not error:
        keys.append(key)
        error, key = made.next_key(key)
    assert error == ENOENT
    assert len(keys) == len(set(keys))
    return set(keys)


@seed(6)
@settings(max_examples=40, deadline=None, database=None)
@given(operations=operations)
@pytest.mark.parametrize("kind", [PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH])
def test_other_kinds(space: Space, kind: int, operations: list[tuple[str, int, int, int]]) -> None:
    """Roomy maps, so that the kernel's approximate eviction does not come in: the errors are equal and so is what is
    there. A per-CPU value has a part for each slot, of which there are more than processors: all are equal here."""
    shape = LinkedMap("h", kind, 4, 8, 4096)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    percpu = kind != LRU_HASH
    theirs = _possible() if percpu else 1
    kernel.value_size, ours.value_size = 8 * theirs, 8 * ours.map.cpus
    try:
        for name, number, content, flags in operations:
            key, part = struct.pack("<I", number), bytes([content]) * 8
            parts = []
            for one, count in ((kernel, theirs), (ours, ours.map.cpus)):
                if name == "update":
                    error, result = one.update(key, part * count, flags)
                elif name == "delete":
                    error, result = one.delete(key)
                elif name == "take":
                    error, result = one.take(key)
                else:
                    error, result = one.lookup(key)
                assert result == result[:8] * (count if result else 0)
                parts.append((error, result[:8]))
            assert parts[0] == parts[1], (name, number, flags)
        assert walked(kernel) == walked(ours)
        assert problems(ours.map) == []
    finally:
        kernel.close()
        forget(space, ours)


def _possible() -> int:
    from workbench.kernel.maps import possible_cpus

    return possible_cpus()


def test_an_lru_map_keeps_what_is_used(space: Space) -> None:
    """Full maps evict instead of refusing, never more than one entry for one, and spare those that are looked up."""
    import ctypes

    from workbench.runtime.maps import current_run
    from workbench.runtime.maps.core import core

    made = space.create(LinkedMap("l", LRU_HASH, 8, 8, 64))
    drive = core().wb_map_drive
    drive.restype = ctypes.c_uint64
    drive.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *(ctypes.c_uint64,) * 4)
    for number in range(1000):
        made.update(struct.pack("<Q", number), struct.pack("<Q", number))
        drive(
            current_run(space), made.handle, 1, 0, 8, 64, number
        )  # programs that look up keys 0 to 7
        assert len(made) == min(number + 1, 64)
    assert all(struct.pack("<Q", number) in made for number in range(8))
    assert problems(made) == []
