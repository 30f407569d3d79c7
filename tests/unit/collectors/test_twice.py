from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workbench.collectors.recorder import Recorder
from workbench.collectors.spec import parse
from workbench.collectors.twice import overlaps, refuse_twins
from workbench.errors import BadSpec


@pytest.mark.parametrize(
    "specs",
    [
        ["uprobe:f,count=yes", "uprobe:f,return=yes"],
        ["cpu:99", "sched", "cpu:999"],
        ["syscalls", "syscalls"],
        ["watch:x", "watch:x,values=yes"],
    ],
)
def test_rows_that_could_not_be_told_apart_are_refused(specs: list[str]) -> None:
    with pytest.raises(BadSpec, match="twice"):
        refuse_twins([parse(one) for one in specs])
    with pytest.raises(BadSpec, match="twice"):
        Recorder(specs, output="never made", pid=1)


def test_others_are_not() -> None:
    refuse_twins(map(parse, ["uprobe:f", "uprobe:g", "uretprobe:f", "cpu:99", "watch:f", "gpu:driver"]))


def _probe(name: str, text: str, *places: int) -> Any:
    sites = [
        SimpleNamespace(place=SimpleNamespace(path="/bin/x", file_offset=at), function=f"f{at}")
        for at in places
    ]
    return SimpleNamespace(
        name=name, options=SimpleNamespace(text=text), plan=SimpleNamespace(sites=sites)
    )


def test_probes_that_share_places_are_named() -> None:
    wide, one = _probe("uprobe", "uprobe:f*", 1, 2, 3, 4, 5), _probe("uprobe", "uprobe:f2", 2)
    (said,) = overlaps([wide, SimpleNamespace(name="cpu"), one])  # type: ignore[list-item]
    assert said.startswith("uprobe:f* and uprobe:f2 both record f2:")
    (said,) = overlaps([wide, _probe("uprobe", "uprobe:*", 5, 4, 3, 2, 1)])
    assert "f1, f2, f3 and 2 more" in said
    assert overlaps([wide, _probe("uretprobe", "uretprobe:f2", 2), _probe("uprobe", "uprobe:g", 9)]) == []
