"""In a guest: what causal profiles predict against what really shortening the work gives.

Of throughput, of latencies, and by samples that belong to their caller.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.cli import main
from workbench.frames.recording import load
from workbench.lab.vm import Vm
from workbench.native.build import compiler, workload

pytestmark = [pytest.mark.needs("QEMU", "C compiler"), pytest.mark.timeout(3000)]

LIMIT = 2700.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one
PROGRAMS = Path(__file__).parent / "programs"
ALLOWED = {
    "serial": 5.0,
    "timer": 3.0,
    "pipe": 5.0,
}  # points: a guest may stand still for 40 ms now and then
STALL = 5.0  # points of an experiment's length, in which such a thing happens once


@pytest.fixture(scope="module")
def found(vm: Vm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/vm/programs/causal.py found."""
    requests = build_requests(tmp_path_factory.mktemp("requests"))
    shapes = workload("causal_shapes")
    source = shapes.with_suffix(".c").read_text().splitlines()
    line = next(
        number for number, text in enumerate(source, 1) if text.startswith("REGION(region_a)")
    )
    for one in (shapes, PROGRAMS / "causal.py", *requests):
        vm.copy_in(one)
    words = [f"/tmp/{shapes.name}", f"{shapes.name}.c:{line}", "/tmp/requests"]
    result = vm.run(["python3", "/tmp/causal.py", *words], limit=LIMIT)
    assert result.ok, (result.stderr.decode(errors="replace"), vm.console[-2000:])
    made: dict[str, Any] = json.loads(result.text)
    return made


def build_requests(folder: Path) -> list[Path]:
    """The program of the latencies, and its library, which is out of scope."""
    flags = (compiler(), "-O1", "-g", "-pthread", f"-L{folder}")
    library, program = folder / "librequests.so", folder / "requests"
    for words in (
        ("-shared", "-fPIC", "-o", library, PROGRAMS / "requests_library.c"),
        ("-Wl,-rpath,$ORIGIN", "-o", program, PROGRAMS / "requests.c", "-lrequests"),
    ):
        subprocess.run([*flags, *words], check=True)
    return [library, program]


def period(run: dict[str, Any], speedup: float, point: str = "progress") -> float:
    [row] = [row for row in run["profile"] if (row["point"], row["speedup"]) == (point, speedup)]
    return float(row["period"])


@pytest.mark.parametrize("shape", list(ALLOWED))
def test_predictions_are_what_shortening_the_work_gives(found: dict[str, Any], shape: str) -> None:
    predicted, true = found[shape]["predicted"], found[shape]["true"]
    assert predicted["exit"] == true["exit"] == 0, found[shape]
    assert predicted["gate"]["ok"] and predicted["experiments"] == 4
    base = period(predicted, 0.0)
    gain = 100 * (period(predicted, 0.5) / base - 1)
    truth = 100 * (period(true, 0.0) / base - 1)
    assert gain == pytest.approx(truth, abs=ALLOWED[shape]), found[shape]
    assert truth == pytest.approx(0 if shape == "timer" else -29, abs=2)


def test_a_latency_is_predicted(found: dict[str, Any]) -> None:
    predicted, true = found["latency"]["predicted"], found["latency"]["true"]
    name = "arrive,depart"
    kinds = {row["point"]: row["kind"] for row in predicted["profile"]}
    assert kinds == {name: "latency", "progress": "throughput"}
    base = period(predicted, 0, name)
    gain, truth = (
        100 * (one / base - 1) for one in (period(predicted, 0.5, name), period(true, 0, name))
    )
    assert truth == pytest.approx(-50, abs=STALL)
    assert gain == pytest.approx(truth, abs=2 * STALL), found["latency"]


def test_a_caller_stands_for_what_it_calls_out_of_scope(found: dict[str, Any]) -> None:
    predicted, true = found["called"]["predicted"], found["called"]["true"]
    share = predicted["samples"]["caller_a"] / sum(predicted["samples"].values())
    assert share == pytest.approx(0.6, abs=0.03)  # all of it in the library that it calls
    assert period(predicted, 0.5) == pytest.approx(period(true, 0), rel=STALL / 50)


def test_the_machine_is_back_on_its_own_scheduler(found: dict[str, Any]) -> None:
    assert found["state"] == "disabled"


def test_from_a_host_without_sched_ext_all_of_it_runs_in_the_guest(
    vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "workbench.lab.vm.lab", lambda *_, **__: nullcontext(vm)
    )  # the one that is up
    knobs = np.zeros(512, np.uint64)
    knobs[:2] = 70_000, 20_000
    knobs.tofile(tmp_path / "knobs")
    words = [
        "causal",
        "run",
        "--lab",
        "--limit",
        str(LIMIT),
        "--file",
        str(tmp_path / "knobs"),
        "-p",
        "progress",
    ]
    words += [
        "--speedups",
        "0,0.8",
        "--rounds",
        "1",
        "--shortest",
        "0.2",
        "-o",
        str(tmp_path / "made"),
    ]
    status = main([*words, "--", str(workload("causal_shapes")), "serial", str(tmp_path / "knobs")])
    printed = capfd.readouterr()
    assert status == 0, printed.err
    assert "region_a" in printed.out and "experiment 1:" in printed.err
    profile = load(tmp_path / "made").frame("causal_profile")
    best = profile.loc[profile["change"].idxmin()]
    assert best["region"] == "region_a" and best["change"] == pytest.approx(-62, abs=4)
