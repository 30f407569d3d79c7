"""Records read where they lie in a ring: the same as written, each once, and never more than waited at the begin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernel.ring import Ring, SpanReader

SIZE = 1 << 16
BUSY, DISCARD = 1 << 31, 1 << 30


class MadeRing(Ring):
    """A ring in plain memory: the positions, then the data area twice in a row, kept equal by `put`."""

    def __init__(self) -> None:
        self._positions = np.zeros(2, np.uint64)
        self._area = np.zeros(2 * SIZE, np.uint8)
        self.size, self.mask = SIZE, SIZE - 1
        self.consumer = self._positions.ctypes.data
        self.producer = self.consumer + 8
        self.data = self._area.ctypes.data

    def data_view(self) -> np.ndarray:
        return self._area

    @property
    def position(self) -> int:
        return int(self._positions[0])

    def put(self, data: bytes, flags: int = 0) -> bool:
        padded = (len(data) + 15) & ~7
        at = int(self._positions[1])
        if at + padded - self.position > SIZE:
            return False
        raw = np.zeros(padded, np.uint8)
        raw[:4] = np.frombuffer(np.uint32(len(data) | flags).tobytes(), np.uint8)
        raw[8 : 8 + len(data)] = np.frombuffer(data, np.uint8)
        where = (at + np.arange(padded)) & self.mask
        self._area[where] = self._area[where + SIZE] = raw
        self._positions[1] = at + padded
        return True

    def commit(self, at: int, length: int) -> None:
        for base in (at & self.mask, (at & self.mask) + SIZE):
            self._area[base : base + 4] = np.frombuffer(np.uint32(length).tobytes(), np.uint8)


def take(reader: SpanReader) -> list[bytes]:
    return [
        bytes(records.buffer[start : start + length])
        for records in reader.batches()
        for start, length in zip(records.starts.tolist(), records.lengths.tolist(), strict=True)
    ]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 6000), st.booleans()), max_size=40),
        min_size=1, max_size=8,
    ),
    st.integers(1, 20000),
    st.integers(1, 50),
)  # fmt: skip
def test_what_was_written_is_read_once(
    rounds: list[list[tuple[int, bool]]], batch_bytes: int, capacity: int
) -> None:
    ring = MadeRing()
    reader = SpanReader(ring, batch_bytes, capacity)
    number = 0
    for records in rounds:
        expected = []
        for length, discarded in records:
            number += 1
            data = bytes([number & 255]) * length
            if ring.put(data, DISCARD if discarded else 0) and not discarded:
                expected.append(data)
        assert take(reader) == expected
        assert ring.waiting == 0


def test_what_arrives_meanwhile_is_for_the_next_time() -> None:
    """A producer that never stops does not hold the reader."""
    ring = MadeRing()
    reader = SpanReader(ring, batch_bytes=64)
    for _ in range(10):
        ring.put(b"first" * 8)
    count = 0
    for records in reader.batches():
        count += len(records)
        for _ in range(len(records)):
            ring.put(b"later" * 8)
    assert count == 10
    assert take(reader) == [b"later" * 8] * 10


def test_record_that_is_still_written_is_waited_for() -> None:
    ring = MadeRing()
    reader = SpanReader(ring)
    ring.put(b"one")
    at = ring.position + 16
    ring.put(b"two", BUSY)
    ring.put(b"three")
    assert take(reader) == [b"one"]
    assert take(reader) == []
    ring.commit(at, 3)
    assert take(reader) == [b"two", b"three"]


def test_space_is_given_back_also_when_the_reader_fails() -> None:
    ring = MadeRing()
    reader = SpanReader(ring)
    ring.put(b"bad")
    with pytest.raises(ValueError, match="bad record"):
        for _ in reader.batches():
            raise ValueError("bad record")
    ring.put(b"good")
    assert take(reader) == [b"good"]
