"""Perfetto traces, for https://ui.perfetto.dev and trace_processor.

Field numbers are those of Perfetto's protos/perfetto/trace. One packet sequence, all times on CLOCK_MONOTONIC (the
primary trace clock), names and stacks interned. CPU samples become PerfSample packets with callstacks; calls become
slices of their thread; off-CPU times, GPU API calls, watchpoint hits and page faults get tracks under the thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from workbench.errors import MissingFrame
from workbench.frames.calltree import StackTable, stack_table
from workbench.frames.export.nesting import lanes, marks
from workbench.frames.export.protobuf import (
    integer,
    message,
    padded,
    rows,
    text,
    varint,
    width_for,
)
from workbench.frames.view import codes, manifest_value, optional_frame, sample_period, spans

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("Perfetto",)

REALTIME, MONOTONIC = 1, 3
SEQUENCE = integer(10, 1)
NEEDS_STATE = integer(13, 2)
BEGIN, END, INSTANT = 1, 2, 3
BATCH = 1 << 17


@dataclass(frozen=True, slots=True)
class _Layer:
    """How the rows of one frame are drawn."""

    frame: str
    label: str
    """Column that names the slices."""
    track: str
    """Name of the track under the thread; empty for the thread's own."""
    details: tuple[str, ...]
    """Integer columns that a click on the slice shows."""


LAYERS = (
    _Layer("calls", "function", "", ("result",)),
    _Layer("offcpu", "state", "off-CPU", ("runqueue", "waker_tid")),
    _Layer("gpu_calls", "api", "GPU API", ("bytes", "result")),
    _Layer("watches", "watch", "watchpoints", ("address", "ip", "before", "after")),
    _Layer("faults", "function", "page faults", ("address", "ip")),
)


@dataclass(slots=True)
class _Tracks:
    """Numbers of tracks and interned texts, with the packets that declare them."""

    packets: list[bytes] = field(default_factory=list)
    threads: dict[tuple[int, int], int] = field(default_factory=dict)
    children: dict[tuple[int, str], int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    details: dict[str, int] = field(default_factory=dict)
    written: set[tuple[int, int]] = field(default_factory=set)
    last: int = 0

    def _new(self, *parts: bytes) -> int:
        self.last += 1
        self.packets.append(_packet(message(60, integer(1, self.last), *parts)))
        return self.last

    def process(self, pid: int, name: str, command: tuple[str, ...]) -> None:
        """Declare a process; `command` is known for the recorded one only."""
        line = b"".join(text(2, word) for word in command)
        self._new(message(3, integer(1, pid), line, text(6, name)))

    def thread(self, pid: int, tid: int, name: str) -> None:
        """Declare a thread."""
        described = message(4, integer(1, pid), integer(2, tid), text(5, name))
        self.threads[pid, tid] = self._new(described)

    def child(self, parent: int, name: str) -> int:
        """A named track under a thread's, made at its first use."""
        if (parent, name) not in self.children:
            self.children[parent, name] = self._new(integer(5, parent), text(2, name))
        return self.children[parent, name]

    def intern(self, names: NDArray[np.object_]) -> NDArray[np.int64]:
        """Interning ids of slice names."""
        ids = [
            self.names.setdefault(str(name) or "[unknown]", len(self.names) + 1) for name in names
        ]
        return np.array(ids, dtype=np.int64)


def _packet(*parts: bytes) -> bytes:
    return message(1, *parts, SEQUENCE, NEEDS_STATE)


def _declare(recording: RecordingView, tables: dict[str, pd.DataFrame]) -> _Tracks:
    """Processes and threads of all rows, named by their last thread name."""
    import pandas as pd

    columns = ["pid", "tid", "comm"]
    seen = [table[columns].drop_duplicates(keep="last") for table in tables.values()]
    known = optional_frame(recording, "processes")
    if known is not None:
        seen.append(known[columns].drop_duplicates(keep="last"))
    who = pd.concat([one.astype({"comm": str}) for one in seen])
    who = who.drop_duplicates(["pid", "tid"], keep="last").sort_values(["pid", "tid"])
    leaders = {pid: comm for pid, tid, comm in who.itertuples(index=False) if pid == tid}
    root = manifest_value(recording, "pid", default=-1)
    command = tuple(manifest_value(recording, "command", default=()))
    tracks = _Tracks()
    for pid, group in who.groupby("pid"):
        number = int(str(pid))
        name = leaders.get(number, group["comm"].iloc[0])
        tracks.process(number, name, command if number == root else ())
    for pid, tid, comm in who.itertuples(index=False):
        tracks.thread(pid, tid, comm)
    return tracks


def _thread_tracks(
    table: pd.DataFrame, tracks: _Tracks
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per row the position of its thread, and the thread tracks by position."""
    key = table["pid"].to_numpy(np.int64) << 32 | table["tid"].to_numpy(np.int64)
    distinct, at = np.unique(key, return_inverse=True)
    own = [tracks.threads[int(one) >> 32, int(one) & 0xFFFFFFFF] for one in distinct]
    return at.astype(np.int64), np.array(own, dtype=np.int64)


def _details(
    table: pd.DataFrame, layer: _Layer, tracks: _Tracks
) -> list[tuple[bytes, NDArray[np.int64]]]:
    out = []
    for column in layer.details:
        if column in table.columns:
            number = tracks.details.setdefault(column, len(tracks.details) + 1)
            # DebugAnnotation: name_iid 1, int_value 4, as field 4 of TrackEvent; 16 bytes with the value.
            values = table[column].to_numpy()
            wide = values.view(np.int64) if values.dtype == np.uint64 else values.astype(np.int64)
            out.append((b"\x22\x0e\x08" + bytes([number | 0x80, 0]) + b"\x20", wide))
    return out


def _write_events(
    sink: BinaryIO,
    time: NDArray[np.int64],
    kind: NDArray[np.uint8],
    track: NDArray[np.int64],
    name: NDArray[np.int64],
    row: NDArray[np.int64],
    details: list[tuple[bytes, NDArray[np.int64]]],
) -> None:
    """Track events of equal length, in the given order. `row` picks the rows of `details`."""
    track_width, name_width = width_for(int(track.max())), width_for(int(name.max()))
    body = 2 + 1 + track_width + 1 + name_width + 16 * len(details)
    event = varint(11 << 3 | 2) + varint(body) + b"\x48"
    inner = len(SEQUENCE + NEEDS_STATE) + 10 + len(event) - 1 + body
    head = b"\x0a" + varint(inner) + SEQUENCE + NEEDS_STATE + b"\x40"
    for low in range(0, len(time), BATCH):
        part = slice(low, low + BATCH)
        count = len(time[part])
        extra: list[bytes | NDArray[np.uint8]] = []
        for prefix, values in details:
            extra += [prefix, padded(values[row[part]], 10)]
        block = rows(
            count,
            head,
            padded(time[part], 9),
            event,
            kind[part, None],
            b"\x58",
            padded(track[part], track_width),
            b"\x50",
            padded(name[part], name_width),
            *extra,
        )
        if details:
            # An end carries no details: repeating its type (the last one counts) keeps the length.
            ends = np.flatnonzero(kind[part] == END)
            filler = np.frombuffer(bytes([0x48, END]) * (8 * len(details)), np.uint8)
            block[ends, block.shape[1] - len(filler) :] = filler
        sink.write(block.tobytes())


def _write_layer(sink: BinaryIO, layer: _Layer, table: pd.DataFrame, tracks: _Tracks) -> None:
    at, own = _thread_tracks(table, tracks)
    code, texts = codes(table[layer.label])
    name = tracks.intern(texts)[code]
    start, end, lasting = spans(table)
    details = _details(table, layer, tracks)
    track = np.zeros(len(table), dtype=np.int64)
    lane = np.zeros(len(table), dtype=np.int64)
    lane[lasting] = lanes(start[lasting], end[lasting], at[lasting])
    for number in np.unique(lane).tolist():
        suffix = f" ({number + 1})" if number else ""
        here = lane == number
        title = f"{layer.track or 'calls'}{suffix}"
        used = np.unique(at[here])
        of = own.copy()
        if layer.track or number:
            of[used] = [tracks.child(int(one), title) for one in own[used]]
        track[here] = of[at[here]]
    pending, tracks.packets = tracks.packets, []
    sink.writelines(pending)
    sink.writelines(_interned(tracks))

    points = np.flatnonzero(~lasting)
    if len(points):
        kind = np.full(len(points), INSTANT, np.uint8)
        _write_events(sink, start[points], kind, track[points], name[points], points, details)
    rows_ = np.flatnonzero(lasting)
    if len(rows_):
        both = marks(start[rows_], end[rows_])
        row = rows_[both.interval]
        when = np.where(both.begins, start[row], end[row])
        kind = np.where(both.begins, np.uint8(BEGIN), np.uint8(END))
        _write_events(sink, when, kind, track[row], name[row], row, details)


def _interned(tracks: _Tracks) -> list[bytes]:
    """A packet with the names that were not written yet."""
    entries = [
        message(number, integer(1, i), text(2, name))
        for number, table in ((2, tracks.names), (3, tracks.details))
        for name, i in table.items()
        if (number, i) not in tracks.written
    ]
    tracks.written.update((2, i) for i in tracks.names.values())
    tracks.written.update((3, i) for i in tracks.details.values())
    return [_packet(message(12, *entries))] if entries else []


def _intern_stacks(sink: BinaryIO, stacks: StackTable, table: pd.DataFrame) -> None:
    """Function names, modules, frames and callstacks; ids are positions plus one."""
    functions, function = np.unique(stacks.names, return_inverse=True)
    modules, module = np.unique(stacks.modules, return_inverse=True)
    address = table["address"].to_numpy(np.uint64)[stacks.rows]
    place = np.zeros(len(stacks.names), dtype=np.uint64)
    place[stacks.labels[::-1]] = address[::-1]
    entries = [message(5, integer(1, i), text(2, one)) for i, one in enumerate(functions, 1)]
    for i, one in enumerate(modules, 1):
        entries.append(message(17, integer(1, i), text(2, one)))
        entries.append(message(19, integer(1, i), integer(7, i)))
    entries += [
        message(
            6, integer(1, i + 1), integer(2, int(function[i]) + 1), integer(3, int(module[i]) + 1),
            integer(4, int(place[i])),
        )
        for i in range(len(stacks.names))
    ]  # fmt: skip
    sink.write(_packet(message(12, *entries)))
    width = width_for(len(stacks.names))
    frames = rows(len(stacks.labels), b"\x10", padded(stacks.labels + 1, width))
    ends = stacks.offsets.tolist()
    for low in range(0, len(stacks.ids), 4096):
        entries = [
            message(7, integer(1, i + 1), frames[ends[i] : ends[i + 1]][::-1].tobytes())
            for i in range(low, min(low + 4096, len(stacks.ids)))
        ]
        sink.write(_packet(message(12, *entries)))


def _write_samples(sink: BinaryIO, samples: pd.DataFrame, stacks: StackTable) -> None:
    """PerfSample packets: cpu 1, pid 2, tid 3, callstack_iid 4, cpu_mode 5."""
    order = np.argsort(samples["time"].to_numpy(), kind="stable")
    position = stacks.positions(samples["stack"].to_numpy())[order]
    leaf = stacks.spaces[stacks.labels[stacks.offsets[:-1]]] if len(stacks.ids) else np.empty(0)
    mode = np.where(leaf == "kernel", 1, 2).astype(np.uint8)
    columns = {name: samples[name].to_numpy()[order] for name in ("time", "cpu", "pid", "tid")}
    for known in (True, False):
        chosen = np.flatnonzero((position >= 0) == known)
        if not len(chosen):
            continue
        width = width_for(len(stacks.ids))
        body = 2 + 6 + 6 + 6 + ((1 + width + 2) if known else 0) - 2
        sample = varint(66 << 3 | 2) + varint(body)
        inner = len(SEQUENCE + NEEDS_STATE) + 10 + len(sample) + body
        head = b"\x0a" + varint(inner) + SEQUENCE + NEEDS_STATE + b"\x40"
        for low in range(0, len(chosen), BATCH):
            part = chosen[low : low + BATCH]
            stack: list[bytes | NDArray[np.uint8]] = []
            if known:
                here = position[part]
                stack = [b"\x20", padded(here + 1, width), b"\x28", mode[here][:, None]]
            block = rows(
                len(part),
                head,
                padded(columns["time"][part], 9),
                sample,
                b"\x08",
                padded(np.maximum(columns["cpu"][part], 0), 5),
                b"\x10",
                padded(np.maximum(columns["pid"][part], 0), 5),
                b"\x18",
                padded(np.maximum(columns["tid"][part], 0), 5),
                *stack,
            )
            sink.write(block.tobytes())


def _preamble(recording: RecordingView, first: int) -> bytes:
    """Clocks, defaults and the clearing of incremental state."""
    start: Any = manifest_value(recording, "start")
    offset = int(getattr(start, "realtime_offset_ns", 0))
    clocks = [message(1, integer(1, MONOTONIC), integer(2, first))]
    if offset:
        clocks.append(message(1, integer(1, REALTIME), integer(2, first + offset)))
    snapshot = message(6, *clocks, integer(2, MONOTONIC))
    period = sample_period(recording)
    hertz = integer(2, round(1e9 / period)) if period else b""
    timebase = message(1, hertz, integer(4, 1), integer(11, 2))
    defaults = message(59, integer(58, MONOTONIC), message(12, timebase))
    cleared = message(1, SEQUENCE, integer(13, 1), integer(87, 1), defaults)
    return cleared + message(1, integer(8, first), integer(58, MONOTONIC), SEQUENCE, snapshot)


@dataclass(frozen=True, slots=True)
class Perfetto:
    """Writes a Perfetto trace of every frame with times."""

    name: str = "perfetto"
    suffix: str = ".perfetto-trace"
    meaning: str = "Perfetto trace, opens in https://ui.perfetto.dev"

    def write(self, recording: RecordingView, sink: BinaryIO, *, frame: str | None = None) -> None:
        """Write samples, calls, off-CPU times, GPU API calls, watchpoint hits and faults, or one of them."""
        names = ["samples", *(layer.frame for layer in LAYERS)]
        if frame is not None and frame not in names:
            raise MissingFrame(
                f"frame {frame!r} has no place in a Perfetto trace",
                f"frames that have: {', '.join(names)}",
            )
        if frame is not None:
            recording.frame(frame)
        wanted = names if frame is None else [frame]
        tables = {one: optional_frame(recording, one) for one in wanted}
        found = {one: table for one, table in tables.items() if table is not None}
        if not found:
            raise MissingFrame(
                f"recording {recording.name!r} has no frame with times to export",
                f"it has: {', '.join(recording.frames) or 'nothing'}; "
                "`workbench record --collect cpu` records `samples`",
            )
        first = min(int(table["time"].min()) for table in found.values())
        sink.write(_preamble(recording, first))
        tracks = _declare(recording, found)
        pending, tracks.packets = tracks.packets, []
        sink.writelines(pending)
        samples = found.get("samples")
        rows_of_stacks = optional_frame(recording, "stacks")
        if samples is not None and rows_of_stacks is not None:
            stacks = stack_table(rows_of_stacks)
            _intern_stacks(sink, stacks, rows_of_stacks)
            _write_samples(sink, samples, stacks)
        for layer in LAYERS:
            table = found.get(layer.frame)
            if table is not None:
                _write_layer(sink, layer, table, tracks)
