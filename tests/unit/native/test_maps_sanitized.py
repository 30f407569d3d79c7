"""Map types under the sanitizers: damaged segments, and every operation on whole ones."""

from __future__ import annotations

from collections.abc import Callable


def test_damaged_segments(run_sanitized: Callable[..., str]) -> None:
    printed = run_sanitized(
        "from hostile_maps import SHAPES, exercise\n"
        "opened = exercise(seeds=4)\n"
        "assert len(opened) == len(SHAPES) and all(opened), opened\n"
        "print('clean')\n"
    )
    assert printed.strip().endswith("clean")


def test_rings_and_tries_at_work(run_sanitized: Callable[..., str]) -> None:
    printed = run_sanitized(
        "import random, struct\n"
        "from workbench.native.ring_reader import RecordReader\n"
        "from workbench.objects.linked import LinkedMap\n"
        "from workbench.runtime.maps import Space\n"
        "rng = random.Random(1)\n"
        "with Space() as space:\n"
        "    ring = space.create(LinkedMap('r', 27, 0, 0, 4096))\n"
        "    reader = RecordReader(ring, 1 << 16, 1024)\n"
        "    for i in range(3000):\n"
        "        ring.output(rng.randbytes(rng.randrange(300)))\n"
        "        if i % 7 == 0:\n"
        "            reader.drain()\n"
        "    trie = space.create(LinkedMap('l', 11, 8, 24, 50, 1))\n"
        "    for i in range(3000):\n"
        "        key = struct.pack('<I', rng.randrange(33)) + bytes(rng.randrange(4) * 60 for _ in range(4))\n"
        "        try:\n"
        "            if rng.random() < 0.5:\n"
        "                trie.update(key, rng.randbytes(24))\n"
        "            else:\n"
        "                del trie[key]\n"
        "        except Exception as error:\n"
        "            assert isinstance(error, KeyError) or 'ENOSPC' in str(error), error\n"
        "    assert len(trie.table()[0]) <= 50\n"
        "print('clean')\n"
    )
    assert printed.strip().endswith("clean")
