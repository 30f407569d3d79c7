"""Whether a hash map's segment is whole: what the tests that kill writers ask, and whoever doubts a segment.

The C side never needs this: it recovers what a dead thread left when it meets it.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.runtime.maps.core import core
from workbench.runtime.maps.participants import current_run

if TYPE_CHECKING:
    from workbench.runtime.maps.map import Map

__all__ = ("problems", "settle")

_BUCKET, _BLOCK, _BLOCKS, _WAYS = 64, 128, 4096, 7
_OWNER = 52


def settle(made: Map) -> int:
    """Recover what dead threads left half done in a map of the hash family; the number of blocks that could not be."""
    function = core().wb_hash_settle
    function.restype, function.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_void_p)
    return int(function(current_run(made.space), made.handle))


def _area(address: int, count: int, kind: str) -> NDArray[np.generic]:
    dtype = np.dtype(kind)
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    area: NDArray[np.generic] = np.frombuffer(memoryview(raw), dtype).copy()
    return area


def problems(made: Map) -> list[str]:
    """What is wrong with a map of the hash family that nobody uses at the moment; empty when nothing is.

    Every slot is linked or in one queue, exactly once; no key twice; every entry is found by its key; credits and
    entries add up to max_entries; nothing is locked, guarded or in flight.
    """
    found: list[str] = []
    struct = made.struct
    count, stride = int(struct.reserved[3]) & 0xFFFFFFFF, int(struct.stride)
    buckets = _area(int(struct.reserved[0]), (int(struct.mask) + 1) * 8, "u8").reshape(-1, 8)
    blocks = _area(int(struct.reserved[1]), _BLOCKS * _BLOCK // 4, "u4").reshape(_BLOCKS, -1)
    slots = _area(int(struct.values), count * stride, "u1").reshape(count, stride)
    after = slots[:, :8].copy().view("u8")[:, 0]
    link = slots[:, 16:20].copy().view("u4")[:, 0]
    seen = np.zeros(count, np.int64)
    keys: dict[bytes, int] = {}

    def entry(word: int, where: str) -> int:
        index = word & 0xFFFFFFFF
        if not 0 < index < count:
            found.append(f"{where} names slot {index}")
            return 0
        seen[index] += 1
        key = slots[index, 24 : 24 + int(struct.key_size)].tobytes()
        if key in keys:
            found.append(f"key {key.hex()} is in slots {keys[key]} and {index}")
        keys[key] = index
        return index

    for number in map(int, np.flatnonzero(buckets.any(axis=1))):
        words = buckets[number].tolist()
        if words[1] >> _OWNER:
            found.append(f"bucket {number} is locked by {words[1] >> _OWNER}")
        for way in range(_WAYS):
            word = words[1 + way] & ((1 << _OWNER) - 1)
            steps = 0
            while word & 0xFFFFFFFF and steps <= count:
                index = entry(word, f"bucket {number} way {way}")
                steps += 1
                word = int(after[index]) if way == _WAYS - 1 and index else 0
            if steps > count:
                found.append(f"the chain of bucket {number} is a ring")
    links = link.tolist()
    for number in map(int, np.flatnonzero(blocks.any(axis=1))):
        block = blocks[number].tolist()
        index, queue = block[4], []
        for _ in range(min(block[6], count)):
            if not 0 < index < count:
                found.append(f"queue of block {number} names slot {index}")
                break
            queue.append(index)
            index = (index + 1 + links[index]) & 0xFFFFFFFF
        np.add.at(seen, queue, 1)
        if any(block[:4]):
            found.append(f"block {number} is in use: state {block[:2]}, guard {block[2:4]}")
    wrong = np.flatnonzero(seen[1:] != 1) + 1
    if len(wrong):
        found.append(
            f"slots that are not linked or free exactly once: {wrong[:8]}: {seen[wrong[:8]]}"
        )
    credits = int(blocks[:, 7].astype(np.int64).sum())
    if credits + len(keys) != made.max_entries:
        found.append(f"{credits} credits and {len(keys)} entries of {made.max_entries}")
    for key in keys:
        try:
            made.lookup(key)
        except KeyError:
            found.append(f"key {key.hex()} is linked but not found")
    return found
