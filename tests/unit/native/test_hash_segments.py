"""Hash maps whose segment somebody damages: errors or nonsense, never an access outside. Under the sanitizers."""

from __future__ import annotations

SCRIPT = """
import ctypes, random, struct, sys
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space
from workbench.runtime.maps.core import MapError
from workbench.runtime.maps.hash_check import problems, settle

dice = random.Random(int(sys.argv[1]))
refused = worked = 0
for turn in range(12):
    kind = dice.choice((1, 5, 9, 10))
    with Space() as space:
        made = space.create(LinkedMap("h", kind, 8, 8, 9))
        value = struct.pack("<Q", 1) * made.cpus
        for key in range(8):
            made.update(struct.pack("<Q", key), value)
        del made[struct.pack("<Q", 3)]
        base = ctypes.addressof(made._memory)
        slots = int(made.struct.values) - base
        blocks = int(made.struct.reserved[1]) - base
        places = ((0, 128), (128, 256), (slots - 256, slots), (slots, slots + 600), (blocks, blocks + 512))
        for _ in range(dice.choice((1, 4, 40))):
            first, last = dice.choice(places)
            at = dice.randrange(first, last)
            made._memory[at] = bytes([dice.choice((0, 1, 2, 0x40, 0x80, 0xFF, dice.randrange(256)))])
        try:
            space.maps.clear()
            opened = space.open("h")
        except MapError:
            refused += 1
            opened = made
        worked += 1
        size = opened._value_bytes
        for step in range(12):
            key = struct.pack("<Q", dice.randrange(12)).ljust(opened._key_bytes, b"x")[: opened._key_bytes]
            try:
                match dice.randrange(5):
                    case 0:
                        opened.update(key, bytes(size))
                    case 1:
                        del opened[key]
                    case 2:
                        opened.lookup(key)
                    case 3:
                        opened.take(key)
                    case 4:
                        opened.next_key(key)
            except (MapError, KeyError):
                pass
        settle(opened)
        if opened is made:
            continue
        if opened.kind in (1, 5, 9, 10) and opened.max_entries == 9:
            problems(opened)
print("refused", refused, "worked", worked)
"""


def test_damaged_segments(run_sanitized) -> None:  # type: ignore[no-untyped-def]
    said = run_sanitized(SCRIPT, "1")
    assert "worked 12" in said
    assert "refused 0" not in said, "no damage to a header was noticed"


WORK = """
import random, struct
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space
from workbench.runtime.maps.core import MapError
from workbench.runtime.maps.hash_check import problems

dice = random.Random(3)
for kind in (1, 5, 9, 10):
    for key_size, value_size, entries in ((1, 1, 3), (3, 20, 40), (8, 8, 1), (20, 300, 9)):
        with Space() as space:
            made = space.create(LinkedMap("h", kind, key_size, value_size, entries))
            for _ in range(400):
                key = bytes([dice.randrange(2 * entries)]) * key_size
                try:
                    if dice.random() < 0.6:
                        made.update(key, bytes([dice.randrange(256)]) * made._value_bytes, dice.choice((0, 0, 1, 2)))
                    elif dice.random() < 0.5:
                        del made[key]
                    else:
                        made.take(key)
                except (MapError, KeyError):
                    pass
            assert problems(made) == []
            made.table()
print("whole")
"""


def test_operations_of_all_sizes(run_sanitized) -> None:  # type: ignore[no-untyped-def]
    assert "whole" in run_sanitized(WORK)
