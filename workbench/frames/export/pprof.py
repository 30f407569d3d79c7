"""pprof profiles (gzip-compressed protocol buffer), for `go tool pprof`, Pyroscope, Grafana and speedscope.

Field numbers are those of profile.proto of the pprof project (package perftools.profiles).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from workbench.frames.calltree import StackTable, grouped
from workbench.frames.export.protobuf import integer, message, packed, text
from workbench.frames.view import (
    codes,
    manifest_value,
    natural_frame,
    optional_frame,
    sample_period,
    weights,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("Pprof",)

VALUES = {"samples": ("samples", "cpu"), "offcpu": ("waits", "off-cpu"), "faults": ("faults", "")}


@dataclass(slots=True)
class _Strings:
    """The profile's string table; index 0 is the empty string."""

    index: dict[str, int] = field(default_factory=lambda: {"": 0})

    def __getitem__(self, value: object) -> int:
        return self.index.setdefault(str(value), len(self.index))


@dataclass(frozen=True, slots=True)
class _Locations:
    """Distinct code locations: an address with the functions inlined there, innermost first.

    Parameters
    ----------
    of_group : int64 (groups,)
        Location of each group of rows (a physical frame of a stack).
    offsets : int64 (stacks + 1,)
        Groups of each stack.
    first, last : int64 (locations,)
        One range of rows (of the stack table) per location.
    """

    of_group: NDArray[np.int64]
    offsets: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def _locations(stacks: StackTable, table: pd.DataFrame) -> _Locations:
    count = len(stacks.labels)
    ordered = table.iloc[stacks.rows]
    inlined = ordered["inlined"].to_numpy(dtype=bool)
    # A group ends at a row that is not inlined, and at the end of its stack.
    closes = ~inlined
    closes[stacks.offsets[1:] - 1] = True
    last = np.flatnonzero(closes)
    first = np.r_[0, last[:-1] + 1]
    offsets = np.searchsorted(last, stacks.offsets[1:] - 1) + 1

    line, _ = codes(ordered["line"])
    columns = [stacks.labels, line, ordered["pid"].to_numpy(np.int64), inlined.astype(np.int64)]
    address = ordered["address"].to_numpy(np.uint64).view(np.int64)
    key = np.zeros(count, dtype=np.int64)
    for column in (*columns, address):
        distinct, at = np.unique(column, return_inverse=True)
        _, key = np.unique(key * len(distinct) + at, return_inverse=True)
    span = int(key.max(initial=0)) + 2
    node = np.zeros(len(last), dtype=np.int64)
    for step in range(int((last - first).max(initial=0)) + 1):
        row = first + step
        here = np.where(row <= last, key[np.minimum(row, count - 1)] + 1, 0)
        _, node = np.unique(node * span + here, return_inverse=True)
    _, chosen = np.unique(node, return_index=True)
    return _Locations(node.astype(np.int64), np.r_[0, offsets], first[chosen], last[chosen])


def _place(
    recording: RecordingView, pid: NDArray[np.int64], address: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], pd.DataFrame | None]:
    """Row of frame `mappings` that holds each address (-1 where none does)."""
    table = optional_frame(recording, "mappings")
    row = np.full(len(pid), -1, dtype=np.int64)
    if table is None:
        return row, None
    owner = table["pid"].to_numpy()
    for one in np.unique(pid).tolist():
        mine = np.flatnonzero(owner == one)
        start = table["start"].to_numpy(np.uint64)[mine]
        order = np.argsort(start, kind="stable")
        mine, start = mine[order], start[order]
        end = table["end"].to_numpy(np.uint64)[mine]
        here = np.flatnonzero(pid == one)
        at = np.searchsorted(start, address[here], side="right") - 1
        fits = (at >= 0) & (address[here] < end[np.maximum(at, 0)]) if len(mine) else at >= 0
        row[here[fits]] = mine[at[fits]]
    return row, table


@dataclass(slots=True)
class _Writer:
    """Messages of one profile."""

    strings: _Strings = field(default_factory=_Strings)
    functions: dict[tuple[int, int], int] = field(default_factory=dict)
    mappings: dict[tuple[int, ...], int] = field(default_factory=dict)
    out: list[bytes] = field(default_factory=list)

    def function(self, name: object, file: str) -> int:
        """Id of a function."""
        key = self.strings[name], self.strings[file]
        if key not in self.functions:
            number = self.functions[key] = len(self.functions) + 1
            parts = integer(1, number), integer(2, key[0]), integer(3, key[0]), integer(4, key[1])
            self.out.append(message(5, *parts))
        return self.functions[key]

    def mapping(self, start: int, end: int, offset: int, path: object, build_id: object) -> int:
        """Id of a mapping; without addresses where the recording has none."""
        key = (start, end, offset, self.strings[path], self.strings[build_id])
        if key not in self.mappings:
            self.mappings[key] = len(self.mappings) + 1
            parts = [integer(i, value) for i, value in enumerate((len(self.mappings), *key), 1)]
            self.out.append(message(3, *parts, *(integer(i, 1) for i in (7, 8, 9, 10))))
        return self.mappings[key]

    def program(self, recording: RecordingView, pid: int) -> None:
        """Readers take the first mapping for the program: the file mapped lowest, below all libraries."""
        table = optional_frame(recording, "mappings")
        if table is None:
            return
        files = table["path"].astype(str).str.startswith("/")
        mine = table[(table["pid"] == pid) & files].sort_values("start")
        if len(mine):
            self._mapped(mine.iloc[0])

    def _mapped(self, one: pd.Series[Any]) -> int:
        bounds = int(one["start"]), int(one["end"]), int(one["offset"])
        return self.mapping(*bounds, one["path"], one["build_id"])

    def locations(
        self, recording: RecordingView, stacks: StackTable, table: pd.DataFrame, found: _Locations
    ) -> None:
        """All locations with their lines; ids are positions plus one."""
        ordered = table.iloc[stacks.rows]
        outer = ordered.iloc[found.last]
        address = outer["address"].to_numpy(np.uint64)
        place, mapped = _place(recording, outer["pid"].to_numpy(np.int64), address)
        lines = ordered["line"].astype(str).to_numpy()
        for i, (low, high) in enumerate(
            zip(found.first.tolist(), found.last.tolist(), strict=True)
        ):
            parts = []
            for row in range(low, high + 1):
                label = stacks.labels[row]
                file, _, number = lines[row].rpartition(":")
                if not number.isdecimal():
                    file, number = lines[row] if lines[row] != "nan" else "", "0"
                function = self.function(stacks.names[label], file)
                parts.append(message(4, integer(1, function), integer(2, int(number))))
            mapping = 0
            if place[i] >= 0 and mapped is not None:
                mapping = self._mapped(mapped.iloc[int(place[i])])
            elif module := stacks.modules[stacks.labels[high]]:
                mapping = self.mapping(0, 0, 0, module, "")
            head = integer(1, i + 1), integer(2, mapping), integer(3, int(address[i]))
            self.out.append(message(4, *head, *parts))

    def type(self, number: int, kind: str, unit: str) -> None:
        """A ValueType in field `number`."""
        parts = integer(1, self.strings[kind]), integer(2, self.strings[unit])
        self.out.append(message(number, *parts))


@dataclass(frozen=True, slots=True)
class Pprof:
    """Writes a pprof profile: one sample per distinct stack and thread."""

    name: str = "pprof"
    suffix: str = ".pb.gz"
    meaning: str = "pprof profile, for `go tool pprof` and continuous-profiling servers"

    def write(self, recording: RecordingView, sink: BinaryIO, *, frame: str | None = None) -> None:
        """Write counts and, where the frame has any, nanoseconds; threads and processes are labels."""
        frame = frame or natural_frame(recording)
        stacks, table = grouped(recording, frame)
        rows = recording.frame("stacks")
        weight, unit = weights(recording, frame)
        position = stacks.positions(table["stack"].to_numpy())
        comm, threads = codes(table["comm"])
        found = _locations(stacks, rows)
        writer = _Writer()
        strings = writer.strings
        count_name, time_name = VALUES.get(frame, (frame, "duration"))
        writer.type(1, count_name, "count")
        if unit == "ns":
            writer.type(1, time_name, "nanoseconds")
        if len(table):
            writer.program(recording, int(table["pid"].mode().iloc[0]))
        writer.locations(recording, stacks, rows, found)

        thread = table["pid"].to_numpy(np.int64) << 32 | table["tid"].to_numpy(np.int64)
        threads_, which = np.unique(thread, return_inverse=True)
        places = len(stacks.ids) + 1
        key = (which * len(threads) + comm) * places + position + 1
        distinct, inverse = np.unique(key, return_inverse=True)
        counts = np.bincount(inverse).tolist()
        times = np.rint(np.bincount(inverse, weights=weight)).astype(np.int64).tolist()
        groups = (found.of_group + 1).tolist()
        for one, count, time in zip(distinct.tolist(), counts, times, strict=True):
            rest, where = divmod(one, places)
            owner, name = divmod(rest, len(threads))
            pid, tid = divmod(int(threads_[owner]), 1 << 32)
            stack = groups[found.offsets[where - 1] : found.offsets[where]] if where else []
            values = [count, time][: 1 + (unit == "ns")]
            self._sample(writer, stack, values, pid, tid, threads[name])
        self._facts(recording, writer, frame)
        table_of_strings = [text(6, one) for one in strings.index]
        with gzip.GzipFile(filename="", mode="wb", fileobj=sink, mtime=0) as packer:
            packer.write(b"".join(writer.out + table_of_strings))

    @staticmethod
    def _sample(
        writer: _Writer, stack: list[int], values: list[int], pid: int, tid: int, thread: object
    ) -> None:
        strings = writer.strings
        labels = [
            message(3, integer(1, strings["thread"]), integer(2, strings[thread])),
            message(3, integer(1, strings["tid"]), integer(3, tid)),
            message(3, integer(1, strings["pid"]), integer(3, pid)),
        ]
        writer.out.append(message(2, packed(1, stack), packed(2, values), *labels))

    @staticmethod
    def _facts(recording: RecordingView, writer: _Writer, frame: str) -> None:
        """Start (wall clock), duration, period and the command as a comment."""
        start: Any = manifest_value(recording, "start")
        began = int(getattr(start, "monotonic_ns", 0)) + int(
            getattr(start, "realtime_offset_ns", 0)
        )
        writer.out.append(integer(9, began))
        writer.out.append(integer(10, int(manifest_value(recording, "duration_ns", default=0))))
        if frame == "samples":
            writer.type(11, "cpu", "nanoseconds")
            writer.out.append(integer(12, round(sample_period(recording))))
        command = " ".join(manifest_value(recording, "command", default=()))
        if command:
            writer.out.append(integer(13, writer.strings[command]))
