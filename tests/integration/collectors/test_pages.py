"""Page faults of a program that touches a known number of fresh pages."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from known_program import chains, known

from workbench.collectors.recorder import Recorder
from workbench.frames.recording import Recording

pytestmark = pytest.mark.needs("perf_event BPF", "raw tracepoint", "ptrace")
PAGES = 70


def faults(tmp_path: Path, collect: str) -> tuple[Recording, dict[str, Any]]:
    file = tmp_path / "mapped file"
    recorder = Recorder(
        [collect],
        output=tmp_path / "r",
        command=[known(), "faults", str(PAGES), str(file)],
        stdout=subprocess.PIPE,
    ).start()
    assert recorder._command_process is not None
    out = recorder._command_process.process.stdout
    assert out is not None
    with out:
        told = json.loads(out.read())
    return recorder.result(), told


def touched(rows: pd.DataFrame, begin: int, page: int) -> pd.DataFrame:
    return rows[(rows["address"] >= begin) & (rows["address"] < begin + PAGES * page)]


SOURCES = [
    pytest.param(
        "tracepoint",
        marks=pytest.mark.skipif(
            platform.machine() != "x86_64", reason="the exception tracepoints are of x86"
        ),
    ),
    "event",
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_fresh_page_is_one_fault(tmp_path: Path, source: str) -> None:
    recording, told = faults(tmp_path, f"pages,source={source}")
    page = told["page"]
    rows = recording.faults
    assert set(rows["pid"]) == {recording.manifest.pid}
    for area, function, access in (
        ("written", "write_pages", "write"),
        ("looked_at", "read_pages", "read"),
        ("mapped", "write_pages", "write"),
    ):
        mine = touched(rows, told[area], page)
        expected = [told[area] + i * page for i in range(PAGES)]
        assert sorted(mine["address"]) == expected, area
        assert list(mine["time"]) == sorted(mine["time"]) and mine["address"].is_monotonic_increasing
        assert set(mine["function"]) == {function}
        assert set(mine["module"]) == {recording.manifest.command[0]}
        assert mine["user"].all()
        assert set(mine["access"]) == {access if source == "tracepoint" else "unknown"}
    assert set(touched(rows, told["mapped"], page)["mapping"]) == {str(tmp_path / "mapped file")}
    assert set(touched(rows, told["written"], page)["mapping"]) <= {"", "[anonymous]", "//anon"}
    assert recording.lost == {}
    assert recording.manifest.notes["page_faults"] == {"source": source}
    assert set(rows["stack"]) == {-1}


@pytest.mark.parametrize("stacks", ["dwarf", "fp"])
def test_stacks(tmp_path: Path, stacks: str) -> None:
    recording, told = faults(tmp_path, f"pages,stacks={stacks}")
    known_chains = chains(recording)
    mine = touched(recording.faults, told["written"], told["page"])
    assert len(mine) == PAGES
    found = {known_chains[stack] for stack in mine["stack"]}
    if stacks == "dwarf":
        assert {chain[:3] for chain in found} == {("write_pages", "main", "__libc_start_call_main")}
    assert all(chain[0] == "write_pages" for chain in found)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("follow", [True, False])
def test_forks(tmp_path: Path, source: str, follow: bool) -> None:
    command = ["/bin/sh", "-c", f"{known()} faults {PAGES} {tmp_path}/f; true"]
    recording = Recorder(
        [f"pages,source={source}"],
        output=tmp_path / "r",
        command=command,
        follow=follow,
        stdout=subprocess.DEVNULL,
    ).run()
    rows = recording.faults
    count = int((rows["function"] == "write_pages").sum())
    assert count == (2 * PAGES if follow else 0)
    assert (recording.manifest.pid in set(rows["pid"])) and (rows["pid"].nunique() > 1) is follow
