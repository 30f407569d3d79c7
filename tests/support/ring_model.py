"""A kernel ring buffer in plain memory: what ring.c reads, and the records it has to find."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass, field

import numpy as np

from workbench.native import ring

__all__ = ("DTYPE", "FakeRing", "exercise")

DTYPE = np.dtype([("a", "u8"), ("b", "u4"), ("c", "u2"), ("d", "u1"), ("name", "S9")])
BUSY, DISCARD = 1 << 31, 1 << 30


@dataclass
class FakeRing:
    """Data area (mapped twice in a row, as the kernel does), positions, and the records in order."""

    size: int
    position: int = 0
    end: int = 0
    records: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end = self.position
        self._area = bytearray(self.size)
        # Exactly as large as the real mapping: the sanitizer sees one byte beyond.
        self.memory = (ctypes.c_uint8 * (2 * self.size))()
        self.consumer = ctypes.c_uint64(self.position)
        self.producer = ctypes.c_uint64(self.position)

    def put(self, kind: str, payload: bytes) -> bool:
        """Add a record (whole, discarded or busy); False when it does not fit."""
        space = (len(payload) + 8 + 7) & ~7
        if self.end + space - self.position > self.size:
            return False
        head = len(payload) | {"busy": BUSY, "discarded": DISCARD}.get(kind, 0)
        raw = head.to_bytes(4, "little") + bytes(4) + payload + bytes(space - 8 - len(payload))
        for i, byte in enumerate(raw):
            self._area[(self.end + i) % self.size] = byte
        self.end += space
        self.records.append((kind, payload))
        return True

    def publish(self) -> None:
        """Make everything visible to the reader."""
        self.memory[: self.size] = self._area  # type: ignore[assignment]
        self.memory[self.size :] = self._area  # type: ignore[assignment]
        self.producer.value = self.end

    def commit(self, number: int) -> None:
        """Clear the busy bit of record `number`."""
        at = sum((len(payload) + 15) & ~7 for _, payload in self.records[:number]) + self.position
        self._area[(at + 3) % self.size] &= 0x7F
        self.records[number] = ("whole", self.records[number][1])
        self.publish()

    def visible(self) -> list[bytes]:
        """Payloads that a reader may take: up to the first busy record, without discarded ones."""
        found = []
        for kind, payload in self.records:
            if kind == "busy":
                break
            if kind == "whole":
                found.append(payload)
        return found

    def columns(self, capacity: int) -> tuple[np.ndarray, int]:
        """Drain fixed records by wb_ring_columns: rows as a structured array, records of other lengths."""
        arrays = {name: np.zeros(capacity, DTYPE[name]) for name in DTYPE.names or ()}
        pointers = np.array([a.ctypes.data for a in arrays.values()], np.uint64)
        offsets = np.array([DTYPE.fields[name][1] for name in arrays], np.uint32)  # type: ignore[index]
        sizes = np.array([a.itemsize for a in arrays.values()], np.uint32)
        other = ctypes.c_uint64()
        parts = []
        while rows := ring.library().wb_ring_columns(
            self.memory, self.size - 1, ctypes.byref(self.consumer), ctypes.byref(self.producer), DTYPE.itemsize,
            len(sizes), offsets.ctypes.data, sizes.ctypes.data, pointers.ctypes.data, capacity, ctypes.byref(other),
        ):  # fmt: skip
            part = np.zeros(rows, DTYPE)
            for name, array in arrays.items():
                part[name] = array[:rows]
            parts.append(part)
        return np.concatenate([np.zeros(0, DTYPE), *parts]), other.value

    def walked(self, buffer_bytes: int, capacity: int) -> list[bytes]:
        """Drain by wb_ring_records."""
        out = (ctypes.c_uint8 * buffer_bytes)()
        starts, lengths = np.zeros(capacity, np.uint64), np.zeros(capacity, np.uint32)
        found = []
        while rows := ring.library().wb_ring_records(
            self.memory, self.size - 1, ctypes.byref(self.consumer), ctypes.byref(self.producer), out, buffer_bytes,
            starts.ctypes.data, lengths.ctypes.data, capacity,
        ):  # fmt: skip
            raw = bytes(out)
            found += [
                raw[int(s) : int(s) + int(n)]
                for s, n in zip(starts[:rows], lengths[:rows], strict=True)
            ]
        return found

    def spanned(self, limit: int, capacity: int) -> list[bytes]:
        """Drain by wb_ring_spans and wb_ring_release."""
        starts, lengths = np.zeros(capacity, np.uint64), np.zeros(capacity, np.uint32)
        position = ctypes.c_uint64(self.consumer.value)
        found = []
        raw = bytes(self.memory)
        while True:
            before = position.value
            rows = ring.library().wb_ring_spans(
                self.memory, self.size - 1, ctypes.byref(position), self.producer.value, limit, starts.ctypes.data,
                lengths.ctypes.data, capacity,
            )  # fmt: skip
            found += [
                raw[int(s) : int(s) + int(n)]
                for s, n in zip(starts[:rows], lengths[:rows], strict=True)
            ]
            if position.value == before:
                break
            ring.library().wb_ring_release(ctypes.byref(self.consumer), position)
        return found


def fill(seed: int, size: int, mixed: bool) -> FakeRing:
    """A ring with random records that starts anywhere, so that it wraps."""
    rng = random.Random(seed)
    made = FakeRing(size, position=rng.randrange(0, 1 << 40) * 8)
    while True:
        kind = rng.choices(("whole", "discarded", "busy"), (90, 8, 1))[0]
        length = (
            rng.choice((DTYPE.itemsize, 0, 1, 7, 8, 40, 100))
            if mixed and rng.random() < 0.5
            else DTYPE.itemsize
        )
        if not made.put(kind, rng.randbytes(length)):
            break
    made.publish()
    return made


def exercise(seed: int, size: int) -> None:
    """Drain random rings in every way and compare with the model."""
    rng = random.Random(seed)
    for mixed in (False, True):
        capacity = rng.choice((1, 3, 300, 5000))
        expected = fill(seed, size, mixed).visible()
        rows, other = fill(seed, size, mixed).columns(capacity)
        fixed = [one for one in expected if len(one) == DTYPE.itemsize]
        assert rows.tobytes() == np.frombuffer(b"".join(fixed), DTYPE).tobytes()
        assert other == len(expected) - len(fixed)
        assert (
            fill(seed, size, mixed).walked(rng.choice((104, 4096, 1 << 20)), capacity) == expected
        )
        assert fill(seed, size, mixed).spanned(rng.choice((8, 1000, 1 << 30)), capacity) == expected
