"""The list of what is ours in a process: which ranges it takes in, and that it is known by its mark."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.runtime.attach.ledger import (
    SIZE,
    Entry,
    Ledger,
    beyond,
    read_ledger,
    write_ledger,
)
from workbench.runtime.attach.memory import PAGE, Mapping, Memory

EMPTY = Ledger(b"m" * 16, b"v" * 16, PAGE, 4 * PAGE)


def mapping(start: int, end: int, path: str = "") -> Mapping:
    return Mapping(start * PAGE, end * PAGE, "rw-p", 0, "", 0, path)


def pages(entries: Iterable[Entry | Mapping]) -> set[int]:
    return {at for one in entries for at in range(one.start, one.end, PAGE)}


ranges = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 6)).map(lambda one: (one[0], one[0] + one[1])),
    max_size=8,
)


@given(ranges, ranges)
@settings(max_examples=200, deadline=None)
def test_what_was_mapped_meanwhile(
    after: list[tuple[int, int]], before: list[tuple[int, int]]
) -> None:
    disjoint: list[Mapping] = []
    for one in (mapping(*pair) for pair in sorted(after)):
        if not disjoint or disjoint[-1].end <= one.start:
            disjoint.append(one)
    old = [mapping(*one) for one in before]
    assert pages(beyond(disjoint, old)) == pages(disjoint) - pages(old)


@given(ranges, st.integers(1, 60), st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_adding_and_taking_out(some: list[tuple[int, int]], start: int, count: int) -> None:
    entries = [Entry(low * PAGE, high * PAGE) for low, high in some]
    full = EMPTY.adding(entries)
    assert pages(full.entries) == pages(entries)
    assert all(a.end < b.start for a, b in zip(full.entries, full.entries[1:], strict=False))
    gone = set(range(start * PAGE, (start + count) * PAGE, PAGE))
    less = full.without(start * PAGE, (start + count) * PAGE)
    assert pages(less.entries) == pages(entries) - gone


def test_the_kernels_own_mappings_are_not_ours() -> None:
    after, before = [mapping(1, 9, "[stack]"), mapping(10, 11)], [mapping(3, 9, "[stack]")]
    assert beyond(after, before) == [Entry(10 * PAGE, 11 * PAGE)]


def test_known_by_its_mark() -> None:
    page = ctypes.create_string_buffer(SIZE)
    at = ctypes.addressof(page)
    entries = Entry(PAGE, 3 * PAGE, kept=True), Entry(4 * PAGE, 5 * PAGE)
    ledger = Ledger(b"a" * 16, b"v" * 16, at, SIZE, copied=True, entries=entries)
    memory = Memory(os.getpid())
    try:
        write_ledger(memory, at, ledger)
        assert read_ledger(memory, at, b"a" * 16) == ledger
        assert read_ledger(memory, at, b"b" * 16) is None
        assert read_ledger(memory, 8, b"a" * 16) is None
        page[0] = b"x"
        assert read_ledger(memory, at, b"a" * 16) is None
    finally:
        memory.close()


def test_a_ledger_that_is_full_says_so() -> None:
    entries = [Entry(2 * i * PAGE, (2 * i + 1) * PAGE) for i in range(1, 300)]
    full = EMPTY.adding(entries)
    assert full.full
    assert len(full.entries) * 16 < SIZE
