"""The Perfetto trace, parsed with protobuf's own parser and matched as trace_processor matches slices."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from frameset import PID, REALTIME, STACKS, START, FrameSet, database
from hypothesis import given, settings
from hypothesis import strategies as st
from protobuf_messages import PERFETTO, message_class

from workbench.errors import MissingFrame
from workbench.frames.export import exporter
from workbench.frames.export.nesting import lanes, marks
from workbench.frames.export.protobuf import padded, varint

Trace = message_class("perfetto_by_number", PERFETTO, "Trace")


def parse(recording: FrameSet, frame: str | None = None) -> list[Any]:
    sink = io.BytesIO()
    exporter("perfetto").write(recording, sink, frame=frame)
    trace = Trace()
    trace.ParseFromString(sink.getvalue())
    check_known_fields(trace)
    return list(trace.packet)


def check_known_fields(message: Any) -> None:
    """Every byte written belongs to a field with a stated number: parsing and writing again loses nothing."""
    before = message.ByteSize()
    message.DiscardUnknownFields()
    assert message.ByteSize() == before


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


@pytest.fixture(scope="module")
def packets(recording: FrameSet) -> list[Any]:
    return parse(recording)


def track_names(packets: list[Any]) -> dict[int, tuple[int, str]]:
    """Per track: thread id and name of the track below it ('' for the thread's own)."""
    out: dict[int, tuple[int, str]] = {}
    for packet in packets:
        track = packet.track_descriptor
        if packet.HasField("track_descriptor") and track.HasField("thread"):
            out[track.uuid] = (track.thread.tid, "")
        elif packet.HasField("track_descriptor") and track.parent_uuid:
            out[track.uuid] = (out[track.parent_uuid][0], track.name)
    return out


def slices(packets: list[Any]) -> list[tuple[int, str, str, int, int, dict[str, int]]]:
    """(tid, track, name, begin, duration, details) as a reader with one stack per track sees them."""
    tracks = track_names(packets)
    names: dict[int, str] = {}
    details: dict[int, str] = {}
    events = []
    for packet in packets:
        names |= {one.iid: one.name for one in packet.interned_data.event_names}
        details |= {one.iid: one.name for one in packet.interned_data.debug_annotation_names}
        if packet.HasField("track_event"):
            events.append(packet)
    events.sort(key=lambda packet: packet.timestamp)
    stacks: dict[int, list[Any]] = defaultdict(list)
    out = []
    for packet in events:
        event = packet.track_event
        tid, track = tracks[event.track_uuid]
        shown = {details[one.name_iid]: one.int_value for one in event.debug_annotations}
        if event.type == 1:
            stacks[event.track_uuid].append((packet.timestamp, names[event.name_iid], shown))
        elif event.type == 2:
            assert not shown
            begin, name, shown = stacks[event.track_uuid].pop()
            out.append((tid, track, name, begin, packet.timestamp - begin, shown))
        else:
            out.append((tid, track, names[event.name_iid], packet.timestamp, -1, shown))
    assert not any(stacks.values()), "a slice was never closed"
    return out


def expected(table: Any, label: str, detail: str) -> Counter[Any]:
    rows = zip(table["tid"], table[label].astype(str), table["time"], table[detail], strict=True)
    return Counter((int(tid), name, int(time), int(value)) for tid, name, time, value in rows)


@pytest.mark.parametrize(
    ("frame", "track", "label", "detail"),
    [
        ("calls", "", "function", "result"),
        ("gpu_calls", "GPU API", "api", "bytes"),
        ("offcpu", "off-CPU", "state", "runqueue"),
    ],
)
def test_intervals_are_slices(
    packets: list[Any], recording: FrameSet, frame: str, track: str, label: str, detail: str
) -> None:
    table = recording.frame(frame)
    lanes_of = ("", "calls") if not track else (track,)
    mine = [one for one in slices(packets) if one[1].split(" (")[0] in lanes_of]
    got = Counter((tid, name, begin, shown[detail]) for tid, _, name, begin, _, shown in mine)
    assert got == expected(table, label, detail)
    lengths = Counter(one[4] for one in mine)
    assert lengths == Counter(np.maximum(table["duration"], 1).tolist())


def test_points_are_instants(packets: list[Any], recording: FrameSet) -> None:
    mine = [one for one in slices(packets) if one[1] == "watchpoints"]
    assert all(one[4] == -1 for one in mine)
    got = Counter((tid, name, begin, shown["after"]) for tid, _, name, begin, _, shown in mine)
    assert got == expected(recording.frame("watches"), "watch", "after")


def test_samples_have_their_stacks(packets: list[Any], recording: FrameSet) -> None:
    functions: dict[int, str] = {}
    frames: dict[int, str] = {}
    stacks: dict[int, tuple[str, ...]] = {}
    for packet in packets:
        data = packet.interned_data
        functions |= {one.iid: one.str.decode() for one in data.function_names}
        frames |= {one.iid: functions[one.function_name_id] for one in data.frames}
        stacks |= {one.iid: tuple(frames[i] for i in one.frame_ids) for one in data.callstacks}
    got = [packet for packet in packets if packet.HasField("perf_sample")]
    samples = recording.frame("samples")
    assert len(got) == len(samples)
    for packet, row in zip(got, samples.itertuples(), strict=True):
        sample = packet.perf_sample
        assert (packet.timestamp, sample.tid, sample.pid) == (row.time, row.tid, PID)
        assert sample.cpu == row.cpu
        assert stacks[sample.callstack_iid] == STACKS[row.stack][0]
        kernel = row.function in ("ext4_buffered_write_iter", "copy_page_from_iter_atomic")
        assert sample.cpu_mode == (
            1 if kernel or row.function == "jbd2_complete_transaction" else 2
        )


def test_clocks_and_state(packets: list[Any]) -> None:
    first, snapshot = packets[0], packets[1].clock_snapshot
    assert first.sequence_flags == 1
    assert first.trace_packet_defaults.timestamp_clock_id == 3
    assert first.trace_packet_defaults.perf_sample_defaults.timebase.frequency == 500
    assert snapshot.primary_trace_clock == 3
    clocks = {clock.clock_id: clock.timestamp for clock in snapshot.clocks}
    assert clocks[1] - clocks[3] == REALTIME
    assert clocks[3] <= START + 10_000_000
    assert {packet.sequence for packet in packets} == {1}


def test_threads_and_command_are_named(packets: list[Any]) -> None:
    described = [packet.track_descriptor for packet in packets]
    threads = {
        one.thread.tid: one.thread.thread_name for one in described if one.HasField("thread")
    }
    assert threads == {PID: "databased", PID + 1: "worker-0", PID + 2: "worker-1"}
    processes = [one.process for one in described if one.HasField("process")]
    assert [process.pid for process in processes] == [PID]
    assert list(processes[0].cmdline) == ["databased", "--serve", "/srv/data.db"]


def test_one_frame_alone(recording: FrameSet) -> None:
    found = slices(parse(recording, frame="watches"))
    assert {one[1] for one in found} == {"watchpoints"}
    with pytest.raises(MissingFrame, match="no place"):
        parse(recording, frame="syscalls")


def test_recursion_and_same_instants_nest(recording: FrameSet) -> None:
    calls = recording.frame("calls").head(5).copy()
    calls["tid"] = PID
    calls["time"] = START + np.array([0, 0, 10, 20, 20])
    calls["duration"] = [30, 10, 10, 10, 0]
    found = slices(parse(FrameSet("r", {"calls": calls})))
    assert {track for _, track, *_ in found} == {""}
    assert sorted((begin - START, length) for *_, begin, length, _ in found) == [
        (0, 10), (0, 30), (10, 10), (20, 1), (20, 10)
    ]  # fmt: skip


def test_samples_without_stack_are_written(recording: FrameSet) -> None:
    samples = recording.frame("samples").head(20).copy()
    samples.loc[:4, "stack"] = -1
    tables = {"samples": samples, "stacks": recording.frame("stacks")}
    got = [one.perf_sample for one in parse(FrameSet("r", tables)) if one.HasField("perf_sample")]
    assert len(got) == 20
    assert sum(not sample.callstack_iid for sample in got) == 5


intervals = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(intervals)
def test_any_intervals_match_like_parentheses(given_: list[tuple[int, int, int]]) -> None:
    start, length, track = np.array(given_, dtype=np.int64).T
    end = start + length
    lane = lanes(start, end, track)
    for key in set(zip(track.tolist(), lane.tolist(), strict=True)):
        mine = np.flatnonzero((track == key[0]) & (lane == key[1]))
        both = marks(start[mine], end[mine])
        stack: list[int] = []
        for interval, begins in zip(both.interval.tolist(), both.begins.tolist(), strict=True):
            if begins:
                stack.append(interval)
            else:
                top = stack.pop()
                assert end[mine[top]] == end[mine[interval]]
                assert start[mine[top]] == start[mine[interval]]
        assert not stack


def test_nested_calls_stay_in_one_lane() -> None:
    start = np.array([0, 1, 2, 10, 11, 11], dtype=np.int64)
    end = np.array([9, 8, 3, 20, 20, 20], dtype=np.int64)
    assert lanes(start, end, np.zeros(6, dtype=np.int64)).tolist() == [0] * 6


@given(st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=20))
def test_padded_varints_decode(values: list[int]) -> None:
    for row, value in zip(padded(np.array(values, dtype=np.uint64), 9), values, strict=True):
        assert sum((int(byte) & 0x7F) << (7 * i) for i, byte in enumerate(row)) == value
        assert all(byte & 0x80 for byte in row[:-1])
        assert not row[-1] & 0x80


def test_padded_varint_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        padded(np.array([128]), 1)
    with pytest.raises(ValueError, match="does not fit"):
        padded(np.array([-1]), 5)
    assert varint(-1) == b"\xff" * 9 + b"\x01" == padded(np.array([-1]), 10).tobytes()
