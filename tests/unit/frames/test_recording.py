from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import check_samples, fill, samples, small

import workbench as wb
from workbench.errors import DamagedRecording, MissingFrame, NewerRecording, WorkbenchError
from workbench.frames import manifest as manifests
from workbench.frames.recording import Recording
from workbench.frames.spool import RECORD
from workbench.frames.writer import RecordingWriter


def left_behind(path: Path, rows: int = 1000) -> Path:
    """The folder of a recorder that died after a flush, as it lies on the disk."""
    writer = RecordingWriter(path, command=["./server"], collectors=["cpu"])
    fill(writer, rows)
    writer.flush()
    dead = path.with_name(path.name + ".copy")
    shutil.copytree(writer.folder, dead)
    writer.discard()
    partial = path.with_name(path.name + ".partial")
    dead.rename(partial)
    return partial


def rewrite(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Edit a manifest the way its writer would."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    fields.pop("checksum")
    change(fields)
    fields["checksum"] = manifests._digest(fields)
    path.write_text(json.dumps(fields))


def test_the_public_name(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    assert isinstance(wb.load(str(recording.path)), Recording)
    assert recording.name == "r"


def test_frames_are_attributes_read_once(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    assert recording.samples is recording.frame("samples")
    assert {"samples", "stacks", "losses", "frames", "manifest"} <= set(dir(recording))
    assert recording.rows == {name: len(recording.frame(name)) for name in recording.frames}


def test_missing_frame_says_what_is_there_and_who_records_it(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    recording.require("samples", "stacks")
    with pytest.raises(MissingFrame) as caught:
        recording.require("samples", "offcpu", "colours")
    assert "no frame 'offcpu', 'colours'" in caught.value.message
    assert "it has samples, faults, losses, overhead, stacks" in caught.value.message
    assert caught.value.hint == "offcpu is recorded by sched; colours is no known frame"
    with pytest.raises(MissingFrame, match="recorded by watch"):
        _ = recording.watches
    with pytest.raises(MissingFrame, match="no frame or attribute 'smaples'"):
        _ = recording.smaples
    assert not hasattr(recording, "watches")
    assert not hasattr(recording, "_ipython_display_")


def test_attributes_of_frames_survive_pandas(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    head = recording.samples[recording.samples["cpu"] == 1].head(2)
    assert head.attrs["lost"] == 17
    assert head.attrs["recording"] == str(tmp_path / "r")
    assert head.attrs["schema"]["time"] == {
        "dtype": "int64",
        "unit": "ns",
        "meaning": wb.schema("samples")["time"].meaning,
    }
    head.to_parquet(tmp_path / "head.parquet")  # pandas stores attrs as JSON
    assert pd.read_parquet(tmp_path / "head.parquet").attrs == head.attrs


def test_repr_names_the_essentials(tmp_path: Path) -> None:
    recording = small(tmp_path / "<r>", rows=1234)
    for text in (repr(recording), recording._repr_html_()):
        assert "./server --fast" in text
        assert "samples 1,234" in text
        assert "samples 17" in text
        assert "complete" in text
        assert os.uname().release in text
    assert "&lt;r&gt;" in recording._repr_html_()
    assert "<r>" not in recording._repr_html_()
    assert "left out" not in repr(recording)


def test_repr_says_what_collectors_left_out(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        writer.note(**{"probe uprobe:f*": {"left_out": ["f1: no", "f2: no"], "refused": ["f3: no"]}})
        writer.note(ended_by="the target exited")
    assert "left out    f1: no; f2: no; 1 more in manifest.notes" in repr(wb.load(tmp_path / "r"))


def test_schema_of_a_recording_is_that_of_the_registry(tmp_path: Path) -> None:
    assert small(tmp_path / "r").schema("faults").columns == wb.schema("faults").columns


# -- unfinished -------------------------------------------------------------------------------------------------


def test_live_recording_shows_what_was_flushed(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        fill(writer, 10)
        writer.flush()
        writer.append("samples", samples(10, 5))
        live = wb.load(tmp_path / "r")
        assert live.status == "recording"
        check_samples(live.samples, 10)
        writer.flush()
        check_samples(wb.load(tmp_path / "r").samples, 15)
    assert wb.load(tmp_path / "r").status == "complete"


def test_dead_recorder_loads_like_a_finished_recording(tmp_path: Path) -> None:
    partial = left_behind(tmp_path / "r")
    finished = small(tmp_path / "whole")
    dead = wb.load(tmp_path / "r")
    assert dead.path == partial
    assert dead.name == "r"
    assert dead.status == "interrupted"
    assert dead.lost == {"samples": 17}
    assert dead.file("notes.txt") == b"as measured\n"
    assert "interrupted" in repr(dead)
    for name in ("samples", "faults", "stacks", "losses", "overhead"):
        pd.testing.assert_frame_equal(dead.frame(name), finished.frame(name))
    check_samples(wb.load(partial).samples, 1000)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    partial = left_behind(tmp_path / "r")
    for folder in (partial, small(tmp_path / "whole").path):
        before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
        for path in before:
            path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            recording = wb.load(folder)
            check_samples(recording.samples, 1000)
            repr(recording)
            assert {
                path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]
            } == before
        finally:
            for path in before:
                path.chmod(stat.S_IRWXU)


def test_new_recorder_replaces_a_dead_one_only_when_asked(tmp_path: Path) -> None:
    left_behind(tmp_path / "r")
    with pytest.raises(WorkbenchError, match=r"recorder that died left behind\n.*overwrite"):
        RecordingWriter(tmp_path / "r")
    check_samples(wb.load(tmp_path / "r").samples, 1000)
    with RecordingWriter(tmp_path / "r", overwrite=True) as writer:
        fill(writer, 5)
    check_samples(wb.load(tmp_path / "r").samples, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_cut_off_spool_loads_up_to_the_last_whole_batch(tmp_path: Path, cut: int) -> None:
    writer = RecordingWriter(tmp_path / "r")
    for start in range(0, 5000, 1000):
        writer.append("samples", samples(start, 1000))
        writer.flush()
    stream = writer.folder / "spool" / "samples.arrow"
    records = [
        RECORD.unpack_from(stream.with_suffix(".index").read_bytes(), i * RECORD.size)
        for i in range(5)
    ]
    os.truncate(stream, records[-1][0] - cut)
    whole = [rows for end, rows, *_ in records if end <= records[-1][0] - cut]
    check_samples(wb.load(tmp_path / "r").samples, whole[-1])
    index = stream.with_suffix(".index")
    os.truncate(index, 2 * RECORD.size + 5)
    check_samples(wb.load(tmp_path / "r").samples, 2000)
    index.unlink()
    check_samples(wb.load(tmp_path / "r").samples, 0)
    writer.discard()


def test_spool_that_was_changed_is_an_error_unless_unverified(tmp_path: Path) -> None:
    partial = left_behind(tmp_path / "r")
    stream = partial / "spool" / "samples.arrow"
    data = bytearray(stream.read_bytes())
    data[len(data) // 2] ^= 1
    stream.write_bytes(data)
    with pytest.raises(DamagedRecording, match=r"samples\.arrow was changed.*\n.*verify=False"):
        _ = wb.load(tmp_path / "r").samples
    check_samples(wb.load(tmp_path / "r", verify=False).samples, 0)


# -- damaged ----------------------------------------------------------------------------------------------------


def test_no_recording(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecording, match="there is no recording at"):
        wb.load(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DamagedRecording, match="is not a recording"):
        wb.load(tmp_path / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(DamagedRecording, match="there is no recording at"):
        wb.load(tmp_path / "file")


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    file = recording.path / "samples.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(
        DamagedRecording,
        match=rf"samples\.parquet has {len(whole) - 10} bytes instead of {len(whole)}",
    ):
        wb.load(recording.path)
    with pytest.raises(DamagedRecording, match=r"samples\.parquet cannot be read"):
        _ = wb.load(recording.path, verify=False).samples
    file.unlink()
    with pytest.raises(DamagedRecording, match=r"samples\.parquet is missing\n.*verify=False"):
        wb.load(recording.path)
    unverified = wb.load(recording.path, verify=False)
    assert len(unverified.faults) == 3
    with pytest.raises(DamagedRecording, match="is missing"):
        _ = unverified.samples


def test_changed_file_is_found_by_its_checksum(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    file = recording.path / "files" / "notes.txt"
    file.write_bytes(b"as invented\n")
    with pytest.raises(DamagedRecording, match=r"notes\.txt was changed"):
        wb.load(recording.path).file("notes.txt")
    assert wb.load(recording.path, verify=False).file("notes.txt") == b"as invented\n"
    with pytest.raises(MissingFrame, match="has no file 'other'"):
        recording.file("other")


def test_another_recordings_frame_is_found(tmp_path: Path) -> None:
    one, other = small(tmp_path / "one"), small(tmp_path / "other")
    shutil.copy(other.path / "faults.parquet", one.path / "samples.parquet")
    with pytest.raises(DamagedRecording, match=r"samples\.parquet has"):
        wb.load(one.path)
    with pytest.raises(
        DamagedRecording, match="does not have the columns that the manifest declares"
    ):
        _ = wb.load(one.path, verify=False).samples


@pytest.mark.parametrize("column", [0, -1])
def test_rows_without_a_value_are_damage(tmp_path: Path, column: int) -> None:
    recording = small(tmp_path / "r")
    path = recording.path / "overhead.parquet"
    table = pq.read_table(path)
    column %= table.num_columns
    empty = pa.nulls(len(table), table.schema.field(column).type)
    pq.write_table(table.set_column(column, table.schema.field(column), empty), path)
    with pytest.raises(DamagedRecording, match=r"overhead .* has rows without a value"):
        _ = wb.load(recording.path, verify=False).overhead


def test_newer_recording(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    rewrite(recording.path, lambda fields: fields.update(version=2))
    with pytest.raises(NewerRecording, match="upgrade"):
        wb.load(recording.path)


def test_hand_edited_manifest(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    path = recording.path / "manifest.json"
    path.write_text(path.read_text().replace("--fast", "--slow"))
    with pytest.raises(DamagedRecording, match=r"manifest\.json was changed"):
        wb.load(recording.path)
    unverified = wb.load(recording.path, verify=False)
    assert unverified.manifest.command == ("./server", "--slow")
    check_samples(unverified.samples, 1000)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    secret = tmp_path / "secret"
    shutil.move(recording.path / "samples.parquet", secret)
    (recording.path / "samples.parquet").symlink_to(secret)
    (recording.path / "files" / "notes.txt").unlink()
    (recording.path / "files" / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(DamagedRecording, match="not a file inside the recording"):
        wb.load(recording.path)
    unverified = wb.load(recording.path, verify=False)
    for use in (lambda: unverified.samples, lambda: unverified.file("notes.txt")):
        with pytest.raises(DamagedRecording, match="not a file inside the recording"):
            use()


def test_links_out_of_a_dead_recorders_folder_are_refused(tmp_path: Path) -> None:
    partial = left_behind(tmp_path / "r")
    stream = partial / "spool" / "samples.arrow"
    shutil.move(stream, tmp_path / "secret")
    stream.symlink_to(tmp_path / "secret")
    with pytest.raises(DamagedRecording, match="not a file inside the recording"):
        _ = wb.load(tmp_path / "r").samples


def read_all(folder: Path, *, verify: bool) -> None:
    """Everything a reader can do, ending in a WorkbenchError or in right values."""
    try:
        recording = wb.load(folder, verify=verify)
        repr(recording)
        frames = {name: recording.frame(name) for name in recording.frames}
        for name in recording.manifest.files:
            recording.file(name)
    except WorkbenchError as error:
        assert str(error)
        return
    if verify:
        complete = folder.suffix != ".partial"
        assert not complete or len(frames["samples"]) == 1000
        check_samples(frames["samples"], len(frames["samples"]))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("originals")
    return {"parquet": small(base / "r").path, "spool": left_behind(base / "dead")}


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), storage=st.sampled_from(["parquet", "spool"]), verify=st.booleans())
def test_random_damage_is_an_error_or_harmless(
    originals: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    storage: str,
    verify: bool,
) -> None:
    original = originals[storage]
    folder = tmp_path_factory.mktemp("damaged") / original.name
    shutil.copytree(original, folder)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    file = folder / data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()) or not content:
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
    file.write_bytes(content)
    try:
        read_all(folder, verify=verify)
    finally:
        shutil.rmtree(folder.parent)
