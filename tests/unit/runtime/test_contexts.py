"""A test run's context has every byte that the program may read."""

from __future__ import annotations

import ctypes

from workbench.runtime.contexts import make_context


def test_it_is_as_long_as_the_program_may_read() -> None:
    for type in ("syscall", "perf_event", "tracepoint"):
        context = make_context(type, b"ab", 5000)
        assert ctypes.string_at(context.address, 5000) == b"ab".ljust(5000, b"\0")
