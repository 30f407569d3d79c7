"""In a guest: latencies, and samples that belong to their caller, against what really shortening the work gives."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from workbench.lab.vm import Vm

pytestmark = [pytest.mark.needs("QEMU"), pytest.mark.timeout(3000)]

LIMIT = 2700.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one
PROGRAMS = Path(__file__).parent / "programs"
STALL = 5.0  # points: a guest may stand still for 40 ms once in ten seconds


@pytest.fixture(scope="module")
def found(vm: Vm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("requests")
    flags = ("gcc", "-O1", "-g", "-pthread", f"-L{folder}")
    library, program = folder / "librequests.so", folder / "requests"
    subprocess.run(
        [*flags, "-shared", "-fPIC", "-o", library, PROGRAMS / "requests_library.c"], check=True
    )
    subprocess.run(
        [*flags, "-Wl,-rpath,$ORIGIN", "-o", program, PROGRAMS / "requests.c", "-lrequests"],
        check=True,
    )
    for one in (library, program, PROGRAMS / "latencies.py"):
        vm.copy_in(one)
    result = vm.run(["python3", "/tmp/latencies.py", "/tmp/requests"], limit=LIMIT)
    assert result.ok, (result.stderr.decode(errors="replace"), vm.console[-2000:])
    made: dict[str, Any] = json.loads(result.text)
    return made


def period(run: dict[str, Any], point: str, speedup: float) -> float:
    [row] = [row for row in run["profile"] if (row["point"], row["speedup"]) == (point, speedup)]
    return float(row["period"])


def test_a_latency_is_predicted(found: dict[str, Any]) -> None:
    predicted, true = found["pipe"]["predicted"], found["pipe"]["true"]
    name = "arrive,depart"
    kinds = {row["point"]: row["kind"] for row in predicted["profile"]}
    assert kinds == {name: "latency", "progress": "throughput"}
    base = period(predicted, name, 0)
    gain, truth = (
        100 * (one / base - 1) for one in (period(predicted, name, 0.5), period(true, name, 0))
    )
    assert truth == pytest.approx(-50, abs=STALL)
    assert gain == pytest.approx(truth, abs=2 * STALL), found["pipe"]


def test_a_caller_stands_for_what_it_calls_out_of_scope(found: dict[str, Any]) -> None:
    predicted, true = found["called"]["predicted"], found["called"]["true"]
    share = predicted["samples"]["caller_a"] / sum(predicted["samples"].values())
    assert share == pytest.approx(0.6, abs=0.03)  # all of it in the library that it calls
    assert period(predicted, "progress", 0.5) == pytest.approx(
        period(true, "progress", 0), rel=STALL / 50
    )
