"""Timers in map values: the kernel's errors, and callbacks that run once for each start."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.native import CProgram, CRun, call, core
from workbench.runtime.helpers.timers import RING, Timers
from workbench.runtime.maps import Space, current_run

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 6)
ABSOLUTE = 1
SECOND = 1_000_000_000


class Bench:
    """A namespace, an array and a hash of values {timer, number}, and a callback that notes what it was given."""

    def __init__(self, kind: int) -> None:
        self.space = Space()
        self.map = self.space.create(LinkedMap("values", kind, 4, 24, 8))
        if kind != 2:
            for key in range(8):
                self.map.update(key.to_bytes(4, "little"), bytes(24))
        self.calls: list[tuple[int, int, int]] = []
        self.ran = threading.Semaphore(0)
        self.then: Any = None
        self._callback = CALLBACK(self._note)
        self.callback = ctypes.cast(self._callback, ctypes.c_void_p).value or 0
        self.program = CProgram(budget=100)
        self.timers = Timers(self.space, [self.map])
        self.timers.add(ctypes.addressof(self.program), lambda: {self.callback})

    def _note(self, where: int, key: int, value: int, _4: int, _5: int, run: int) -> int:
        self.calls.append((where, ctypes.c_uint32.from_address(key).value, value))
        if self.then is not None:
            self.then(run, value)
        self.ran.release()
        return 0

    def close(self) -> None:
        self.timers.close()
        self.space.close()

    def value(self, key: int) -> int:
        """Address of the value, where its timer is too."""
        held = ctypes.c_uint32(key)
        return call("map_lookup_elem", self.run, self.map.handle, ctypes.addressof(held))

    @property
    def run(self) -> int:
        run = current_run(self.space)
        CRun.from_address(run).program = ctypes.addressof(self.program)  # as inside of the program
        return run

    def call(self, name: str, key: int, *arguments: int) -> int:
        return call(name, self.run, self.value(key), *arguments)

    def ready(self, key: int) -> None:
        assert self.call("timer_init", key, self.map.handle, time.CLOCK_MONOTONIC) == 0
        assert self.call("timer_set_callback", key, self.callback) == 0

    def wait(self) -> None:
        assert self.ran.acquire(timeout=60)


@pytest.fixture(params=[2, 1, 9], ids=["array", "hash", "lru_hash"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


def test_errors_are_the_kernels(bench: Bench) -> None:
    assert bench.call("timer_set_callback", 1, bench.callback) == -22
    assert bench.call("timer_start", 1, 0, 0) == -22
    assert bench.call("timer_cancel", 1) == -22
    for clock in (2, 8, 9, 16, 1 << 40):
        assert bench.call("timer_init", 1, bench.map.handle, clock) == -22
    assert bench.call("timer_init", 1, bench.map.handle, time.CLOCK_BOOTTIME) == 0
    assert bench.call("timer_init", 1, bench.map.handle, time.CLOCK_BOOTTIME) == -16
    assert bench.call("timer_start", 1, 0, 0) == -22  # no callback yet
    assert bench.call("timer_set_callback", 1, bench.callback) == 0
    assert bench.call("timer_start", 1, 0, 4) == -22
    assert bench.call("timer_cancel", 1) == 0
    assert bench.call("timer_start", 1, 0, 0) == -22  # cancelling took the callback away


def test_without_anybody_to_fire_it_no_timer_is_made() -> None:
    with Space() as space:
        values = space.create(LinkedMap("values", 2, 4, 24, 1))
        run = current_run(space)
        assert call("timer_init", run, values.struct.values, values.handle, 1) == -1


@pytest.mark.parametrize("key", [0, 3, 7])
def test_a_callback_gets_map_key_and_value(bench: Bench, key: int) -> None:
    bench.ready(key)
    assert bench.call("timer_start", key, 1000, 0) == 0
    bench.wait()
    assert bench.calls == [(bench.map.handle, key, bench.value(key))]
    assert bench.call("timer_cancel", key) == 0


def test_absolute_times_of_every_clock(bench: Bench) -> None:
    for key, clock in enumerate((time.CLOCK_MONOTONIC, time.CLOCK_REALTIME, time.CLOCK_BOOTTIME)):
        assert bench.call("timer_init", key, bench.map.handle, clock) == 0
        assert bench.call("timer_set_callback", key, bench.callback) == 0
        due = time.clock_gettime_ns(clock) + 20_000_000
        assert bench.call("timer_start", key, due, ABSOLUTE) == 0
        bench.wait()
        assert time.clock_gettime_ns(clock) >= due
        assert bench.call("timer_start", key, 1, ABSOLUTE) == 0  # long past: at once
        bench.wait()


def test_a_timer_that_starts_itself_goes_on(bench: Bench) -> None:
    bench.ready(0)

    def again(run: int, value: int) -> None:
        if len(bench.calls) < 5:
            assert call("timer_start", run, value, 1000, 0) == 0

    bench.then = again
    bench.call("timer_start", 0, 1000, 0)
    for _ in range(5):
        bench.wait()
    assert len(bench.calls) == 5


def test_a_cancelled_timer_does_not_fire_and_a_restarted_one_fires_once(bench: Bench) -> None:
    bench.ready(0)
    assert bench.call("timer_start", 0, 3600 * SECOND, 0) == 0
    assert bench.call("timer_cancel", 0) == 1
    assert bench.call("timer_set_callback", 0, bench.callback) == 0
    for wait in (*[3600 * SECOND] * 20, 1000):
        assert bench.call("timer_start", 0, wait, 0) == 0
    bench.wait()
    bench.ready(1)
    bench.call("timer_start", 1, 100_000_000, 0)
    bench.wait()
    assert [key for _, key, _ in bench.calls] == [0, 1]


def test_a_callback_cannot_cancel_its_own_timer(bench: Bench) -> None:
    bench.ready(0)
    answers = []
    bench.then = lambda run, value: answers.append(call("timer_cancel", run, value))
    bench.call("timer_start", 0, 0, 0)
    bench.wait()
    assert answers == [-35]


@pytest.mark.parametrize("bench", [1, 9], indirect=True)
def test_the_timer_of_a_deleted_element_does_not_fire(bench: Bench) -> None:
    bench.ready(0)
    assert bench.call("timer_start", 0, 3600 * SECOND, 0) == 0
    timer = bench.value(0)
    state = ctypes.c_uint64.from_address(timer).value
    program = ctypes.addressof(bench.program)
    record = struct.pack("<QQQQQII", 0, timer, state, bench.callback, program, os.getpid(), 0)
    held = ctypes.create_string_buffer(record, len(record))
    key = ctypes.c_uint32(0)
    assert call("map_delete_elem", bench.run, bench.map.handle, ctypes.addressof(key)) == 0
    assert core().wb_timer_fire(bench.run, bench.map.handle, held) == 0
    assert not bench.calls


def test_records_that_name_what_is_not_registered_fire_nothing(bench: Bench) -> None:
    bench.ready(0)
    bench.call("timer_set_callback", 0, bench.callback + 64)
    bench.call("timer_start", 0, 0, 0)
    ring: Any = bench.space.maps[RING.name]
    ring.output(b"\xff" * 48)  # due at the end of time
    ring.output(bytes(48))
    ring.output(b"short")
    bench.ready(1)
    bench.call("timer_start", 1, 1000, 0)
    bench.wait()
    assert [key for _, key, _ in bench.calls] == [1]
    assert bench.timers.refused == 3
