"""Rings of user space: what programs and readers see, wake-ups, user rings, perf event arrays."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import select
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from workbench.native.library import CORE
from workbench.native.ring_reader import ColumnReader, RecordReader, SpanReader
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space, current_run
from workbench.runtime.maps.core import MapError
from workbench.runtime.maps.rings import (
    FORCE_WAKEUP,
    NO_WAKEUP,
    PerfEventArray,
    RingBuffer,
    UserRing,
)

DISCARD = 1 << 32
core = ctypes.CDLL(str(CORE))  # function objects of our own: no prototypes but those set here
RECORD = np.dtype([("time", "u8"), ("value", "u4"), ("kind", "u4")])


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def ring_of(space: Space, size: int = 4096) -> RingBuffer:
    made = space.create(LinkedMap("ring", 27, 0, 0, size))
    assert isinstance(made, RingBuffer)
    return made


class Producer:
    """The helpers of programs, called for one ring."""

    def __init__(self, ring: RingBuffer) -> None:
        self.ring, self.core = ring, core
        self.core.wb_ring_query.restype = ctypes.c_uint64

    @property
    def run(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(current_run(self.ring.space))

    def reserve(self, size: int, flags: int = 0) -> int | None:
        self.core.wb_ring_reserve.restype = ctypes.c_void_p
        result: int | None = self.core.wb_ring_reserve(
            self.run, ctypes.c_void_p(self.ring.handle), ctypes.c_uint64(size), ctypes.c_uint64(flags)
        )
        return result

    def commit(self, record: int, flags: int = 0) -> None:
        self.core.wb_ring_commit(self.run, ctypes.c_void_p(record), ctypes.c_uint64(flags))

    def query(self, flags: int) -> int:
        return int(
            self.core.wb_ring_query(
                self.run, ctypes.c_void_p(self.ring.handle), ctypes.c_uint64(flags)
            )
        )


def taken(ring: RingBuffer) -> list[bytes]:
    records = RecordReader(ring, 1 << 17, 4096).drain()
    return [
        bytes(records.buffer[int(s) : int(s) + int(n)])
        for s, n in zip(records.starts, records.lengths, strict=True)
    ]


def test_reserve_commit_discard_query(space: Space) -> None:
    ring = ring_of(space)
    producer = Producer(ring)
    assert [producer.query(flag) for flag in range(5)] == [0, 4096, 0, 0, 0]
    assert producer.reserve(8, flags=1) is None, "bpf_ringbuf_reserve takes no flags"
    first, second, third = producer.reserve(5), producer.reserve(8), producer.reserve(0)
    assert first and second and third
    ctypes.memmove(first, b"first", 5)
    ctypes.memmove(second, b"second..", 8)
    assert [producer.query(flag) for flag in range(4)] == [40, 4096, 0, 40]
    producer.commit(second)
    assert taken(ring) == [], "the oldest record is not committed yet"
    producer.commit(first)
    assert taken(ring) == [b"first", b"second.."]
    producer.commit(third, DISCARD)
    assert taken(ring) == []
    assert [producer.query(flag) for flag in range(4)] == [0, 4096, 40, 40]
    assert ring.position == 40


def test_full_and_too_large_are_counted(space: Space) -> None:
    ring = ring_of(space)
    producer = Producer(ring)
    assert producer.reserve(4096) is None, "the header does not fit"
    assert producer.reserve(4088) is None, "the kernel keeps one byte free"
    assert producer.reserve(1 << 40) is None
    assert ring.dropped == 3
    record = producer.reserve(4080)
    assert record
    assert producer.reserve(0) is None
    producer.commit(record)
    assert len(taken(ring)[0]) == 4080
    for wanted, flags in (("EINVAL", 4), ("EINVAL", 1 << 40)):
        with pytest.raises(MapError, match=wanted):
            ring.output(b"x", flags)
    fitted = 0
    with pytest.raises(MapError, match="EAGAIN"):
        while True:
            ring.output(bytes(40))
            fitted += 1
    assert fitted == 4095 // 48
    assert ring.dropped == 5


@seed(4)
@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.booleans(), st.booleans()), max_size=60))
def test_any_sizes_come_out_as_they_went_in(turns: list[tuple[int, bool, bool]]) -> None:
    with Space() as space:
        ring = ring_of(space)
        expected: list[bytes] = []
        for i, (size, drain, warm) in enumerate(turns):
            data = bytes((i + j) & 0xFF for j in range(size))
            try:
                ring.output(data)
                expected.append(data)
            except MapError:
                used = sum((len(one) + 15) // 8 * 8 for one in expected)
                assert used + (size + 15) // 8 * 8 > 4095
            if warm:  # enough in a row to get the ring's bias
                for _ in range(300):
                    assert taken(ring) == expected
                    expected = []
                    ring.output(b"warm")
                    expected.append(b"warm")
            if drain:
                assert taken(ring) == expected
                expected = []
        assert taken(ring) == expected


def test_every_reader_of_the_kernels_rings(space: Space) -> None:
    ring = ring_of(space, 1 << 16)
    rows = np.zeros(1000, RECORD)
    rows["time"], rows["value"] = np.arange(1000), np.arange(1000) * 7
    for row in rows:
        ring.output(row.tobytes())
    columns = ColumnReader(ring, RECORD)
    assert columns.drain() == 1000
    assert columns.take(1000)["value"].tolist() == rows["value"].tolist()
    for row in rows:
        ring.output(row.tobytes())
    spans = [batch.head(RECORD)["time"] for batch in SpanReader(ring).batches()]
    assert np.concatenate(spans).tolist() == list(range(1000))
    assert ring.waiting == 0


def test_a_view_outlives_the_map() -> None:
    space = Space()
    ring = ring_of(space)
    ring.output(b"still here")
    view = ring.data_view()
    space.close()
    del ring, space
    gc.collect()
    assert bytes(view[8:18]) == b"still here"


def test_select_and_asyncio_wait_for_records(space: Space) -> None:
    ring = ring_of(space)
    try:
        assert select.select([ring.fileno()], [], [], 0)[0] == []
        threading.Timer(0.01, ring.output, (b"one",)).start()
        assert select.select([ring.fileno()], [], [], 30)[0]
        assert taken(ring) == [b"one"]
        arrived: list[bytes] = []

        async def main() -> None:
            done = asyncio.Event()

            def ready() -> None:
                arrived.extend(taken(ring))
                if arrived:
                    done.set()

            stop = ring.watch(asyncio.get_running_loop(), ready)
            ring.output(b"two")
            await asyncio.wait_for(done.wait(), 30)
            stop()

        asyncio.run(main())
        assert arrived == [b"two"]
    finally:
        ring.close()


def test_flags_of_wake_ups(space: Space) -> None:
    ring = ring_of(space)
    counted = ctypes.c_uint32.from_address(ring.consumer + 68)
    waiting = ctypes.c_uint32.from_address(ring.consumer + 64)
    ring.output(b"nobody sleeps")
    assert counted.value == 0
    ring.output(b"woken all the same", FORCE_WAKEUP)
    assert counted.value == 1
    waiting.value = 1
    ring.output(b"asked not to", NO_WAKEUP)
    assert counted.value == 1
    ring.output(b"somebody sleeps")
    assert counted.value == 2
    waiting.value = 0
    assert ring.wait(0)
    taken(ring)
    assert not ring.wait(0.01)


def test_threads_share_a_ring(space: Space) -> None:
    ring = ring_of(space, 1 << 16)
    count, threads = 5000, 4
    stop = threading.Event()

    def produce(who: int) -> None:
        for i in range(count):
            while not stop.is_set():
                try:
                    ring.output(struct.pack("<QQ", who, i))
                    break
                except MapError:
                    pass

    working = [threading.Thread(target=produce, args=(who,)) for who in range(threads)]
    for one in working:
        one.start()
    following = [0] * threads
    try:
        while sum(following) < count * threads:
            assert ring.wait(60)
            for data in taken(ring):
                who, number = struct.unpack("<QQ", data)
                assert number == following[who]
                following[who] += 1
    finally:
        stop.set()
        for one in working:
            one.join()
    assert ring.waiting == 0


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint64, *(ctypes.c_void_p,) * 6)


class Dynptr(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint32), ("offset", ctypes.c_uint32))


def drain(ring: UserRing, seen: list[bytes], stop_after: int = 1 << 30, flags: int = 0) -> int:
    def sample(pointer: int, *_: object) -> int:
        given = Dynptr.from_address(pointer)
        seen.append(ctypes.string_at(given.data, given.size & 0xFFFFFF))
        return int(len(seen) >= stop_after)

    core.wb_user_ring_drain.restype = ctypes.c_int64
    callback = CALLBACK(sample)
    return int(
        core.wb_user_ring_drain(
            ctypes.c_void_p(current_run(ring.space)), ctypes.c_void_p(ring.handle), callback,
            ctypes.c_uint64(0), ctypes.c_uint64(flags),
        )
    )  # fmt: skip


def test_user_ring(space: Space) -> None:
    ring = space.create(LinkedMap("user", 31, 0, 0, 4096))
    assert isinstance(ring, UserRing)
    seen: list[bytes] = []
    assert drain(ring, seen) == 0
    assert drain(ring, seen, flags=4) == -22
    for i in range(5):
        ring.put(b"sample %d" % i)
    producer = Producer(ring)
    discarded = producer.reserve(8)
    assert discarded
    producer.commit(discarded, DISCARD)
    ring.put(b"last")
    assert drain(ring, seen, stop_after=2) == 2
    assert drain(ring, seen) == 4
    assert seen == [b"sample %d" % i for i in range(5)] + [b"last"]
    with pytest.raises(MapError, match="E2BIG"):
        ring.put(bytes(4096))
    with pytest.raises(MapError, match="EAGAIN"):
        for _ in range(100):
            ring.put(bytes(40))
    waiting = threading.Thread(target=ring.put, args=(b"waits for room", 60))
    waiting.start()
    while not seen or seen[-1] != b"waits for room":
        drain(ring, seen)
    waiting.join()


def test_user_ring_with_damaged_positions(space: Space) -> None:
    ring = space.create(LinkedMap("user", 31, 0, 0, 4096))
    assert isinstance(ring, UserRing)
    position = ctypes.c_uint64.from_address(ring.producer)
    header = ctypes.c_uint32.from_address(ring.data)
    for value, length, error in ((7, 0, -22), (16, 4000, -22), (1 << 60, 5000, -7), (1 << 62, 0x3FFFFFFF, -7)):
        position.value, header.value = value, length
        assert drain(ring, []) == error


def test_perf_event_array(space: Space) -> None:
    made = space.create(LinkedMap("perf", 4, 4, 4, 4))
    assert isinstance(made, PerfEventArray)
    run = ctypes.c_void_p(current_run(space))
    core.wb_perf_output.restype = ctypes.c_int64

    def output(flags: int, data: bytes) -> int:
        return int(
            core.wb_perf_output(
                run, ctypes.c_void_p(made.handle), ctypes.c_uint64(flags), data, ctypes.c_uint64(len(data))
            )
        )

    assert output(0, b"nobody reads") == -2
    made.enable()
    assert output(4, b"") == -7
    assert output(1 << 40, b"") == -22
    assert output(0, bytes(65536)) == -7
    assert output(2, b"two") == 0
    assert output(0xFFFFFFFF, b"mine") == 0
    got = {}
    for ring in made.rings:
        records = RecordReader(ring).drain()
        for s, n in zip(records.starts, records.lengths, strict=True):
            got[bytes(records.buffer[int(s) : int(s) + int(n)])] = ring.index
    assert got[b"two"] == 2 and b"mine" in got
    while output(1, bytes(60000)) == 0:
        pass
    assert output(1, bytes(60000)) == -28
    assert made.dropped == 2
    made.enable(False)
    assert output(1, b"") == -2
