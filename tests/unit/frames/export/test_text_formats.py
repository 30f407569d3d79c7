"""Collapsed stacks and speedscope, read back by rules of their own."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from frameset import STACKS, FrameSet, database, sample_python

from workbench.errors import BadSpec, MissingFrame
from workbench.frames.calltree import call_tree, function_totals
from workbench.frames.export import exporter, exporters
from workbench.frames.view import sample_period


@pytest.fixture(scope="module", params=["database", "python"])
def recording(request: pytest.FixtureRequest) -> FrameSet:
    return database() if request.param == "database" else sample_python()


def written(recording: FrameSet, name: str, frame: str | None = None) -> bytes:
    sink = io.BytesIO()
    exporter(name).write(recording, sink, frame=frame)
    return sink.getvalue()


def read_folded(data: bytes) -> dict[tuple[str, ...], int]:
    out = {}
    for line in data.decode().splitlines():
        path, count = line.rsplit(" ", 1)
        assert tuple(path.split(";")) not in out, "equal stacks were not merged"
        out[tuple(path.split(";"))] = int(count)
    return out


def test_folded_counts_are_the_samples(recording: FrameSet) -> None:
    folded = read_folded(written(recording, "folded"))
    samples = recording.frame("samples")
    assert sum(folded.values()) == len(samples)
    leaves: dict[str, int] = {}
    for path, count in folded.items():
        leaves[path[-1]] = leaves.get(path[-1], 0) + count
    expected = samples["function"].astype(str).str.replace(";", ":").value_counts().to_dict()
    assert leaves == expected


def test_folded_stacks_are_root_first() -> None:
    folded = read_folded(written(database(), "folded"))
    assert ("worker-0", *STACKS[0][0]) in folded
    assert all(len(path) > 1 for path in folded)


def test_folded_of_durations_is_in_microseconds() -> None:
    recording = database()
    folded = read_folded(written(recording, "folded", frame="offcpu"))
    total = recording.frame("offcpu")["duration"].sum() / 1000
    assert sum(folded.values()) == pytest.approx(total, abs=len(folded))


def check_speedscope(document: dict[str, Any]) -> None:
    """The rules of speedscope's published file format for sampled profiles."""
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    assert all(isinstance(frame["name"], str) and frame["name"] for frame in frames)
    assert all(set(frame) <= {"name", "file", "line", "col"} for frame in frames)
    assert 0 <= document["activeProfileIndex"] < len(document["profiles"])
    for profile in document["profiles"]:
        assert set(profile) == {
            "type", "name", "unit", "startValue", "endValue", "samples", "weights"
        }  # fmt: skip
        assert profile["type"] == "sampled"
        assert profile["unit"] in ("none", "nanoseconds", "microseconds", "bytes")
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])
        assert min(profile["weights"]) >= 0
        used = {index for stack in profile["samples"] for index in stack}
        assert used <= set(range(len(frames)))


def test_speedscope_has_every_sample_in_order(recording: FrameSet) -> None:
    document = json.loads(written(recording, "speedscope"))
    check_speedscope(document)
    samples = recording.frame("samples")
    assert sum(len(profile["samples"]) for profile in document["profiles"]) == len(samples)
    names = [frame["name"] for frame in document["shared"]["frames"]]
    for profile in document["profiles"]:
        tid = int(profile["name"].rsplit(" ", 1)[1].rstrip(")"))
        mine = samples[samples["tid"] == tid].sort_values("time", kind="stable")
        leaves = [names[stack[-1]] for stack in profile["samples"]]
        assert leaves == mine["function"].astype(str).tolist()
        assert set(profile["weights"]) == {round(sample_period(recording))}


def test_busiest_thread_comes_first() -> None:
    document = json.loads(written(database(), "speedscope"))
    ends = [profile["endValue"] for profile in document["profiles"]]
    assert ends == sorted(ends, reverse=True)
    assert document["profiles"][0]["name"].startswith("worker-0")


def test_call_tree_adds_up(recording: FrameSet) -> None:
    tree = call_tree(recording, by="count")
    samples = recording.frame("samples")
    assert tree.total[0] == len(samples) == tree.own.sum()
    children = np.bincount(tree.parent[1:], weights=tree.total[1:], minlength=len(tree))
    np.testing.assert_allclose(tree.total, tree.own + children)
    left = tree.layout()
    inside = (left >= left[tree.parent] - 1e-6) & (
        left + tree.total <= left[tree.parent] + tree.total[tree.parent] + 1e-6
    )
    assert inside.all()


def test_function_totals_count_recursion_once() -> None:
    from frameset import stacks_frame

    base = database()
    stacks = stacks_frame([("main", "parse_query", "parse_query", "parse_query")])
    samples = base.frame("samples").head(10).assign(stack=np.zeros(10, np.int32))
    totals, unit = function_totals(
        FrameSet("r", {"samples": samples, "stacks": stacks}), by="count"
    )
    assert unit == "samples"
    rows = totals.set_index("function")
    assert rows.loc["parse_query", "self"] == rows.loc["parse_query", "total"] == 10
    assert rows.loc["main", "self"] == 0
    assert rows.loc["main", "total"] == 10


def test_period_is_found_without_manifest() -> None:
    recording = database(hertz=500)
    recording = FrameSet(recording.name, recording.tables)
    assert sample_period(recording) == pytest.approx(2e6, rel=0.02)


def test_samples_without_stack_are_kept() -> None:
    base = database()
    samples = base.frame("samples").copy()
    samples.loc[:9, "stack"] = -1
    recording = FrameSet("r", {**base.tables, "samples": samples})
    assert sum(read_folded(written(recording, "folded")).values()) == len(samples)
    document = json.loads(written(recording, "speedscope"))
    names = [frame["name"] for frame in document["shared"]["frames"]]
    stacks = [stack for profile in document["profiles"] for stack in profile["samples"]]
    assert sum(names[stack[-1]] == "[no stack]" for stack in stacks) == 10


def test_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(BadSpec) as error:
        exporter("svgz")
    assert all(one.name in str(error.value) for one in exporters())


@pytest.mark.parametrize("name", [one.name for one in exporters()])
def test_nothing_to_export_says_what_records_it(name: str) -> None:
    recording = database().only("processes", "losses")
    with pytest.raises(MissingFrame, match="workbench record"):
        written(recording, name)
