"""Map types against models: every operation, flag and error, in sequences that hypothesis makes up and shortens."""

from __future__ import annotations

import errno
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space
from workbench.runtime.maps.core import MapError
from workbench.runtime.maps.hash_check import problems

HASH, ARRAY, PERCPU_HASH, LRU, LRU_PERCPU, LPM, QUEUE, STACK = 1, 2, 5, 9, 10, 11, 22, 23
ENTRIES = 5
KEYS = st.integers(0, 8)
VALUES = st.integers(0, 2**64 - 1)
SETTINGS = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


def key_of(number: int) -> bytes:
    return struct.pack("<Q", number)


def outcome(operation: Callable[[], Any]) -> Any:
    """What it gives, or the error's number."""
    try:
        return operation()
    except KeyError:
        return -errno.ENOENT
    except MapError as error:
        return -error.errno


class OneMap(RuleBasedStateMachine):
    kind = 0
    key_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.space = Space()
        self.map = self.space.create(LinkedMap("m", self.kind, self.key_size, 8, ENTRIES))

    def teardown(self) -> None:
        self.space.close()


class Hash(OneMap):
    """kernel/bpf/hashtab.c: flags are looked at when the key is found or not; a full map refuses new keys."""

    kind = HASH

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, int] = {}

    def value(self, number: int) -> bytes:
        return struct.pack("<Q", number) * self.copies

    @property
    def copies(self) -> int:
        return self.map.cpus if self.kind in (PERCPU_HASH, LRU_PERCPU) else 1

    def read(self, key: int) -> int:
        found = self.map.lookup(key_of(key))
        raw = found if isinstance(found, bytes) else b"".join(one.tobytes() for one in found)
        assert raw == raw[:8] * self.copies
        return int(struct.unpack("<Q", raw[:8])[0])

    def expected_error(self, key: int, flags: int) -> int:
        if key in self.model:
            return -errno.EEXIST if flags == 1 else 0
        if flags == 2:
            return -errno.ENOENT
        return -errno.E2BIG if len(self.model) == ENTRIES else 0

    @rule(key=KEYS, number=VALUES, flags=st.sampled_from((0, 0, 1, 2)))
    def update(self, key: int, number: int, flags: int) -> None:
        error = self.expected_error(key, flags)
        got = outcome(lambda: self.map.update(key_of(key), self.value(number), flags))
        assert (got or 0) == error
        if not error:
            self.model[key] = number

    @rule(key=KEYS, flags=st.sampled_from((3, 8, 1 << 32)))
    def unknown_flags(self, key: int, flags: int) -> None:
        got = outcome(lambda: self.map.update(key_of(key), self.value(1), flags))
        assert got == -errno.EINVAL

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        got = outcome(lambda: self.map.__delitem__(key_of(key)))
        assert (got is None) == (key in self.model)
        self.model.pop(key, None)

    @rule(key=KEYS)
    def lookup(self, key: int) -> None:
        assert outcome(lambda: self.read(key)) == self.model.get(key, -errno.ENOENT)

    @rule(count=st.integers(300, 900), key=KEYS)
    def many(self, count: int, key: int) -> None:
        """Long enough alone to work without locks, and through more than the slots."""
        if key in self.model:
            for number in range(count):
                self.map.update(key_of(key), self.value(number))
            self.model[key] = count - 1

    @invariant()
    def whole(self) -> None:
        assert problems(self.map) == []
        assert {struct.unpack("<Q", key)[0] for key in self.map} == set(self.model)


class PerCpuHash(Hash):
    kind = PERCPU_HASH


class Lru(Hash):
    """A full map makes room: which entry goes is not promised, but never the one just written, and only one."""

    kind = LRU

    def expected_error(self, key: int, flags: int) -> int:
        error = super().expected_error(key, flags)
        return 0 if error == -errno.E2BIG else error

    @rule(key=KEYS, number=VALUES)
    def write(self, key: int, number: int) -> None:
        full = key not in self.model and len(self.model) == ENTRIES
        self.map.update(key_of(key), self.value(number))
        self.model[key] = number
        there = {struct.unpack("<Q", one)[0] for one in self.map}
        assert key in there
        gone = set(self.model) - there
        assert len(gone) == full
        for one in gone:
            del self.model[one]

    def update(self, key: int, number: int, flags: int) -> None:
        if key in self.model or flags == 2:
            super().update(key, number, flags)
        else:
            self.write(key, number)

    update = rule(key=KEYS, number=VALUES, flags=st.sampled_from((0, 1, 2)))(update)


class LruPerCpu(Lru):
    kind = LRU_PERCPU


class Array(OneMap):
    """kernel/bpf/arraymap.c: all elements are always there."""

    kind, key_size = ARRAY, 4

    def __init__(self) -> None:
        super().__init__()
        self.model = [0] * ENTRIES

    @rule(key=KEYS, number=VALUES, flags=st.sampled_from((0, 1, 2)))
    def update(self, key: int, number: int, flags: int) -> None:
        got = outcome(
            lambda: self.map.update(struct.pack("<I", key), struct.pack("<Q", number), flags)
        )
        if key >= ENTRIES:
            assert got == -errno.E2BIG
        elif flags == 1:
            assert got == -errno.EEXIST
        else:
            assert got is None
            self.model[key] = number

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        got = outcome(lambda: self.map.__delitem__(struct.pack("<I", key)))
        assert got in (-errno.EINVAL, -errno.ENOENT)

    @rule(key=KEYS)
    def lookup(self, key: int) -> None:
        got = outcome(
            lambda: struct.unpack("<Q", bytes(self.map.lookup(struct.pack("<I", key))))[0]
        )
        assert got == (self.model[key] if key < ENTRIES else -errno.ENOENT)


class Queue(OneMap):
    """kernel/bpf/queue_stack_maps.c: BPF_EXIST (2) pushes out the oldest of a full one."""

    kind, key_size = QUEUE, 0

    def __init__(self) -> None:
        super().__init__()
        self.model: list[int] = []

    def first(self) -> int:
        return -1 if self.kind == STACK else 0

    @rule(number=VALUES, flags=st.sampled_from((0, 2)))
    def push(self, number: int, flags: int) -> None:
        got = outcome(lambda: self.map.push(struct.pack("<Q", number), flags))
        if len(self.model) == ENTRIES and not flags:
            assert got == -errno.E2BIG
            return
        assert got is None
        self.model = [*self.model[-(ENTRIES - 1) :], number]

    @rule()
    def pop(self) -> None:
        got = outcome(lambda: struct.unpack("<Q", bytes(self.map.pop()))[0])
        assert got == (self.model.pop(self.first()) if self.model else -errno.ENOENT)

    @rule()
    def peek(self) -> None:
        got = outcome(lambda: struct.unpack("<Q", bytes(self.map.peek()))[0])
        assert got == (self.model[self.first()] if self.model else -errno.ENOENT)


class Stack(Queue):
    kind = STACK


class Trie(OneMap):
    """kernel/bpf/lpm_trie.c: a lookup gives the longest prefix that the key begins with."""

    kind, key_size = LPM, 6
    prefixes = st.tuples(st.integers(0, 16), st.sampled_from((0, 0x1234, 0x1235, 0x9234, 0xFFFF)))

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        self.space = Space()
        self.map = self.space.create(LinkedMap("m", self.kind, self.key_size, 8, ENTRIES, 1))
        self.model: OrderedDict[tuple[int, int], int] = OrderedDict()

    @staticmethod
    def key(prefix: tuple[int, int]) -> bytes:
        return struct.pack("<I", prefix[0]) + struct.pack(">H", prefix[1])

    @staticmethod
    def cut(bits: int, number: int) -> tuple[int, int]:
        return bits, number >> (16 - bits) << (16 - bits)

    @rule(prefix=prefixes, number=VALUES, flags=st.sampled_from((0, 0, 1, 2)))
    def update(self, prefix: tuple[int, int], number: int, flags: int) -> None:
        known = self.cut(*prefix) in self.model
        got = outcome(lambda: self.map.update(self.key(prefix), struct.pack("<Q", number), flags))
        if known and flags == 1:
            assert got == -errno.EEXIST
        elif not known and flags == 2:
            assert got == -errno.ENOENT
        elif not known and len(self.model) == ENTRIES:
            assert got == -errno.ENOSPC
        else:
            assert got is None
            self.model[self.cut(*prefix)] = number

    @rule(prefix=prefixes)
    def delete(self, prefix: tuple[int, int]) -> None:
        got = outcome(lambda: self.map.__delitem__(self.key(prefix)))
        assert (got is None) == (self.model.pop(self.cut(*prefix), None) is not None)

    @rule(prefix=prefixes)
    def lookup(self, prefix: tuple[int, int]) -> None:
        bits, number = prefix
        found = [one for one in self.model if one[0] <= bits and self.cut(one[0], number) == one]
        got = outcome(lambda: struct.unpack("<Q", bytes(self.map.lookup(self.key(prefix))))[0])
        assert got == (self.model[max(found)] if found else -errno.ENOENT)


for machine in (Hash, PerCpuHash, Lru, LruPerCpu, Array, Queue, Stack, Trie):
    case = machine.TestCase
    case.settings = SETTINGS
    globals()[f"Test{machine.__name__}"] = case
del case, machine
