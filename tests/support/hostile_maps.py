"""Segments whose bytes somebody damaged: opening them must fail, or everything done with them must stay inside."""

from __future__ import annotations

import ctypes
import random

from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space, current_run
from workbench.runtime.maps.core import CMap, CSegment, core

__all__ = ("SHAPES", "exercise")

SHAPES = (
    LinkedMap("array", 2, 4, 8, 5),
    LinkedMap("percpu", 6, 4, 8, 5),
    LinkedMap("queue", 22, 0, 8, 5),
    LinkedMap("stack", 23, 0, 8, 5),
    LinkedMap("bloom", 30, 0, 8, 50),
    LinkedMap("lpm", 11, 8, 8, 10, 1),
    LinkedMap("stacks", 7, 4, 40, 5),
    LinkedMap("programs", 3, 4, 4, 5),
    LinkedMap("maps", 12, 4, 4, 5),
    LinkedMap("storage", 29, 4, 8, 0, 1),
    LinkedMap("ring", 27, 0, 0, 4096),
    LinkedMap("user ring", 31, 0, 0, 4096),
)
_WORDS = (0, 1, 2, 5, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _use(space: Space, made: CMap, rng: random.Random) -> None:
    """Every operation of the system call side; results do not matter."""
    library, run, handle = core(), current_run(space), ctypes.addressof(made)
    if made.type in (27, 31):
        for name in ("wb_ring_sweep", "wb_ring_wait"):
            entry = library[name]  # of our own: an attribute is the whole process's
            entry.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64)
            entry(run, handle, 0, 0)
        output = library["wb_ring_output"]
        output.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64)
        for size in (0, 40, 4000):
            output(run, handle, bytes(size), size, 0)
        return
    room = 16 + int(made.value_size) * max(int(made.cpus), 1) * 2
    keys = [None] if not made.key_size else [
        rng.choice(_WORDS).to_bytes(4, "little") + rng.randbytes(made.key_size - 4) for _ in range(4)
    ]  # fmt: skip
    for key in keys:
        out = ctypes.create_string_buffer(room)
        library.wb_map_write(run, handle, key, bytes(room), 0)
        library.wb_map_read(run, handle, key, out, 0)
        library.wb_map_next_key(run, handle, key, out)
        library.wb_map_take(run, handle, key, out)
        library.wb_map_erase(run, handle, key)
    if made.type in (22, 23, 30):
        out = ctypes.create_string_buffer(room)
        library.wb_map_push(run, handle, bytes(room), 0)
        library.wb_map_push(run, handle, bytes(room), 2)
        library.wb_map_peek(run, handle, out)
        library.wb_map_pop(run, handle, out)


def exercise(seeds: int) -> list[int]:
    """Damage segments of every type and use them; how many could still be opened, by type."""
    opened = []
    with Space() as space:
        for shape in SHAPES:
            count = 0
            for seed in range(seeds):
                rng = random.Random(seed * 1000 + shape.type)
                good = space.create(shape, name=f"{shape.name}{seed}")
                _use(space, good.struct, rng)
                memory = good._memory
                words = (ctypes.c_uint32 * (len(memory) // 4)).from_buffer(memory)
                data = int(CSegment.from_buffer(memory).offset) // 4
                for _ in range(40):
                    header = rng.random() < 0.3
                    at = rng.randrange(2, 30) if header else data + rng.randrange(0, min(1200, len(words) - data))
                    before = words[at]
                    words[at] = rng.choice(_WORDS)
                    made = CMap()
                    place = ctypes.addressof(memory)
                    if not core().wb_map_open(ctypes.addressof(made), place, len(memory), space.handle):
                        count += 1
                        _use(space, made, rng)
                    if header:
                        words[at] = before
                good.path.unlink()
            opened.append(count)
    return opened

