"""Batches of user space against BPF_MAP_*_BATCH of the running kernel: errors, counts, and going on after deletions."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from map_pairs import KernelMap

from workbench.kernel import maps as kernel_maps
from workbench.kernel.libbpf import library
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Map, Space, current_run
from workbench.runtime.maps.core import core

pytestmark = pytest.mark.needs("ring buffer")

HASH, ARRAY, LRU_HASH = 1, 2, 9
NOEXIST, EXIST, LOCK = 1, 2, 4
ENOENT, E2BIG, EINVAL = 2, 7, 22


class Pair:
    """The same map on both sides."""

    def __init__(self, space: Space, kind: int, entries: int) -> None:
        shape = LinkedMap("pair", kind, 4, 8, entries)
        self.raw = KernelMap(shape)
        self.kernel = kernel_maps.Map(
            "pair", self.raw.fd, kind, np.dtype("<u4"), np.dtype("<u8"), entries, 0
        )
        self.ours: Map = space.create(shape)
        self.ours.key_dtype, self.ours.value_dtype = np.dtype("<u4"), np.dtype("<u8")

    def update(self, keys: list[int], flags: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
        """(errno, entries set) of each side."""
        packed, values = np.array(keys, "<u4"), np.array(keys, "<u8") * 10
        count = ctypes.c_uint32(len(keys))
        options = (ctypes.c_uint64 * 3)(24, flags, 0)  # struct bpf_map_batch_opts
        error = library().bpf_map_update_batch(
            self.raw.fd, packed.ctypes.data, values.ctypes.data, ctypes.byref(count), options
        )
        done = ctypes.c_int64()
        result = core().wb_map_write_many(
            current_run(self.ours.space), self.ours.handle, packed.ctypes.data, values.tobytes(), 8, len(keys),
            flags, ctypes.byref(done),
        )  # fmt: skip
        return (-error, count.value), (-result, done.value)

    def delete(self, keys: list[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """(errno, entries deleted) of each side."""
        packed = np.array(keys, "<u4")
        count = ctypes.c_uint32(len(keys))
        error = library().bpf_map_delete_batch(
            ctypes.c_int(self.raw.fd),
            ctypes.c_void_p(packed.ctypes.data),
            ctypes.byref(count),
            None,
        )
        done = ctypes.c_int64()
        result = core().wb_map_erase_many(
            current_run(self.ours.space),
            self.ours.handle,
            packed.ctypes.data,
            len(keys),
            ctypes.byref(done),
        )
        return (-error, count.value), (-result, done.value)

    def contents(self) -> list[dict[int, int]]:
        """Of each side."""
        return [
            dict(zip(*(part.tolist() for part in one.table()), strict=True))
            for one in (self.kernel, self.ours)
        ]


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


@pytest.mark.parametrize("kind", [HASH, ARRAY])
def test_updates(space: Space, kind: int) -> None:
    pair = Pair(space, kind, 4)
    for keys in ([0, 1], [1, 2], [], [0, 3, 5, 1], [3, 2, 1, 0, 9]):
        theirs, mine = pair.update(keys)
        assert theirs == mine, keys
        kernel, ours = pair.contents()
        assert kernel == ours
    assert theirs == (E2BIG, 4)
    theirs, mine = pair.update([1, 2], LOCK)
    assert theirs[0] == mine[0] == EINVAL, "values have no lock"


def test_deletions(space: Space) -> None:
    pair = Pair(space, HASH, 8)
    pair.update(list(range(8)))
    for keys, wanted in (
        ([0, 1], (0, 2)),
        ([2, 9, 3], (ENOENT, 1)),
        ([0], (ENOENT, 0)),
        ([3, 3], (ENOENT, 1)),
    ):
        theirs, mine = pair.delete(keys)
        assert theirs == mine == wanted, keys
        kernel, ours = pair.contents()
        assert kernel == ours


def test_both_faces_delete_many_and_read_in_batches(space: Space) -> None:
    pair = Pair(space, HASH, 300)
    keys = np.arange(300, dtype="<u4")
    for one in (pair.kernel, pair.ours):
        one.update_many(keys, keys.astype("<u8"))
        one.delete_many(keys[::3])
        with pytest.raises(KeyError):
            one.delete_many([1, 0, 2])
        assert 1 not in one
        one.update(2, 7, EXIST)
        assert one.lookup(2) == 7
        found = [(int(k), int(v)) for part in one.batches(64) for k, v in zip(*part, strict=True)]
        assert len(found) == len(dict(found)) == 199
    kernel, ours = pair.contents()
    assert kernel == ours


@pytest.mark.parametrize("kind", [HASH, LRU_HASH])
def test_a_walk_goes_on_when_what_it_saw_is_deleted(space: Space, kind: int) -> None:
    """Entries that stay come exactly once; the last key of each batch is gone when the next is read."""
    for which in (0, 1):
        pair = Pair(space, kind, 512)
        one: Any = (pair.kernel, pair.ours)[which]
        every = set(range(400))
        one.update_many(np.arange(400, dtype="<u4"), np.arange(400, dtype="<u8"))
        seen: list[int] = []
        for keys, _ in one.batches(32):
            seen += keys.tolist()
            for key in keys.tolist():
                del one[key]
            later = sorted(every - set(seen))
            if later:
                del one[later[-1]]
                every.discard(later[-1])
        assert len(seen) == len(set(seen))
        assert every <= set(seen)
        assert len(one) == 0


def test_a_bucket_with_more_entries_than_room(space: Space) -> None:
    pair = Pair(space, HASH, 64)
    for one in (pair.kernel, pair.ours):
        one.update_many(np.arange(64, dtype="<u4"), np.arange(64, dtype="<u8"))
        found = [int(key) for keys, _ in one.batches(1) for key in keys]
        assert sorted(found) == list(range(64))
