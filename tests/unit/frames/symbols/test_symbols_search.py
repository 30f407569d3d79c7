"""Lookups against slow but obvious versions of themselves."""

from __future__ import annotations

import fnmatch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.frames.symbols.mappings import Mappings
from workbench.frames.symbols.names import NamePool, edit_distances, mangled_fragment
from workbench.frames.symbols.table import _parents

names = st.lists(st.text("abc_", min_size=1, max_size=6), min_size=1, max_size=12)


def _pool(texts: list[str]) -> tuple[NamePool, np.ndarray]:
    offsets, content = [], b"\0"
    for text in texts:
        offsets.append(len(content))
        content += text.encode() + b"\0"
    # Tails of other names, as linkers share them.
    tails = [offset + 1 for offset, text in zip(offsets, texts, strict=True) if len(text) > 2]
    return NamePool(content), np.array(offsets + tails, np.uint32)


def _all(pool: NamePool, offsets: np.ndarray) -> list[str]:
    return [pool.name(int(at)).decode() for at in offsets]


@settings(deadline=None)
@given(texts=names, query=st.text("abc_", min_size=1, max_size=3))
def test_name_searches_equal_a_scan(texts: list[str], query: str) -> None:
    pool, offsets = _pool(texts)
    every = _all(pool, offsets)
    raw = query.encode()
    assert sorted(pool.exact(raw, offsets).tolist()) == [
        i for i, name in enumerate(every) if name == query
    ]
    assert pool.containing(raw, offsets).tolist() == [
        i for i, name in enumerate(every) if query in name
    ]
    assert pool.starting(raw, offsets).tolist() == [
        i for i, n in enumerate(every) if n.startswith(query)
    ]


@settings(deadline=None)
@given(texts=names, pattern=st.text("abc_*?[]!", min_size=1, max_size=6))
def test_globs_equal_fnmatch(texts: list[str], pattern: str) -> None:
    pool, offsets = _pool(texts)
    wanted = [i for i, name in enumerate(_all(pool, offsets)) if fnmatch.fnmatchcase(name, pattern)]
    assert sorted(pool.glob(pattern, offsets).tolist()) == wanted


def _distance(a: str, b: str) -> int:
    table = [
        [max(i, j) if min(i, j) == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)
    ]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            options = [
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            ]
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                options.append(table[i - 2][j - 2] + 1)
            table[i][j] = min(options)
    return table[-1][-1]


@settings(deadline=None)
@given(texts=names, query=st.text("abc_", min_size=1, max_size=7))
def test_edit_distances_equal_the_scalar_recurrence(texts: list[str], query: str) -> None:
    pool, offsets = _pool(texts)
    lengths = pool.lengths(offsets, 8)
    found = edit_distances(query.encode(), pool.matrix(offsets, 8), lengths)
    assert found.tolist() == [_distance(query, name) for name in _all(pool, offsets)]


def test_fragments_of_qualified_names() -> None:
    assert mangled_fragment("at::native::add(int, char)") == b"2at6native3add"
    assert mangled_fragment("std::sort") == b"4sort"
    assert mangled_fragment("operator()") == b"8operator"


ranges = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20)),
    min_size=1,
    max_size=20,
    unique_by=lambda r: r[0],
)


@given(pairs=ranges)
def test_parents_are_the_nearest_covering_ranges(pairs: list[tuple[int, int]]) -> None:
    pairs.sort()
    starts = np.array([start for start, _ in pairs], np.uint64)
    ends = np.array([start + size for start, size in pairs], np.uint64)
    wanted = [
        max((j for j in range(i) if ends[j] > starts[i]), default=-1) for i in range(len(pairs))
    ]
    assert _parents(starts, ends).tolist() == wanted


maps = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([1, 2]), st.integers(0, 12), st.integers(1, 6)),
    max_size=12,
)
queries = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 20), st.integers(-1, 7)),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(rows=maps, asked=queries, timed=st.booleans())
def test_mappings_found_equal_a_scan(
    rows: list[tuple[int, int, int, int]], asked: list[tuple[int, int, int]], timed: bool
) -> None:
    mappings = Mappings.from_columns(
        {
            "time": [row[0] for row in rows],
            "pid": [row[1] for row in rows],
            "start": [row[2] for row in rows],
            "end": [row[2] + row[3] for row in rows],
            "offset": [0] * len(rows),
            "path": [f"/{i}" for i in range(len(rows))],
            "build_id": [""] * len(rows),
        }
    )

    def scan(pid: int, address: int, time: int) -> int:
        covering = [
            (row[0], i)
            for i, row in enumerate(rows)
            if row[1] == pid and row[2] <= address < row[2] + row[3]
        ]
        if not covering:
            return -1
        if not timed:
            return max(covering)[1]
        past = [pair for pair in covering if pair[0] <= time]
        # Before anything was seen there, the earliest mapping is the best guess.
        return max(past)[1] if past else min(covering)[1]

    pids, addresses, times = (np.array(column) for column in zip(*asked, strict=True))
    found = mappings.find(
        pids.astype(np.int32), addresses.astype(np.uint64), times if timed else None
    )
    assert found.tolist() == [scan(*one) for one in asked]
