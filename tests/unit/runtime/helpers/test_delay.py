"""bpf_delay: a thread sleeps inside its program, for a bounded time, and is told how long it was."""

from __future__ import annotations

import time

from workbench.runtime.helpers.native import StandaloneRun

MOST = 20_000_000


def test_the_thread_sleeps_for_that_long_and_is_told_so() -> None:
    run = StandaloneRun()
    before, cpu = time.monotonic_ns(), time.thread_time_ns()
    told = run.call("delay", 3_000_000)
    took, spent = time.monotonic_ns() - before, time.thread_time_ns() - cpu
    assert 3_000_000 <= told <= took
    assert spent < took / 2  # it does not spin


def test_what_a_program_asks_for_is_bounded() -> None:
    run = StandaloneRun()
    for asked in (MOST, 10**12, 2**64 - 1):
        begun = time.process_time_ns()
        told = run.call("delay", asked)
        assert told >= MOST
        assert time.process_time_ns() - begun < MOST
    assert run.call("delay", 0) >= 0
