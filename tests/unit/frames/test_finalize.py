from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import fill, samples, small

import workbench as wb
from workbench.frames.finalize import ROW_GROUP
from workbench.frames.resolve import Pairs
from workbench.frames.symbols.mappings import Mappings
from workbench.frames.writer import RecordingWriter
from workbench.native.build import compiler

C_SOURCE = r"""
static volatile long sink;
static inline __attribute__((always_inline)) void innermost(long n)
{
	sink += n; /* line 5 */
}
__attribute__((noinline)) void outer_function(long n)
{
	innermost(n * 3); /* line 9 */
}
__attribute__((noinline)) void caller_of_it(long n)
{
	outer_function(n);
	sink++;
}
"""


def address_of(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def mapped(writer: RecordingWriter, pid: int | None = None, **options: object) -> None:
    writer.append("mappings", Mappings.snapshot(pid or os.getpid(), **options))


def test_real_addresses_of_this_process(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    functions = ["malloc", "qsort", "printf"]
    places = np.array([address_of(libc, name) for name in functions], np.uint64)
    pid = os.getpid()
    with RecordingWriter(tmp_path / "r") as writer:
        mapped(writer)
        ids = writer.intern([pid, pid], np.append(places, places[0]), [3, 1])
        rows = samples(0, 3)
        writer.append("samples", {**rows, "pid": [pid] * 3, "stack": np.append(ids, -1)})
        unknown = {"address": [64] * 3, "access": ["read"] * 3, "user": [True] * 3}
        writer.append(
            "faults", {**rows, **unknown, "pid": [pid] * 3, "ip": places, "stack": [-1] * 3}
        )
        writer.flush()
        live = wb.load(tmp_path / "r")
        assert live.samples["function"].tolist()[0].endswith("malloc")
    recording = wb.load(tmp_path / "r")
    first = recording.stacks[recording.stacks["stack"] == 0]
    for name, function in zip(functions, first["function"].tolist(), strict=True):
        assert name in function
    assert first["module"].str.contains("libc").all()
    assert first["depth"].tolist() == [0, 1, 2]
    assert first["space"].tolist() == ["user"] * 3
    leaves = recording.samples["function"].tolist()
    assert leaves[0] == leaves[1] == first["function"].iloc[0]
    assert leaves[2] == ""
    assert recording.faults["function"].tolist() == first["function"].tolist()
    assert recording.faults["module"].tolist() == first["module"].tolist()
    assert recording.faults["mapping"].tolist() == [""] * 3


def test_data_addresses_resolve_to_their_mapping(tmp_path: Path) -> None:
    data = ctypes.create_string_buffer(1 << 20)
    known = ctypes.CDLL(None)
    stack = ctypes.c_int()
    with RecordingWriter(tmp_path / "r") as writer:
        mapped(writer, executable_only=False)
        pid = os.getpid()
        faults = {
            "ip": [address_of(known, "memcpy")],
            "access": ["write"],
            "user": [True],
            "stack": [-1],
        }
        addresses = [address_of(known, "malloc"), ctypes.addressof(data), ctypes.addressof(stack)]
        for address in addresses:
            writer.append("faults", {**samples(0, 1), **faults, "pid": [pid], "address": [address]})
    mappings = wb.load(tmp_path / "r").faults["mapping"].tolist()
    assert "libc" in mappings[0]
    assert all(mappings)


@pytest.mark.needs("C compiler", "llvm-symbolizer")
def test_lines_and_inlined_calls(tmp_path: Path) -> None:
    source, library = tmp_path / "work.c", tmp_path / "libwork.so"
    source.write_text(C_SOURCE)
    subprocess.run(
        [
            compiler(),
            "-g",
            "-O2",
            "-fPIC",
            "-shared",
            "-fno-optimize-sibling-calls",
            "-o",
            library,
            source,
        ],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    pid = os.getpid()
    outer, caller = address_of(loaded, "outer_function"), address_of(loaded, "caller_of_it")
    span = np.arange(outer, outer + 24, dtype=np.uint64)
    with RecordingWriter(tmp_path / "r") as writer:
        mapped(writer)
        stacks = np.column_stack([span, np.full(len(span), caller, np.uint64)]).ravel()
        ids = writer.intern(np.full(len(span), pid), stacks, np.full(len(span), 2))
        rows = samples(0, len(ids))
        writer.append("samples", {**rows, "pid": np.full(len(ids), pid), "stack": ids})
    recording = wb.load(tmp_path / "r")
    deep = [rows for _, rows in recording.stacks.groupby("stack") if len(rows) == 3]
    assert deep, "no address of the span is inside the inlined call"
    for rows in deep:
        assert rows["function"].tolist() == ["innermost", "outer_function", "caller_of_it"]
        assert rows["depth"].tolist() == [0, 1, 2]
        assert rows["inlined"].tolist() == [True, False, False]
        assert rows["line"].iloc[0].endswith("work.c:5")
        assert rows["line"].iloc[1].endswith("work.c:9")
        assert rows["address"].nunique() == 2
    inlined = recording.samples["stack"].isin([rows["stack"].iloc[0] for rows in deep])
    assert set(recording.samples.loc[inlined, "function"].astype(str)) == {"innermost"}


def test_kernel_names_come_from_the_saved_symbols(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    kernel = recording.stacks[recording.stacks["space"] == "kernel"]
    assert kernel["function"].tolist() == ["kernel_start"]
    assert kernel[["stack", "depth"]].to_numpy().tolist() == [[3, 0]]
    assert kernel["pid"].tolist() == [100]
    assert set(recording.samples.loc[recording.samples["stack"] == 3, "function"].astype(str)) == {
        "kernel_start"
    }


def test_saved_perf_map_names_code_of_a_jit(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        fill(writer, 10)
        writer.attach_file("perf-100.map", b"1000 1 LazyCompile:hot\n2000 10 py::work:/app/a.py\n")
        writer.attach_file("perf-101.map", b"1000 1 another process\n")
    stacks = wb.load(tmp_path / "r").stacks
    assert stacks.loc[stacks["address"] == 0x1000, "function"].unique().tolist() == [
        "LazyCompile:hot"
    ]
    assert stacks.loc[stacks["address"] == 0x1000, "space"].unique().tolist() == ["jit"]
    assert stacks.loc[stacks["address"] == 0x2000, "space"].unique().tolist() == ["python"]


def test_times_tell_mappings_before_an_exec_from_those_after(tmp_path: Path) -> None:
    image = {"start": [0x1000], "end": [0x2000], "offset": [0], "build_id": [""]}
    with RecordingWriter(tmp_path / "r") as writer:
        writer.append("mappings", {**image, "time": [10], "pid": [100], "path": ["/bin/before"]})
        writer.append("mappings", {**image, "time": [20], "pid": [100], "path": ["/bin/after"]})
        first = writer.intern([100, 100], [0x1100, 0x1200], [1, 1], np.array([12, 22]))
        again = writer.intern([100], [0x1100], [1], np.array([30]))
        writer.append("samples", {**samples(0, 3), "stack": np.append(first, again)})
    stacks = wb.load(tmp_path / "r").stacks
    assert stacks["module"].tolist() == ["/bin/before", "/bin/after"]


def test_given_stacks_are_kept_and_give_the_leaf(tmp_path: Path) -> None:
    given_stacks = {
        "stack": [7, 7, 9],
        "depth": [0, 1, 0],
        "pid": [1, 1, 1],
        "address": [1, 2, 3],
        "space": ["user"] * 3,
        "function": ["leaf", "main", "other"],
        "module": ["m"] * 3,
        "line": ["a.c:1", "", ""],
        "inlined": [False] * 3,
    }
    with RecordingWriter(tmp_path / "r") as writer:
        writer.append("samples", {**samples(0, 4), "stack": [7, 9, -1, 8]})
        writer.append("stacks", given_stacks)
    recording = wb.load(tmp_path / "r")
    assert recording.samples["function"].tolist() == ["leaf", "other", "", ""]
    assert recording.stacks["function"].tolist() == ["leaf", "main", "other"]


def test_frames_are_written_in_row_groups_with_their_own_names(tmp_path: Path) -> None:
    rows = 2 * ROW_GROUP + 100
    with RecordingWriter(tmp_path / "r") as writer:
        for start in range(0, rows, 8192):
            part = samples(start, min(8192, rows - start))
            names = [f"thread-{start}-{i}" for i in range(50)]
            writer.append("samples", {**part, "comm": (part["tid"] % 50, names)})
    recording = wb.load(tmp_path / "r")
    file = pq.ParquetFile(tmp_path / "r" / "samples.parquet")
    assert file.metadata.num_row_groups >= 2
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    comm = file.read_row_group(0, ["comm"])["comm"].combine_chunks()
    assert len(comm.dictionary) == len(comm.unique())
    expected = [
        f"thread-{start}-{(100 + row % 3) % 50}"
        for start in range(0, rows, 8192)
        for row in range(start, min(start + 8192, rows))
    ]
    assert recording.samples["comm"].astype(str).tolist() == expected
    assert (recording.samples["comm"].value_counts() > 0).all()


def test_unresolved_recordings_match_resolved_ones(tmp_path: Path) -> None:
    """A reader of Parquet without the workbench sees plain tables."""
    recording = small(tmp_path / "r")
    plain = pd.read_parquet(tmp_path / "r" / "samples.parquet")
    assert plain["time"].tolist() == recording.samples["time"].tolist()
    assert plain["comm"].astype(str).tolist() == recording.samples["comm"].astype(str).tolist()


PAIR = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 2, 3, 1 << 63, (1 << 63) + 1]), st.integers(0, 9)
)


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(st.lists(PAIR, min_size=1, max_size=20), min_size=1, max_size=5))
def test_pairs_find_every_row_again(batches: list[list[tuple[int, int, int]]]) -> None:
    pairs = Pairs()
    expected: dict[tuple[int, int], int] = {}
    for batch in batches:
        pids = np.array([pid for pid, _, _ in batch], np.int32)
        addresses = np.array([address for _, address, _ in batch], np.uint64)
        pairs.add(pids, addresses, np.array([when for _, _, when in batch], np.int64))
        for pid, address, when in batch:
            key = (0 if address >> 63 else pid, address)
            expected[key] = min(when, expected.get(key, when))
    pids, addresses, times = pairs.freeze()
    found = dict(
        zip(zip(pids.tolist(), addresses.tolist(), strict=True), times.tolist(), strict=True)
    )
    assert found == expected
    for batch in batches:
        rows = pairs.index(
            np.array([p for p, _, _ in batch]), np.array([a for _, a, _ in batch], np.uint64)
        )
        assert pids[rows].tolist() == [0 if a >> 63 else p for p, a, _ in batch]
        assert addresses[rows].tolist() == [a for _, a, _ in batch]


def test_many_rows_of_few_addresses_stay_few_pairs() -> None:
    pairs = Pairs()
    for _ in range(40):
        pairs.add(
            np.full(25_000, 7, np.int32),
            np.arange(25_000, dtype=np.uint64) % 100,
            np.arange(25_000),
        )
    pids, _, times = pairs.freeze()
    assert len(pids) == 100
    assert times.tolist() == list(range(100))
