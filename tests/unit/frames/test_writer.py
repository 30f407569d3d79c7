from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from recordings import check_samples, fill, intern_stacks, samples, small

import workbench as wb
from workbench.errors import BadSpec, MissingFrame, RunFailed
from workbench.frames.columns import BLOCK_ROWS
from workbench.frames.writer import RecordingWriter

CALL = {
    "time": [1],
    "pid": [1],
    "tid": [1],
    "cpu": [0],
    "comm": ["c"],
    "probe": ["p"],
    "function": ["f"],
    "module": ["m"],
    "event": ["entry"],
    "duration": [-1],
    "result": [0],
    "stack": [-1],
}


def comms(tmp_path: Path, *columns: Any) -> list[str]:
    """The texts that come back for columns of `comm`."""
    with RecordingWriter(tmp_path / "r") as writer:
        for column in columns:
            coded = isinstance(column, tuple) and isinstance(column[0], np.ndarray)
            rows = len(column[0]) if coded else len(column)
            writer.append("samples", {**samples(0, rows), "comm": column})
    return wb.load(tmp_path / "r").samples["comm"].astype(str).tolist()


def test_values_come_back(tmp_path: Path) -> None:
    recording = small(tmp_path / "r", rows=1234)
    check_samples(recording.samples, 1234)
    assert recording.status == "complete"
    assert recording.manifest.command == ("./server", "--fast")
    assert recording.lost == {"samples": 17}
    assert recording.manifest.overhead_ns == {"cpu": 900.0 * 1234}
    assert recording.file("notes.txt") == b"as measured\n"
    assert not (tmp_path / "r.partial").exists()
    assert not (tmp_path / "r" / "spool").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_more_rows_than_a_block_and_every_batch_size(tmp_path: Path) -> None:
    total = 0
    with RecordingWriter(tmp_path / "r") as writer:
        for rows in (1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS + 17, 0, 5):
            writer.append("samples", samples(total, rows))
            total += rows
            if rows == BLOCK_ROWS:
                writer.flush()
        assert writer.rows["samples"] == total
    check_samples(wb.load(tmp_path / "r").samples, total)


def test_arrays_may_be_reused(tmp_path: Path) -> None:
    columns = samples(0, 10)
    with RecordingWriter(tmp_path / "r") as writer:
        writer.append("samples", columns)
        for name, values in columns.items():
            if name != "comm":
                values[:] = 0
        columns["comm"][0][:] = 0
    check_samples(wb.load(tmp_path / "r").samples, 10)


def test_dtypes_are_those_of_the_schema(tmp_path: Path) -> None:
    recording = small(tmp_path / "r")
    for name in recording.frames:
        for column in recording.schema(name).columns:
            dtype = recording.frame(name)[column.name].dtype
            assert str(dtype) == ("category" if column.dtype == "str" else column.dtype), (
                name,
                column.name,
            )
        assert tuple(recording.frame(name).columns) == wb.schema(name).names


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["a", "", "b", "a"], ["a", "", "b", "a"]),
        (("x", "y"), ["x", "y"]),
        (
            np.array([b"swapper/0", b"a\xffb", b"", b"cut\0garbage"], "S16"),
            ["swapper/0", "a\ufffdb", "", "cut"],
        ),
        (np.array(["é", "漢字"]), ["é", "漢字"]),
        (np.array(["o", b"by\xff"], object), ["o", "by\ufffd"]),
        ((np.array([1, 0, 1], np.uint8), ["no", "yes"]), ["yes", "no", "yes"]),
        ((np.array([9999], np.int64), [f"n{i}" for i in range(10_000)]), ["n9999"]),
        (pa.array(["p", "q", "p"]).dictionary_encode(), ["p", "q", "p"]),
        (pa.array(["p", "q"]), ["p", "q"]),
        (pd.Series(["u", "v", "u"], dtype="category"), ["u", "v", "u"]),
        (pd.Categorical(["u", "v"]), ["u", "v"]),
        (pd.Series(["s", "t"]), ["s", "t"]),
        (["lone\udcffsurrogate"], ["lone\ufffdsurrogate"]),
        (np.array([b"strided", b"x", b"y", b"z"])[::2], ["strided", "y"]),
    ],
)
def test_every_kind_of_text(tmp_path: Path, column: Any, expected: list[str]) -> None:
    assert comms(tmp_path, column) == expected


def test_text_across_batches_and_more_names_than_are_kept(tmp_path: Path) -> None:
    texts = [f"name-{i % 9000}" for i in range(2 * BLOCK_ROWS)]
    assert comms(tmp_path, texts, ["last"], np.array(texts[:100], "S")) == [
        *texts,
        "last",
        *texts[:100],
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"comm": None}, "lacks column comm"),
        ({"colour": [1]}, "no column colour"),
        ({"time": [1, 2]}, "not equally long"),
        ({"time": [1.5]}, "has dtype float64, not int64"),
        ({"time": [[1]]}, "one dimension"),
        ({"pid": [2**40]}, "does not fit int32"),
        ({"stack": np.array([2**63], np.uint64)}, "does not fit int32"),
        ({"comm": "c"}, "single text"),
        ({"comm": [3]}, "is no str"),
        ({"comm": np.array([3])}, "has dtype int64, not text"),
        ({"comm": (np.array([1]), ["a"])}, "codes 1..1 for 1 names"),
        ({"comm": (np.array([-1]), ["a"])}, "codes -1..-1"),
        ({"comm": (np.array([0.5]), ["a"])}, "codes of dtype float64"),
        ({"time": ["late"]}, "not int64"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    columns = {**samples(0, 1), **change}
    with RecordingWriter(tmp_path / "r") as writer:
        with pytest.raises(BadSpec, match=says):
            writer.append("samples", {name: v for name, v in columns.items() if v is not None})
        writer.append("samples", samples(0, 1))
    check_samples(wb.load(tmp_path / "r").samples, 1)


def test_integers_that_fit_are_taken_as_they_come(tmp_path: Path) -> None:
    wide = {
        name: values.astype(np.uint64) if name in ("time", "pid", "tid", "cpu") else values
        for name, values in samples(0, 5).items()
    }
    with RecordingWriter(tmp_path / "r") as writer:
        writer.append("samples", wide)
    check_samples(wb.load(tmp_path / "r").samples, 5)


def test_lists_of_small_and_very_large_addresses(tmp_path: Path) -> None:
    addresses = [1, (1 << 64) - 1, (1 << 63) + 1]
    fault = {"ip": [0] * 3, "access": ["read"] * 3, "user": [True] * 3}
    with RecordingWriter(tmp_path / "r") as writer:
        writer.append("faults", {**samples(0, 3), **fault, "address": addresses})
    assert wb.load(tmp_path / "r").faults["address"].tolist() == addresses


def test_unknown_frame(tmp_path: Path) -> None:
    with (
        RecordingWriter(tmp_path / "r") as writer,
        pytest.raises(MissingFrame, match="no frame is named"),
    ):
        writer.append("nothing", {})


def test_declared_columns_early_late_and_absent(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        writer.declare("calls", "bytes", "int64", "bytes", "first argument")
        writer.append("calls", {**CALL, "bytes": [5]})
        writer.append("calls", CALL)
        writer.declare("calls", "bytes", "int64", "bytes", "first argument")
        writer.declare("calls", "path", "str", "", "second argument")
        writer.declare("calls", "ratio", "float64", "", "third argument")
        writer.append("calls", {**CALL, "path": ["/tmp"], "ratio": [0.5]})
        with pytest.raises(BadSpec, match="already has a column 'bytes'"):
            writer.declare("calls", "bytes", "str", "", "something else")
        with pytest.raises(BadSpec, match="already has a column 'pid'"):
            writer.declare("calls", "pid", "int32", "id", "taken")
        with pytest.raises(BadSpec, match="takes no extra columns"):
            writer.declare("samples", "more", "int64", "", "no")
        with pytest.raises(BadSpec, match="cannot be declared"):
            writer.declare("calls", "more", "int128", "", "no")
        writer.flush()
        live = wb.load(tmp_path / "r").calls
    recording = wb.load(tmp_path / "r")
    for calls in (live, recording.calls):
        assert calls["bytes"].tolist() == [5, 0, 0]
        assert calls["path"].astype(str).tolist() == ["", "", "/tmp"]
        assert calls["ratio"].isna().tolist() == [True, True, False]
        assert calls.attrs["schema"]["bytes"] == {
            "dtype": "int64",
            "unit": "bytes",
            "meaning": "first argument",
        }
    assert recording.manifest.frames["calls"].extra == ("bytes", "path", "ratio")
    assert recording.schema("calls")["path"].meaning == "second argument"


def test_full_stack_table_loses_nothing(tmp_path: Path) -> None:
    """It is written out and begun anew: a stack seen before and after has two ids, which stand for the same."""
    rng = np.random.default_rng(1)
    expected: list[tuple[int, ...]] = []
    given: list[np.ndarray] = []
    with RecordingWriter(tmp_path / "r", max_stacks=7, max_stack_bytes=400) as writer:
        for batch in range(30):
            lengths = rng.integers(0, 6, 20).astype(np.int32)
            addresses = rng.integers(1, 4, int(lengths.sum())).astype(np.uint64) << 12
            pids = rng.integers(1, 3, 20).astype(np.int32)
            times = rng.integers(0, 1000, 20) if batch % 2 else None
            ids = writer.intern(pids, addresses, lengths, times)
            ends = np.cumsum(lengths)
            for pid, end, length in zip(pids, ends, lengths, strict=True):
                expected.append((int(pid), *addresses[end - length : end].tolist()) if length else ())
            given.append(ids)
            writer.append("samples", {**samples(20 * batch, 20), "stack": ids})
            if batch % 3 == 0:
                writer.flush()
    recording = wb.load(tmp_path / "r")
    stacks = recording.stacks.sort_values(["stack", "depth"])
    found = {
        int(stack): (int(rows["pid"].iloc[0]), *rows["address"].tolist())
        for stack, rows in stacks.groupby("stack")
    }
    ids = np.concatenate(given)
    assert [found.get(int(one), ()) for one in ids] == expected
    assert (ids == -1).sum() == sum(not one for one in expected)
    assert len(found) > len(set(expected))
    assert (recording.samples["stack"].to_numpy() == ids).all()
    assert recording.lost == {}


def test_stack_larger_than_the_table_is_counted(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", max_stack_bytes=80) as writer:
        ids = writer.intern([1, 1, 1], np.arange(13, dtype=np.uint64), [1, 11, 1])
        assert ids.tolist() == [0, -1, 2] or ids.tolist() == [0, -1, 1]
        writer.append("samples", {**samples(0, 3), "stack": ids})
    recording = wb.load(tmp_path / "r")
    assert recording.lost == {"stacks": 1}
    assert recording.losses["cause"].tolist() == ["stack larger than the table"]


def test_stacks_are_interned_or_given_but_not_both(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:
        intern_stacks(writer)
        with pytest.raises(BadSpec, match="interned as well"):
            writer.append("stacks", {})


def test_frames_that_stay_empty_are_there(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", frames=["samples", "stacks", "offcpu"]):
        pass
    recording = wb.load(tmp_path / "r")
    assert recording.frames == ("samples", "offcpu", "losses", "overhead", "stacks")
    assert all(len(recording.frame(name)) == 0 for name in recording.frames)
    assert str(recording.samples["comm"].dtype) == "category"


def test_notes_and_options_are_kept(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", options={"path": Path("/x"), "n": 3}, seed=9) as writer:
        writer.note(pid=44, command=["late"], colour={"deep": [1, Path("/y")]})
    manifest = wb.load(tmp_path / "r").manifest
    assert manifest.pid == 44
    assert manifest.command == ("late",)
    assert manifest.notes == {"colour": {"deep": [1, "/y"]}}
    assert manifest.options == {"path": "/x", "n": 3}
    assert manifest.seed == 9


def test_exceptions_keep_the_data(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RecordingWriter(tmp_path / "failed") as writer:
        fill(writer, 10)
        1 / 0  # noqa: B018
    failed = wb.load(tmp_path / "failed")
    assert (failed.status, failed.manifest.reason) == (
        "failed",
        "ZeroDivisionError: division by zero",
    )
    check_samples(failed.samples, 10)
    with pytest.raises(KeyboardInterrupt), RecordingWriter(tmp_path / "stopped") as writer:
        fill(writer, 10)
        raise KeyboardInterrupt
    assert wb.load(tmp_path / "stopped").status == "interrupted"


def test_finish_twice_and_use_after(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "r")
    assert writer.finish() is writer.finish()
    for use in (
        lambda: writer.append("samples", samples(0, 1)),
        writer.flush,
        lambda: writer.note(a=1),
        lambda: writer.intern([1], [1], [1]),
    ):
        with pytest.raises(BadSpec, match="is finished"):
            use()
    with pytest.raises(BadSpec, match="cannot end as"):
        RecordingWriter(tmp_path / "other").finish("recording")


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "deep" / "r")
    fill(writer, 10)
    writer.discard()
    writer.discard()
    assert list((tmp_path / "deep").iterdir()) == []


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[float] = []
    writer = RecordingWriter(tmp_path / "r")
    fill(writer, 100_000)
    writer.finish(progress=lambda fraction, what: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_threads_may_append(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r") as writer:

        def work() -> None:
            for _ in range(50):
                writer.append("samples", samples(0, 101))
                writer.flush()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    frame = wb.load(tmp_path / "r").samples
    assert len(frame) == 4 * 50 * 101
    assert frame["time"].to_numpy().sum() == 4 * 50 * samples(0, 101)["time"].sum()


# -- a disk that is full ----------------------------------------------------------------------------------------

FULL_DISK = """
import sys
import numpy as np
from recordings import fill, samples
from workbench.errors import RunFailed
from workbench.frames.writer import RecordingWriter

def noise(rows):
    columns = samples(0, rows)
    columns["time"] = np.random.default_rng(0).integers(0, 1 << 62, rows)
    return columns

LIMIT
writer = RecordingWriter(sys.argv[1])
fill(writer, 100)
writer.flush()
kept = writer.rows["samples"]
try:
    for _ in range(200):
        writer.append("samples", noise(5000))
        writer.flush()
        kept = writer.rows["samples"]
except RunFailed as error:
    assert "disk full" in str(error) and "free space" in error.hint, error
else:
    raise SystemExit("the disk did not fill")
writer.append("samples", noise(11))
writer.flush()
recording = writer.finish()
print(kept, recording.rows["samples"], recording.status, recording.manifest.reason, recording.lost["samples"])
frame = recording.samples
assert len(frame) == kept and frame["function"].notna().all()
"""


def full_disk(tmp_path: Path, target: Path, limit: str, prefix: list[str]) -> None:
    script = tmp_path / "fill.py"
    script.write_text(FULL_DISK.replace("LIMIT", limit))
    support = Path(__file__).parents[2] / "support"
    done = subprocess.run(
        [*prefix, sys.executable, str(script), str(target)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(support)},
    )
    assert done.returncode == 0, done.stderr
    kept, rows, status, *reason, lost = done.stdout.split()
    assert int(kept) == int(rows) > 100
    assert (status, reason) == ("interrupted", ["disk", "full"])
    assert (
        int(lost) == 17 + 5000 + 11
    )  # the recorded loss, the batch that did not fit, and what came after


def test_file_size_limit_ends_the_recording_cleanly(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    full_disk(tmp_path, tmp_path / "r", limit, [])
    assert wb.load(tmp_path / "r").status == "interrupted"


def test_full_disk_ends_the_recording_cleanly(tmp_path: Path) -> None:
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mount = f'mount -t tmpfs -o size=3m none "{small_disk}" && exec "$@"'
    prefix = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    full_disk(tmp_path, small_disk / "r", "", prefix)


def test_no_room_to_begin(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.getsignal(signal.SIGXFSZ)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunFailed, match=r"no recording can be made|disk full"):
            RecordingWriter(tmp_path / "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert handler == signal.getsignal(signal.SIGXFSZ)
    assert list(tmp_path.iterdir()) == []


# -- memory -----------------------------------------------------------------------------------------------------

HOUR = """
import resource, sys
import numpy as np
from recordings import intern_stacks, samples
from workbench.frames.writer import RecordingWriter

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

rows, batch = int(sys.argv[2]), 20_000
with RecordingWriter(sys.argv[1]) as writer:
    intern_stacks(writer)
    for start in range(0, rows, batch):
        writer.append("samples", samples(start, batch))
        writer.flush()
print(peak())
"""


def test_memory_is_flat_for_an_hour_at_999_hz_on_two_cpus(tmp_path: Path) -> None:
    script = tmp_path / "hour.py"
    script.write_text(HOUR)
    support = Path(__file__).parents[2] / "support"

    def peak(name: str, rows: int) -> int:
        command = [sys.executable, str(script), str(tmp_path / name), str(rows)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(support)},
        )
        return int(done.stdout)

    few, many = peak("few", 600_000), peak("hour", 7_200_000)
    assert many < few + 48, f"{few} MiB for 600 k rows, {many} MiB for 7.2 M"
    manifest = json.loads((tmp_path / "hour" / "manifest.json").read_text())
    assert manifest["frames"]["samples"]["rows"] == 7_200_000
