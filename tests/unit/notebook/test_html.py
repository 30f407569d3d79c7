"""Interactive charts without a browser: escaping, size, fallback, and data that agrees with the frames."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frameset import HOSTILE, PID, START, FrameSet, database
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import MissingFrame
from workbench.notebook.html import (
    InteractiveChart,
    interactive_flamegraph,
    interactive_heatmap,
    interactive_latency,
    interactive_timeline,
)
from workbench.notebook.html.lanes import _reduce
from workbench.notebook.html.page import LIMIT, safe_json


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


class _Elements(HTMLParser):
    """Start tags and the text of script elements, as a browser's parser splits them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


def elements(markup: str) -> _Elements:
    found = _Elements()
    found.feed(markup)
    return found


CHARTS = {
    "flamegraph": interactive_flamegraph,
    "timeline": interactive_timeline,
    "heatmap": interactive_heatmap,
    "latency": interactive_latency,
}


@pytest.mark.parametrize("kind", CHARTS)
def test_fragment_is_one_div_that_needs_nothing_else(kind: str, recording: FrameSet) -> None:
    markup = CHARTS[kind](recording).to_html()
    found = elements(markup)
    assert [tag for tag, _ in found.tags] == ["div", "style", "pre", "script", "script"]
    assert json.loads(found.scripts[0])["title"].startswith("databased: ")
    for tag, attributes in found.tags:
        assert not {"src", "href", "onload", "onclick"} & set(attributes), tag
    assert not re.search(r"https?://|@import|url\(|import\(|fetch\(|XMLHttpRequest", markup)


@pytest.mark.parametrize("kind", CHARTS)
def test_names_cannot_leave_their_place(kind: str, recording: FrameSet) -> None:
    calls = recording.frame("calls").copy()
    calls["function"] = HOSTILE + "<!--"
    evil = FrameSet(
        f"</script><script>alert(1)</script>{HOSTILE}", {**recording.tables, "calls": calls}
    )
    markup = CHARTS[kind](evil).to_html()
    found = elements(markup)
    assert [tag for tag, _ in found.tags] == ["div", "style", "pre", "script", "script"]
    data = json.loads(found.scripts[0])
    texts = {
        "heatmap": lambda: data["rows"],
        "latency": lambda: [one["name"] for one in data["groups"]],
    }.get(kind, lambda: data["names"])()
    assert any(HOSTILE in name for name in texts)
    assert not set("<>&") & set(found.scripts[0])
    page = CHARTS[kind](evil).to_page()
    assert page.count("<script") == 2


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner), max_leaves=8))
def test_safe_json_is_the_same_json(value: object) -> None:
    text = safe_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text.encode()
    else:
        assert json.loads(text) == value


def test_lone_surrogates_do_not_break_the_page() -> None:
    assert json.loads(safe_json(["bad\udcffname"])) == ["bad?name"]


@pytest.mark.parametrize("kind", CHARTS)
def test_fallback_reads_well_without_scripts(kind: str, recording: FrameSet) -> None:
    chart = CHARTS[kind](recording)
    bundle = chart._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"] == str(chart) == repr(chart)
    lines = bundle["text/plain"].splitlines()
    assert lines[0].startswith("databased: ")
    said = {"timeline": "worker-0", "latency": "sqlite3_step"}.get(kind, "memcpy")
    assert said in bundle["text/plain"]
    assert max(map(len, lines)) < 160


def test_nodes_are_a_tree_whose_weights_add_up(recording: FrameSet) -> None:
    nodes = interactive_flamegraph(recording).data["nodes"]
    parent, total, own, left = (np.array(nodes[key]) for key in ("parent", "total", "own", "left"))
    assert total[0] == len(recording.frame("samples"))
    children = np.bincount(parent[1:], weights=total[1:], minlength=len(parent))
    np.testing.assert_array_equal(total, own + children)
    assert (parent[1:] < np.arange(1, len(parent))).all()
    assert (left + total <= left[parent] + total[parent]).all()


def huge(stacks: int = 6000, depth: int = 40) -> FrameSet:
    """Random stacks with names that are all different: far more boxes than fit into the limit."""
    rng = np.random.default_rng(3)
    names = np.array([f"namespace_{i}::function_with_a_long_name<{i}>" for i in range(20_000)])
    rows = stacks * depth
    pick = rng.integers(0, len(names), rows)
    frame = pd.DataFrame(
        {
            "stack": np.repeat(np.arange(stacks), depth),
            "depth": np.tile(np.arange(depth), stacks),
            "pid": np.full(rows, PID),
            "address": np.arange(rows).astype(np.uint64),
            "space": pd.Categorical(["user"] * rows),
            "function": pd.Categorical.from_codes(pick, names),
            "module": pd.Categorical(["/usr/bin/huge"] * rows),
            "line": pd.Categorical([""] * rows),
            "inlined": np.zeros(rows, bool),
        }
    )
    count = 20_000
    samples = pd.DataFrame(
        {
            "time": START + np.arange(count) * 1_000_000,
            "pid": np.full(count, PID),
            "tid": np.full(count, PID),
            "cpu": np.zeros(count, int),
            "comm": pd.Categorical(["huge"] * count),
            "stack": (rng.pareto(1.0, count) * 40).astype(int) % stacks,
        }
    )
    return FrameSet("huge", {"samples": samples, "stacks": frame})


def test_flame_graph_stays_below_the_limit() -> None:
    chart = interactive_flamegraph(huge())
    size = len(chart.to_html().encode())
    assert LIMIT * 0.4 < size <= LIMIT
    assert "boxes below" in chart.data["note"]
    nodes = chart.data["nodes"]
    total, parent = np.array(nodes["total"]), np.array(nodes["parent"])
    assert total[0] == 20_000
    assert (total <= total[parent]).all()


def test_timeline_stays_below_the_limit_and_counts_all(recording: FrameSet) -> None:
    count = 300_000
    rng = np.random.default_rng(1)
    base = recording.frame("calls")
    calls = base.iloc[rng.integers(0, len(base), count)].copy()
    calls["time"] = np.sort(START + rng.integers(0, 4_000_000_000, count))
    chart = interactive_timeline(FrameSet("big", {**recording.tables, "calls": calls}))
    assert len(chart.to_html().encode()) <= LIMIT
    lanes = [lane for thread in chart.data["threads"] for lane in thread["lanes"]]
    assert sum(sum(lane["spans"][3]) for lane in lanes if lane["title"] == "probed calls") == count
    assert "300," in chart.data["note"] or "301," in chart.data["note"]


def test_reduced_intervals_keep_the_longest() -> None:
    rng = np.random.default_rng(2)
    start = np.sort(rng.integers(0, 10_000, 500))
    end = start + rng.integers(0, 300, 500)
    delta, length, _, count = _reduce(start, end, np.zeros(500, np.int64), 50, 5.0)
    assert sum(count) == 500
    begin = np.cumsum(delta)
    alone = sorted(size for size, many in zip(length, count, strict=True) if many == 1)
    assert alone[-50:] == sorted((end - start).tolist())[-50:]
    assert begin[0] == start[0]
    assert max(b + size for b, size in zip(begin.tolist(), length, strict=True)) == end.max()


def test_recording_without_samples_still_has_a_timeline(recording: FrameSet) -> None:
    chart = interactive_timeline(recording.only("watches"))
    assert isinstance(chart, InteractiveChart)
    assert all(thread["load"] is None for thread in chart.data["threads"])
    with pytest.raises(MissingFrame, match="workbench record"):
        interactive_timeline(recording.only("losses"))
    with pytest.raises(MissingFrame, match="workbench record"):
        interactive_flamegraph(recording.only("losses"))


def counted(data: dict[str, Any]) -> np.ndarray:
    """The counts (rows, bins) that the script of the heat map unpacks."""
    counts = np.zeros((len(data["rows"]), data["bins"]))
    counts.ravel()[np.cumsum(data["cells"][0])] = data["cells"][1]
    return counts


@pytest.mark.parametrize("frame", ["samples", "calls", "faults", "offcpu"])
def test_heat_map_counts_every_row_of_the_frame(frame: str, recording: FrameSet) -> None:
    data = interactive_heatmap(recording, frame).data
    table = recording.frame(frame)
    counts = counted(data)
    whole = table if "duration" not in table else table[table["duration"] >= 0]
    assert counts.sum() == len(whole)
    assert all(0 <= row <= len(data["rows"]) for row, _ in data["ticks"])
    if frame == "samples":
        load = table["function"].value_counts()
        assert data["rows"][0] == load.index[0]
        np.testing.assert_array_equal(counts.sum(axis=1)[:5], load.to_numpy()[:5])


def test_heat_map_in_characters_has_the_shape_of_the_data(recording: FrameSet) -> None:
    count = 600
    base = recording.frame("samples").iloc[:1]
    late = base.loc[base.index.repeat(count)].copy()
    late["function"] = "late"
    late["time"] = START + 3_000_000_000 + np.arange(count) * 1_000_000
    samples = pd.concat([recording.frame("samples"), late], ignore_index=True)
    text = str(interactive_heatmap(FrameSet("burst", {**recording.tables, "samples": samples})))
    (row,) = [line for line in text.splitlines() if line.lstrip().startswith("late ")]
    cells = row.split("|")[1]
    assert len(cells) == 60
    assert not cells[:43].strip() and len(cells[46:53].strip()) == 7


def test_heat_map_stays_below_the_limit() -> None:
    rng = np.random.default_rng(4)
    count = 400_000
    faults = pd.DataFrame(
        {
            "time": START + rng.integers(0, 10**10, count),
            "tid": np.full(count, PID),
            "address": rng.integers(0, 1 << 24, count).astype(np.uint64)
            + rng.choice(np.arange(8, dtype=np.uint64) << np.uint64(40), count),
            "function": pd.Categorical(["f"] * count),
        }
    )
    chart = interactive_heatmap(FrameSet("faulty", {"faults": faults}))
    assert LIMIT * 0.1 < len(chart.to_html().encode()) <= LIMIT
    assert counted(chart.data).sum() == count
    assert len(chart.data["ticks"]) == 8
    first = [int(label.removeprefix("address from "), 16) for label in chart.data["rows"]]
    assert first == sorted(first)
    assert {one >> 40 for one in first} == set(range(8))


def test_latencies_hold_every_call_and_true_percentiles(recording: FrameSet) -> None:
    data = interactive_latency(recording, "calls").data
    calls = recording.frame("calls")
    calls = calls[calls["duration"] >= 0]
    for group in data["groups"]:
        mine = calls.loc[calls["function"] == group["name"], "duration"].to_numpy()
        assert group["calls"] == len(mine)
        assert sum(group["shape"]) == pytest.approx(len(mine))
        wanted = [np.quantile(mine, q, method="inverted_cdf") for q in (0.5, 0.95, 0.99)]
        assert [ns for _, ns in group["quantiles"]] == pytest.approx(wanted, abs=0.1)
        edges = np.array(data["edges"])
        assert edges[0] <= mine.min() and mine.max() <= edges[-1]


def test_latencies_say_what_they_leave_out(recording: FrameSet) -> None:
    whole = interactive_latency(recording, "offcpu").data
    few = interactive_latency(recording, "offcpu", top=1).data
    left_out = len(whole["groups"]) - 1
    assert left_out > 0 and few["groups"][0]["name"] == whole["groups"][0]["name"]
    assert len(few["groups"]) == 1 and f"{left_out} with less time left out" in few["note"]
    with pytest.raises(MissingFrame):
        interactive_latency(recording.only("samples", "stacks"))
    with pytest.raises(MissingFrame):
        interactive_heatmap(recording.only("losses"))
