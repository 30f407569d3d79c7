"""Probes on functions that the recorder itself calls: it must neither feed on its own hits nor be held by others'."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from workbench.collectors.recorder import Recorder

pytestmark = pytest.mark.needs("uprobe")

LIMIT = 60  # seconds until a recording that never ends counts as a failure


@pytest.mark.parametrize("options", ["", ",stacks=fp"])
def test_malloc_on_the_whole_machine(options: str, tmp_path: Path) -> None:
    recorder = Recorder(
        [f"uprobe:libc:malloc(size_t size){options}"], output=tmp_path / "r", machine=True, seconds=0.3
    )
    recorder.start()
    assert recorder._thread is not None
    own = recorder._thread.native_id
    assert recorder.wait(LIMIT), "the recording does not end"
    assert own not in set(recorder.result().calls["tid"])


def test_malloc_in_this_process(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    recorder = Recorder(
        ["uprobe:libc:malloc(size_t size)"], output=tmp_path / "r", pid=os.getpid(), seconds=0.3
    )
    recorder.start()
    for _ in range(1000):
        libc.free(libc.malloc(54321))
    assert recorder.wait(LIMIT), "the recording does not end"
    calls = recorder.result().calls
    mine = calls[calls["tid"] == threading.get_native_id()]
    assert (mine["arg_size"] == 54321).sum() == 1000
