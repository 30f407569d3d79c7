"""A process that records itself in user space: a child of its own holds it still."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

import workbench as wb
from workbench.collectors.outside import OutsideRecorder
from workbench.errors import BadSpec, UnknownSymbol

pytestmark = pytest.mark.needs("ptrace", "sigtrap breakpoint")
LIMIT = 120  # seconds until a recording that never ends counts as a failure


def test_own_calls_of_several_threads(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)

    def work() -> None:
        for _ in range(500):
            libc.free(libc.malloc(54321))

    threads = [threading.Thread(target=work) for _ in range(3)]
    with wb.record(
        ["uprobe:libc:malloc(size_t size)", "cpu:999"], backend="userspace", output=tmp_path / "r"
    ) as recorder:
        assert isinstance(recorder, OutsideRecorder)
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        state = recorder.state()
        assert state.phase == "recording" and [one.name for one in state.collectors] == ["uprobe", "cpu"]
    calls = recorder.recording.calls
    mine = calls[calls["arg_size"] == 54321]
    assert len(mine) == 2000 and set(mine["pid"]) == {os.getpid()}
    assert mine.groupby("tid", observed=True).size().to_list() == [500] * 4
    assert threading.get_native_id() in set(mine["tid"])
    assert set(calls["pid"]) == {os.getpid()}  # nothing of the recorder is in the rows
    assert set(recorder.recording.samples["pid"]) <= {os.getpid()}
    assert recorder.state().phase == "done"
    libc.free(libc.malloc(1))


def test_it_ends_by_itself(tmp_path: Path) -> None:
    recorder = wb.record("cpu:99", backend="userspace", output=tmp_path / "r", seconds=0.2)
    recorder.start()
    assert recorder.wait(LIMIT), "the recording does not end"
    assert recorder.result().status == "complete"


def test_errors_come_from_the_child(tmp_path: Path) -> None:
    with pytest.raises(UnknownSymbol, match="no_such_function"):
        wb.record("uprobe:no_such_function", backend="userspace", output=tmp_path / "r").start()
    assert not list(tmp_path.iterdir())
    recorder = wb.record("cpu:99", backend="userspace", output=tmp_path / "r")
    with pytest.raises(BadSpec, match="not started"):
        recorder.wait()
