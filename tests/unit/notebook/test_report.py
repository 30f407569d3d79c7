"""The report's numbers are those of the frames; only what was recorded appears."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from frameset import HOSTILE, PID, FrameSet, database, sample_python

from workbench.frames.manifest import Manifest
from workbench.notebook import plot
from workbench.notebook.report import report


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


def test_header_says_what_when_where(recording: FrameSet) -> None:
    header = report(recording).to_json()["header"]
    assert header["command"] == ["databased", "--serve", "/srv/data.db"]
    assert header["pid"] == PID
    assert header["duration_ns"] == 4_000_000_000
    assert header["status"] == "complete"
    assert header["lost_events"] == {"samples": 3}
    assert header["overhead_ns"]["cpu"] == 2400.0 * len(recording.frame("samples"))
    text = str(report(recording))
    assert "bench-7, Linux 6.18.0" in text
    assert "samples 3" in text


def test_header_says_what_was_left_out() -> None:
    notes = {"sampling": {"left_out": ["time in the kernel", "kernel frames"]}, "x": {"refused": ["<f>"]}}
    frames = FrameSet("left", {}, Manifest(status="complete", notes=notes))
    assert report(frames).to_json()["header"]["left_out"] == ["time in the kernel", "kernel frames", "<f>"]
    shown = "time in the kernel; kernel frames; 1 more in manifest.notes"
    assert shown in str(report(frames)) and shown in report(frames)._repr_html_()


def test_what_a_killed_recorder_could_not_tell_is_unknown() -> None:
    manifest = Manifest(status="interrupted", options={"backend": "userspace: it was asked for"})
    killed = report(FrameSet("killed", {}, manifest))
    header = killed.to_json()["header"]
    assert "overhead_ns" not in header and header["overhead"].startswith("unknown")
    assert "workbench bpf links" in header["left_behind"] and "workbench bpf gc" in str(killed)
    manifest = Manifest(status="interrupted", options={"backend": "kernel: this user may"})
    assert "left_behind" not in report(FrameSet("killed", {}, manifest)).to_json()["header"]
    manifest = Manifest(status="complete", options={"backend": "userspace: it was asked for"})
    assert report(FrameSet("whole", {}, manifest)).to_json()["header"]["overhead_ns"] == {}


def test_sections_follow_the_frames(recording: FrameSet) -> None:
    names = [one.name for one in report(recording).sections]
    assert names == ["functions", "probes", "watches", "gpu", "syscalls", "offcpu", "faults"]
    assert [
        one.name for one in report(recording.only("samples", "stacks", "watches")).sections
    ] == [
        "functions",
        "watches",
    ]
    empty = FrameSet("empty", {"calls": recording.frame("calls").head(0)})
    assert report(empty).sections == ()
    assert "empty" in str(report(empty))


def test_numbers_agree_with_the_frames(recording: FrameSet) -> None:
    sections = report(recording, top=1000).to_json()["sections"]
    assert sum(row["self_samples"] for row in sections["functions"]) == len(
        recording.frame("samples")
    )
    calls = recording.frame("calls")
    probe = sections["probes"][0]
    assert probe["count"] == len(calls)
    assert probe["p50_ns"] == np.quantile(calls["duration"], 0.5, method="inverted_cdf")
    assert probe["total_ns"] == calls["duration"].sum()
    assert sum(row["hits"] for row in sections["watches"]) == len(recording.frame("watches"))
    assert {row["ip"] for row in sections["watches"]} == {"0x401000", "0x401040", "0x401080"}
    gpu = recording.frame("gpu_calls")
    for row in sections["gpu"]:
        mine = gpu[gpu["api"].astype(str) == row["api"]]
        assert row["bytes"] == mine["bytes"].sum()
        assert row["errors"] == (mine["result"] != 0).sum()
        assert row["calls"] == len(mine)
    syscalls = recording.frame("syscalls").groupby("syscall")["count"].sum().to_dict()
    assert {row["syscall"]: row["calls"] for row in sections["syscalls"]} == syscalls
    assert (
        sum(row["total_ns"] for row in sections["offcpu"])
        == recording.frame("offcpu")["duration"].sum()
    )
    assert sum(row["count"] for row in sections["faults"]) == len(recording.frame("faults"))


def test_returns_that_were_not_seen_have_no_latency(recording: FrameSet) -> None:
    calls = recording.frame("calls").head(3).copy()
    calls["event"], calls["duration"] = "entry", -1
    one = report(FrameSet("r", {"calls": calls}))
    assert one.to_json()["sections"]["probes"][0]["p50_ns"] is None
    assert " -" in str(one)


def test_counts_of_the_kernel_win_over_recorded_rows(recording: FrameSet) -> None:
    calls = recording.frame("calls").head(10)
    names = {"probe": [str(calls["probe"].iloc[0])] * 2, "function": ["sqlite3_step"] * 2}
    names |= {"module": ["libsqlite3.so.0"] * 2, "pid": [PID, PID + 9]}
    counts = pd.DataFrame(
        {**names, "hits": [900, 100], "returns": [900, 99], "total_duration": [0, 0]}
    )
    spans = {"bucket_low": [1000, 2000], "bucket_high": [2000, 4000]}
    buckets = pd.DataFrame({**names, **spans, "count": [900, 99], "total": [1_400_000, 300_000]})
    tables = {"calls": calls, "probe_counts": counts, "probe_latencies": buckets}
    (row,) = report(FrameSet("r", tables)).to_json()["sections"]["probes"]
    assert (row["count"], row["rows"], row["total_ns"]) == (1000, 10, 1_700_000)
    assert 1000 < row["p50_ns"] < 2000 < row["p99_ns"] < 4000
    (alone,) = report(FrameSet("r", {"probe_counts": counts})).to_json()["sections"]["probes"]
    assert (alone["count"], alone["rows"], alone["p50_ns"]) == (1000, 0, None)
    figure = plot.latency_histogram(FrameSet("r", tables))
    assert "sqlite3_step" in figure.axes[0].get_yticklabels()[0].get_text()


def test_top_limits_rows_and_says_so(recording: FrameSet) -> None:
    one = report(recording, top=3)
    functions = one.sections[0]
    assert len(functions.rows) == 3
    assert functions.omitted > 3
    assert f"... {functions.omitted} more" in str(one)


def test_json_is_plain(recording: FrameSet) -> None:
    assert json.loads(json.dumps(report(recording).to_json(), allow_nan=False))


def test_html_escapes_names(recording: FrameSet) -> None:
    markup = report(recording)._repr_html_()
    assert HOSTILE not in markup
    assert "&lt;/script&gt;" in markup
    assert "<script" not in markup
    assert "<td style='text-align:right;padding:0 0.6em'>674</td>" in markup


def test_interrupted_recording_says_so() -> None:
    base = sample_python(5)
    base.manifest = Manifest(status="interrupted", reason="the recorder was killed")
    text = str(report(base))
    assert "interrupted" in text
    assert "the recorder was killed" in text


def test_what_was_attached_and_never_hit_is_named(recording: FrameSet) -> None:
    calls = recording.frame("calls")
    seen = str(calls["probe"].iloc[0])
    notes = {f"probe {seen}": {}, "probe uprobe:libc:malloc": {}, "watch:table[3]": {}, "sampling": {}}
    one = report(FrameSet("r", {"calls": calls}, Manifest(notes=notes)))
    assert one.header["never_hit"] == ["uprobe:libc:malloc", "watch:table[3]"]
    assert "never hit" not in str(report(recording))
