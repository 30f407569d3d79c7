"""Processes killed inside operations on queues, tries, rings and stack traces: the maps stay whole for the others."""

from __future__ import annotations

import ctypes
import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from map_victims import (
    QUEUE,
    RING,
    STACKS,
    TRIE,
    Worker,
    killed_at_step,
    killed_in_program,
    victims,
)

from workbench.native.ring_reader import RecordReader
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.isa import assemble
from workbench.runtime.jit import Program
from workbench.runtime.maps import Map, Space
from workbench.runtime.maps.core import MapError
from workbench.runtime.maps.rings import RingBuffer

pytestmark = pytest.mark.needs("ptrace")
# At every single instruction in the long run (WORKBENCH_LONG=1, two minutes), at every fifth otherwise.
STRIDE = 1 if os.environ.get("WORKBENCH_LONG") else 5


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def every_step(
    prepare: Callable[[], None], kill: Callable[[int], bool], check: Callable[[bool], None]
) -> int:
    """Kill at one instruction after the other until the operation is over; the number of instructions."""
    for steps in range(1, 20_000, STRIDE):
        prepare()
        over = kill(steps)
        check(over)
        if over:
            return steps
    raise AssertionError("the operation never ends")


@pytest.mark.parametrize(("kind", "full"), [(22, False), (22, True), (23, False), (23, True)])
def test_push_killed_at_its_instructions(space: Space, kind: int, full: bool) -> None:
    made = space.create(LinkedMap("q", kind, 0, 8, 2))
    outcomes = set()

    def drain() -> list[bytes]:
        found = []
        with suppress(KeyError):
            while True:
                found.append(bytes(made.pop()))
        return found

    before = [number(1), number(2)] if full else [number(1)]
    queue = kind == 22

    def prepare() -> None:
        for value in before:
            made.push(value)

    def check(over: bool) -> None:
        made.peek()
        pushed = ([number(2), number(9)] if full else [number(1), number(9)]), before
        order = (lambda values: values) if queue else (lambda values: values[::-1])
        found = drain()
        assert found in [order(list(state)) for state in pushed]
        outcomes.add(number(9) in found)
        assert not over or number(9) in found
        assert len(made) == 0

    steps = every_step(
        prepare,
        lambda n: killed_at_step(space, "wb_map_push", made, number(9), 2, 0, n),
        check,
    )
    assert outcomes == {False, True}
    assert steps > 50


@pytest.mark.parametrize("kind", [22, 23])
def test_pop_killed_at_its_instructions(space: Space, kind: int) -> None:
    made = space.create(LinkedMap("q", kind, 0, 8, 3))
    for value in (1, 2):
        made.push(number(value))
    outcomes = set()

    def check(over: bool) -> None:
        popped = len(made) == 1
        assert len(made) in (1, 2)
        assert popped or not over
        outcomes.add(popped)
        rest = {bytes(made.pop()) for _ in range(len(made))}
        assert rest == ({number(2 if kind == 22 else 1)} if popped else {number(1), number(2)})
        for value in (1, 2):
            made.push(number(value))

    every_step(
        lambda: None,
        lambda n: killed_at_step(space, "wb_map_pop", made, bytes(8), 0, 0, n),
        check,
    )
    assert outcomes == {False, True}


def lpm_key(bits: int, *data: int) -> bytes:
    return struct.pack("<I", bits) + bytes(data)


def lpm_content(made: Map) -> dict[bytes, bytes]:
    keys, values = made.table()
    return {bytes(k): bytes(v) for k, v in zip(keys, values, strict=True)}


BASE = {
    lpm_key(8, 10, 0): number(1),
    lpm_key(16, 10, 1): number(2),
    lpm_key(16, 10, 129): number(3),
    lpm_key(4, 240, 0): number(4),
}


@pytest.mark.parametrize(
    ("function", "key"),
    [
        ("wb_map_write", lpm_key(12, 10, 0)),  # above a node
        ("wb_map_write", lpm_key(16, 10, 2)),  # needs a node in between
        ("wb_map_write", lpm_key(8, 10, 0)),  # replaces
        ("wb_map_erase", lpm_key(8, 10, 0)),  # has two children: becomes intermediate
        ("wb_map_erase", lpm_key(16, 10, 1)),
        ("wb_map_erase", lpm_key(4, 240, 0)),  # takes its intermediate parent along
    ],
    ids=["above", "between", "replace", "branching", "leaf", "with parent"],
)
def test_trie_change_killed_at_its_instructions(space: Space, function: str, key: bytes) -> None:
    made = space.create(LinkedMap("l", 11, 6, 8, 6, 1))
    for one, value in BASE.items():
        made.update(one, value)
    after = dict(BASE)
    if function == "wb_map_write":
        after[key] = number(9)
    else:
        del after[key]
    outcomes = set()

    def check(over: bool) -> None:
        content = lpm_content(made)
        assert content in (BASE, after)
        assert content == after or not over
        outcomes.add(content == after)
        # The next writer takes the lock from the dead and counts again: exactly max_entries fit.
        fillers = [lpm_key(16, 77, i) for i in range(6 - len(content))]
        for filler in fillers:
            made.update(filler, number(5))
        with pytest.raises(MapError, match="ENOSPC"):
            made.update(lpm_key(16, 99, 9), number(5))
        for filler in fillers:
            del made[filler]
        for one in set(content) - set(BASE):
            del made[one]
        for one, value in BASE.items():
            made.update(one, value)
        assert lpm_content(made) == BASE

    every_step(
        lambda: None,
        lambda n: killed_at_step(space, function, made, key, number(9), 0, n),
        check,
    )
    assert outcomes == {False, True}


SHAPE = LinkedMap("r", 27, 0, 0, 65536)
TEXT = b"victim's"
PROGRAMS = {
    "reserved in line": f"""
        r1 = map[r] ll
        r2 = 8
        r3 = 0
        call 131
        if r0 == 0 goto +6
        r1 = {struct.unpack("<Q", TEXT)[0]:#x} ll
        *(u64 *)(r0 + 0) = r1
        r1 = r0
        r2 = 0
        call 132
        r0 = 0
        exit""",
    "copied in line": f"""
        r1 = {struct.unpack("<Q", TEXT)[0]:#x} ll
        *(u64 *)(r10 - 8) = r1
        r1 = map[r] ll
        r2 = r10
        r2 += -8
        r3 = 8
        r4 = 0
        call 130
        r0 = 0
        exit""",
}


def producing(space: Space, made: RingBuffer, how: str, warm: int) -> Callable[[int], bool]:
    """A victim that puts TEXT into the ring so many times, then once more, and is killed at an instruction of that."""
    if how == "called":
        return lambda n: killed_at_step(space, "wb_ring_output", made, TEXT, 8, 0, n, warm)
    code = assemble(PROGRAMS[how], maps=["r"])
    program = Program(LinkedProgram("p", "syscall", "syscall", code, ()), [SHAPE], [made])
    program.start("optimised")
    return lambda n: killed_in_program(space, program.address, n, warm)


@pytest.mark.parametrize("warm", [0, 300], ids=["by the lock", "with the ring's bias"])
@pytest.mark.parametrize("how", ["called", *PROGRAMS])
def test_ring_output_killed_at_its_instructions(space: Space, how: str, warm: int) -> None:
    made = space.create(SHAPE)
    assert isinstance(made, RingBuffer)
    reader = RecordReader(made)
    outcomes = set()

    def check(over: bool) -> None:
        abandoned = made.abandoned
        made.output(b"mine")
        found: list[bytes] = []
        while made.waiting:
            assert made.wait(20), "a dead producer blocks the ring"
            records = reader.drain()
            found += [
                bytes(records.buffer[int(s) : int(s) + int(n)])
                for s, n in zip(records.starts, records.lengths, strict=True)
            ]
        assert found[-1] == b"mine"
        assert found[:-1] in ([TEXT] * warm, [TEXT] * (warm + 1))
        whole = len(found) - 1 == warm + 1
        assert whole or not over
        outcomes.add((whole, made.abandoned - abandoned))

    every_step(lambda: None, producing(space, made, how, warm), check)
    # Nothing reserved; reserved and never submitted; submitted.
    assert outcomes == {(False, 0), (False, 1), (True, 0)}
    assert made.dropped == 0


def start(space: Space, made: Map, kind: int, first: int, count: int) -> list[Worker]:
    return [Worker(space, made, kind, first + i) for i in range(count)]


def replace_some(space: Space, made: Map, kind: int, kills: int, seed: int) -> list[Worker]:
    """Three workers of which one after the other is killed; all that ever were, dead in the end."""
    rng = random.Random(seed)
    working = start(space, made, kind, 1, 3)
    every = list(working)
    for i in range(kills):
        working[0].reach(rng.randrange(1, 3000))
        victim = working.pop(rng.randrange(3))
        victim.kill()
        for other in working:
            other.reach(20)  # nobody waits for the dead
        working += start(space, made, kind, 4 + i, 1)
        every.append(working[-1])
    for worker in working:
        worker.kill()
    assert [worker.progress.bad for worker in every] == [0] * len(every)
    return every


@pytest.mark.parametrize("kind", [22, 23])
def test_queue_with_workers_killed(space: Space, kind: int) -> None:
    made = space.create(LinkedMap("q", kind, 0, 40, 5))
    replace_some(space, made, QUEUE, 25, kind)
    count = len(made)
    for _ in range(count):
        value = ctypes.create_string_buffer(bytes(made.pop()), 40)
        assert victims().sealed(value)
    with pytest.raises(KeyError):
        made.pop()
    for i in range(5):
        made.push(bytes([i]) * 40)
    with pytest.raises(MapError, match="E2BIG"):
        made.push(bytes(40))


def test_trie_with_workers_killed(space: Space) -> None:
    made = space.create(LinkedMap("l", 11, 8, 40, 60, 1))
    replace_some(space, made, TRIE, 25, 5)
    content = lpm_content(made)
    assert len(content) <= 60
    for key, value in content.items():
        assert victims().sealed(value)
        bits, prefix = struct.unpack("<II", key)
        assert struct.unpack_from("<QQ", value) == (prefix, bits)
        del made[key]
    assert lpm_content(made) == {}
    for i in range(60):
        made.update(lpm_key(32, i, 0, 0, i), bytes(40))
    assert len(lpm_content(made)) == 60


def test_stack_traces_with_workers_killed(space: Space) -> None:
    made = space.create(LinkedMap("s", 7, 4, 40, 8))
    replace_some(space, made, STACKS, 25, 6)
    for key, value in zip(*made.table(), strict=True):
        assert victims().sealed(bytes(value))
        del made[key]
    assert len(made.table()[0]) == 0


def test_ring_with_producers_killed(space: Space) -> None:
    made = space.create(LinkedMap("r", 27, 0, 0, 1 << 16))
    assert isinstance(made, RingBuffer)
    reader = RecordReader(made)
    rng = random.Random(7)
    working, every = start(space, made, RING, 1, 3), []
    last: dict[int, int] = {}
    seen = 0
    every += working

    def read() -> None:
        nonlocal seen
        assert made.wait(20), "nobody gets anything into the ring"
        records = reader.drain()
        for at, length in zip(records.starts, records.lengths, strict=True):
            assert length == 40
            data = bytes(records.buffer[int(at) : int(at) + 40])
            assert victims().sealed(data)
            who, count = struct.unpack_from("<QQ", data)
            assert count == last.get(who, -1) + 1, "a record was lost or came twice"
            last[who] = count
            seen += 1

    for i in range(25):
        goal = seen + rng.randrange(1, 4000)
        while seen < goal:
            read()
        working.pop(rng.randrange(3)).kill()
        working += start(space, made, RING, 4 + i, 1)
        every.append(working[-1])
    for worker in working:
        worker.kill()
    while made.waiting and made.wait(20):
        read()
    assert made.waiting == 0
    for worker in every:
        # What was submitted arrived; the record in work at the end may have been submitted, but not counted.
        received = last.get(worker.who, -1) + 1
        assert received - worker.progress.records in (0, 1)
    refused = sum(worker.progress.refused for worker in every)
    assert refused <= made.dropped <= refused + len(every)
    assert made.abandoned <= len(every)
