"""What `workbench bench` lists, prints and returns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from workbench.bench import import_time
from workbench.bench.result import BenchResult, Check, Row
from workbench.cli import main


def test_every_benchmark_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == sorted(names) and {"attach", "import", "memory", "overhead", "ring", "ring-user"} <= set(names)
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize(("limit", "status"), [(1000.0, 0), (0.0, 1)])
def test_exit_status_and_document(
    limit: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(import_time, "LIMIT", limit)
    monkeypatch.setattr(import_time, "run", lambda: import_time.measure(1))
    assert main(["bench", "import", "--json"]) == status
    out = capsys.readouterr().out
    document = json.loads(out)
    assert list(document) == ["bench", "host", "rows", "checks"]
    assert document["bench"] == "import"
    for row in document["rows"]:
        assert list(row) == ["name", "value", "unit", "peer", "ratio"]
    (check,) = document["checks"]
    assert list(check) == ["name", "limit", "value", "ok"]
    assert check["ok"] is (status == 0) and check["limit"] == limit
    ours, theirs = document["rows"]
    assert ours["ratio"] == check["value"] == pytest.approx(ours["value"] / theirs["value"])
    assert str(Path.home()) not in out and str(Path.cwd()) not in out


def test_what_was_not_measured_fails_and_is_null() -> None:
    result = BenchResult(
        "b", (Row("r", math.nan, "ns", "p", math.inf),), (Check.at_most("c", math.nan, 1.0),)
    )
    assert not result.ok
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["rows"][0]["value"] is None and document["rows"][0]["ratio"] is None
    assert document["checks"][0] == {"name": "c", "limit": 1.0, "value": None, "ok": False}
