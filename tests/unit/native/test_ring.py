"""The ring walker against a model of the kernel's ring buffer, also under the sanitizers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_model import DTYPE, FakeRing, exercise

from workbench.native import ring


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), size=st.sampled_from((4096, 8192, 65536)))
def test_every_record_is_found_once_and_in_order(seed: int, size: int) -> None:
    exercise(seed, size)


def test_reading_stops_at_a_busy_record_and_goes_on_when_it_is_committed() -> None:
    made = FakeRing(4096)
    payloads = [bytes([i]) * DTYPE.itemsize for i in range(5)]
    for i, payload in enumerate(payloads):
        made.put("busy" if i == 2 else "whole", payload)
    made.publish()
    assert made.columns(10)[0].tobytes() == b"".join(payloads[:2])
    assert made.columns(10)[0].size == 0
    made.commit(2)
    assert made.columns(10)[0].tobytes() == b"".join(payloads[2:])
    assert made.consumer.value == made.producer.value


def test_joined_ranges_must_lie_inside() -> None:
    base = np.arange(100, dtype=np.uint8)
    out = np.zeros(20, np.uint8)
    starts, lengths = np.array([5, 50], np.uint64), np.array([3, 7], np.uint64)
    assert ring.concatenate(base, starts, lengths, out) == 10
    assert out[:10].tolist() == [5, 6, 7, 50, 51, 52, 53, 54, 55, 56]
    for bad_start, bad_length in ((101, 0), (95, 6), (2**64 - 1, 2), (0, 21)):
        with pytest.raises(ValueError, match="outside"):
            ring.concatenate(
                base, np.array([bad_start], np.uint64), np.array([bad_length], np.uint64), out
            )


def test_under_the_sanitizers(run_sanitized: Callable[..., str]) -> None:
    printed = run_sanitized(
        "from ring_model import exercise\n"
        "for seed in range(60):\n"
        "    exercise(seed, (4096, 8192)[seed % 2])\n"
        "print('clean')\n"
    )
    assert printed.strip().endswith("clean")
