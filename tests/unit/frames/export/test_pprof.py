"""The pprof profile, parsed with protobuf's own parser and checked by the rules of profile.proto."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from typing import Any

import pytest
from frameset import PID, REALTIME, STACKS, START, FrameSet, database, sample_python
from protobuf_messages import PPROF, message_class

from workbench.frames.export import exporter

Profile = message_class("pprof_by_number", PPROF, "Profile")


def parse(recording: FrameSet, frame: str | None = None) -> Any:
    sink = io.BytesIO()
    exporter("pprof").write(recording, sink, frame=frame)
    profile = Profile()
    profile.ParseFromString(gzip.decompress(sink.getvalue()))
    before = profile.ByteSize()
    profile.DiscardUnknownFields()
    assert profile.ByteSize() == before
    check(profile)
    return profile


def check(profile: Any) -> None:
    """What pprof's CheckValid asks: unique nonzero ids, references that resolve, one value per type."""
    assert profile.string_table[0] == ""
    assert len(set(profile.string_table)) == len(profile.string_table)
    ids = {}
    for kind in ("mapping", "location", "function"):
        numbers = [one.id for one in getattr(profile, kind)]
        assert 0 not in numbers
        assert len(set(numbers)) == len(numbers)
        ids[kind] = set(numbers)
    for location in profile.location:
        assert location.mapping_id in ids["mapping"] | {0}
        assert location.line
        assert {line.function_id for line in location.line} <= ids["function"]
    for sample in profile.sample:
        assert len(sample.value) == len(profile.sample_type)
        assert set(sample.location_id) <= ids["location"]
    largest = len(profile.string_table)
    assert all(one.name < largest and one.filename < largest for one in profile.function)


def stacks(profile: Any) -> Counter[tuple[str, ...]]:
    """Samples by stack, outermost first, inlined calls expanded."""
    text = profile.string_table
    names = {one.id: text[one.name] for one in profile.function}
    lines = {one.id: [names[line.function_id] for line in one.line] for one in profile.location}
    out: Counter[tuple[str, ...]] = Counter()
    for sample in profile.sample:
        inner = [name for location in sample.location_id for name in lines[location]]
        out[tuple(inner[::-1])] += sample.value[0]
    return out


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


@pytest.fixture(scope="module")
def profile(recording: FrameSet) -> Any:
    return parse(recording)


def test_stacks_are_those_of_the_samples(profile: Any, recording: FrameSet) -> None:
    expected = Counter(STACKS[i][0] for i in recording.frame("samples")["stack"])
    assert stacks(profile) == expected


def test_values_are_counts_and_time(profile: Any, recording: FrameSet) -> None:
    text = profile.string_table
    kinds = [(text[one.type], text[one.unit]) for one in profile.sample_type]
    assert kinds == [("samples", "count"), ("cpu", "nanoseconds")]
    assert profile.period == 2_000_000
    assert all(sample.value[1] == sample.value[0] * 2_000_000 for sample in profile.sample)
    assert sum(sample.value[0] for sample in profile.sample) == len(recording.frame("samples"))


def test_inlined_call_shares_its_callers_location(profile: Any) -> None:
    text = profile.string_table
    names = {one.id: text[one.name] for one in profile.function}
    inlined = [one for one in profile.location if len(one.line) > 1]
    assert [[names[line.function_id] for line in one.line] for one in inlined] == [
        ["crc32_update", "compress_row"]
    ]
    assert [line.line for line in inlined[0].line] == [19, 77]


def test_mappings_come_from_the_recording(profile: Any) -> None:
    text = profile.string_table
    mapped = {text[one.filename]: one for one in profile.mapping if one.memory_limit}
    assert text[mapped["/usr/bin/databased"].build_id] == "ab12"
    for location in profile.location:
        mapping = profile.mapping[location.mapping_id - 1]
        if mapping.memory_limit:
            assert mapping.memory_start <= location.address < mapping.memory_limit


def test_the_program_is_the_first_mapping(profile: Any) -> None:
    # `go tool pprof` prints it as "File:" and other readers group profiles by it.
    first = profile.mapping[0]
    assert (first.id, profile.string_table[first.filename]) == (1, "/usr/bin/databased")


def test_threads_are_labels(profile: Any, recording: FrameSet) -> None:
    text = profile.string_table
    got: Counter[Any] = Counter()
    for sample in profile.sample:
        labels = {text[one.key]: text[one.str] or one.num for one in sample.label}
        assert labels["pid"] == PID
        got[labels["thread"], labels["tid"]] += sample.value[0]
    samples = recording.frame("samples")
    assert got == Counter(zip(samples["comm"], samples["tid"], strict=True))


def test_wall_clock_and_command(profile: Any) -> None:
    assert profile.time_nanos == START + REALTIME
    assert profile.duration_nanos == 4_000_000_000
    assert [profile.string_table[i] for i in profile.comment] == ["databased --serve /srv/data.db"]


def test_python_stacks_and_other_frames(recording: FrameSet) -> None:
    python = sample_python(40)
    assert sum(stacks(parse(python)).values()) == 40
    offcpu = parse(recording, frame="offcpu")
    total = recording.frame("offcpu")["duration"].sum()
    assert sum(sample.value[1] for sample in offcpu.sample) == pytest.approx(total, abs=100)
    faults = parse(recording, frame="faults")
    assert [len(sample.value) for sample in faults.sample] == [1] * len(faults.sample)


def test_output_is_reproducible(recording: FrameSet) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    exporter("pprof").write(recording, first)
    exporter("pprof").write(recording, second)
    assert first.getvalue() == second.getvalue()
