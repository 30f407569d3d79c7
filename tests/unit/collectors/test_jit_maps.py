"""Files that just-in-time compilers leave for profilers: whose they are, and which are left alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.collectors.jit_maps import perf_maps

PID = 2**22 - 7  # nobody has it
PLACE = Path(f"/tmp/perf-{PID}.map")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    PLACE.unlink(missing_ok=True)
    yield
    PLACE.unlink(missing_ok=True)


def test_map_of_a_process_that_is_gone() -> None:
    PLACE.write_bytes(b"1000 10 made")
    assert dict(perf_maps([PID, os.getpid()], time.time() - 1)) == {PID: b"1000 10 made"}
    assert dict(perf_maps([os.getpid()], 0)) == {}


def test_map_of_an_earlier_process_of_that_id() -> None:
    PLACE.write_bytes(b"1000 10 old")
    os.utime(PLACE, (time.time() - 3600,) * 2)
    assert dict(perf_maps([PID], time.time() - 60)) == {}


def test_map_of_a_living_process() -> None:
    mine = Path(f"/tmp/perf-{os.getpid()}.map")
    assert not mine.exists()
    mine.write_bytes(b"1000 10 mine")
    try:
        assert dict(perf_maps([os.getpid()], time.time() + 3600)) == {os.getpid(): b"1000 10 mine"}
        os.utime(mine, (1, 1))
        assert dict(perf_maps([os.getpid()], 0)) == {}
    finally:
        mine.unlink()


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    PLACE.symlink_to(secret)
    assert dict(perf_maps([PID], 0)) == {}
    PLACE.unlink()
    os.mkfifo(PLACE)  # opening it would wait for a writer
    assert dict(perf_maps([PID], 0)) == {}


def test_file_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.collectors.jit_maps.MAX_BYTES", 5)
    PLACE.write_bytes(b"123456")
    assert dict(perf_maps([PID], 0)) == {}
