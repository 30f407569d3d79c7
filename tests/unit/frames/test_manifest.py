from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DamagedRecording, NewerRecording, WorkbenchError
from workbench.frames import manifest as manifests
from workbench.frames.manifest import (
    CollectorInfo,
    FileInfo,
    FrameInfo,
    Loss,
    Manifest,
    decode,
    encode,
)
from workbench.frames.provenance import Clock, Git, Host, provenance
from workbench.frames.schema import schema

FULL = Manifest(
    status="complete",
    command=("./server", "caf\u00e9", "\udcff"),
    pid=7,
    collectors=(CollectorInfo("cpu", {"rate": 999, "stacks": ["user"]}),),
    options={"seconds": 1.5, "nothing": None},
    seed=3,
    start=Clock("2026-01-01T00:00:00+00:00", 10, 20),
    end=Clock("2026-01-01T00:00:01+00:00", 1_000_000_010, 20),
    duration_ns=10**9,
    host=Host("box", "Linux", "6.1", "#1", "x86_64", "CPU", 2, {"meltdown": "Not affected"}),
    versions={"python": "3.11"},
    git=Git("abc", True, "diff", False),
    storage="parquet",
    frames={
        "calls": FrameInfo(3, 100, "00", "m", "uprobe", schema("calls").columns, ("argument",))
    },
    files={"perf-7.map": FileInfo(5, "11")},
    losses=(Loss("cpu", "samples", "ring full", 4), Loss("cpu", "samples", "map full", 1)),
    overhead_ns={"cpu": 1.25},
    notes={"a": [1, {"b": None}]},
)


def edited(**changes: Any) -> str:
    """The full manifest with fields changed, checksum and all."""
    fields = json.loads(encode(FULL))
    fields.pop("checksum")
    fields |= changes
    fields["checksum"] = manifests._digest(fields)
    return json.dumps(fields)


def test_round_trip() -> None:
    assert decode(encode(FULL), "x") == FULL
    assert decode(encode(Manifest()), "x") == Manifest()
    assert FULL.lost == {"samples": 5}


def test_round_trip_on_disk(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    assert Manifest.read(tmp_path) == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_this_machine_round_trips() -> None:
    here = provenance(libbpf="1.1")
    manifest = Manifest(host=here.host, start=here.clock, git=here.git, versions=here.versions)
    assert decode(encode(manifest), "x") == manifest
    assert here.host.cpus > 0
    assert here.host.kernel
    assert here.versions["libbpf"] == "1.1"
    assert here.versions["numpy"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("status", "done", "one of recording, complete, interrupted, failed"),
        ("status", 3, "one of recording"),
        ("command", "ls", "a list"),
        ("command", [1], "text"),
        ("pid", "7", "a whole number"),
        ("pid", True, "a whole number"),
        ("duration_ns", 1.5, "a whole number"),
        ("host", [], "an object"),
        ("frames", [], "an object"),
        ("frames", {"calls": {"rows": 3}}, "lacks 'bytes'"),
        ("storage", "csv", "one of spool, parquet"),
        ("losses", [{"collector": "cpu"}], "lacks 'frame'"),
        ("overhead_ns", {"cpu": "much"}, "float"),
    ],
)
def test_wrong_types_name_the_field(field: str, value: Any, says: str) -> None:
    with pytest.raises(DamagedRecording, match=says) as caught:
        decode(edited(**{field: value}), "here/manifest.json")
    assert "here/manifest.json" in str(caught.value)
    assert field in str(caught.value) or says.startswith("lacks")


@pytest.mark.parametrize(
    "name", ["../samples", "/etc/passwd", "a/b", "", "..", "A", "x" * 100, "a\nb"]
)
def test_frame_names_cannot_leave_the_folder(name: str) -> None:
    info = json.loads(encode(FULL))["frames"]["calls"]
    with pytest.raises(DamagedRecording, match="no name of a frame"):
        decode(edited(frames={name: info}), "x", verify=False)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", "..", ".hidden", "a\0b"])
def test_file_names_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(DamagedRecording, match="no name of a frame"):
        decode(edited(files={name: {"bytes": 1, "sha256": ""}}), "x")


def test_edit_is_noticed_and_can_be_read_anyway() -> None:
    fields = json.loads(encode(FULL))
    fields["host"]["hostname"] = "elsewhere"
    with pytest.raises(DamagedRecording, match="changed after it was written"):
        decode(json.dumps(fields), "x")
    assert decode(json.dumps(fields), "x", verify=False).host.hostname == "elsewhere"


def test_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(
        NewerRecording, match=r"format version 99.*\n.*upgrade.*bpf-workbench>=9\.1"
    ):
        decode(edited(version=99, versions={"workbench": "9.1"}), "x")
    with pytest.raises(NewerRecording, match="upgrade"):
        decode('{"format": "workbench-recording", "version": 2}', "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": "other"}',
        "[" * 100_000,
        '{"format": "workbench-recording", "version": "1"}',
    ],
)
def test_not_a_manifest(text: str) -> None:
    with pytest.raises(DamagedRecording):
        decode(text, "x")


def test_no_manifest_at_all(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecording, match="is not a recording"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedRecording, match="is not text"):
        Manifest.read(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(sorted(json.loads(encode(FULL)))), value=JSON)
def test_any_value_anywhere_is_an_error_or_a_manifest(field: str, value: Any) -> None:
    try:
        manifest = decode(edited(**{field: value}), "x", verify=False)
    except WorkbenchError as error:
        assert error.hint
    else:
        assert decode(encode(manifest), "x") == manifest or manifest != manifest  # NaN in notes
