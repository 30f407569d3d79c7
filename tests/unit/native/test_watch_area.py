"""The ring between a watched process and the recorder, written here as the agent writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.native.watch_area import HEADER, RECORD, Area

pytestmark = pytest.mark.needs("native core")


def ring(area: Area) -> np.ndarray:
    return np.frombuffer(area._memory, RECORD, area["records"], HEADER)


def publish(area: Area, position: int, address: int) -> None:
    record = ring(area)[position % area["records"] : position % area["records"] + 1]
    record["address"] = address
    record["sequence"] = position + 1


def claim(area: Area, count: int = 1) -> int:
    at = area["head"]
    area["head"] = at + count
    return at


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=30))
def test_records_come_once_and_in_order(batches: list[int]) -> None:
    area = Area(1, records=8, values=False, stacks=False)
    sent = 0
    got: list[int] = []
    for count in batches:
        for _ in range(min(count, 8 - (area["head"] - area["tail"]))):
            publish(area, claim(area), sent)
            sent += 1
        if count % 3:
            got += area.take()["address"].tolist()
    got += area.take()["address"].tolist()
    assert got == list(range(sent)) and area["tail"] == area["head"]


def test_an_unpublished_record_holds_back_those_after_it_until_the_end() -> None:
    area = Area(1, records=8, values=False, stacks=False)
    publish(area, claim(area), 10)
    claim(area)  # a thread killed while it wrote
    publish(area, claim(area), 12)
    assert area.take()["address"].tolist() == [10]
    assert area.take()["address"].tolist() == [] and area.unpublished == 0
    assert area.take(skip=True)["address"].tolist() == [12] and area.unpublished == 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["head", "tail", "records", "record_bytes", "magic", "version"]),
    st.integers(0, 2**32 - 1),
)
def test_whatever_the_process_writes_into_the_header_is_survived(field: str, value: int) -> None:
    area = Area(1, records=8, values=False, stacks=False)
    publish(area, claim(area), 1)
    area[field] = value
    assert len(area.take(skip=True)) <= 8


def test_the_file_is_gone_after_close() -> None:
    area = Area(1, records=8, values=False, stacks=False)
    path = area.path
    assert Path(path).stat().st_size == area.size
    area.close()
    area.close()
    with pytest.raises(OSError):
        Path(path).stat()
