from __future__ import annotations

import os

import numpy as np
import pytest

from workbench.collectors.base import Target
from workbench.collectors.registry import make
from workbench.collectors.watch import WatchCollector, watch_spec_for_array
from workbench.collectors.watch.addresses import MOST_BYTES, locate
from workbench.errors import BadSpec, UnknownSymbol

HERE = Target(os.getpid(), pids={os.getpid()})


def test_an_element() -> None:
    array = np.zeros(10, np.int32)
    assert watch_spec_for_array(array, 3) == f"{array.ctypes.data + 12:#x},size=4"
    assert watch_spec_for_array(array, -1) == f"{array.ctypes.data + 36:#x},size=4"
    assert watch_spec_for_array(array[3:4]) == watch_spec_for_array(array, 3)
    table = np.zeros((4, 5))
    assert watch_spec_for_array(table, (2, 3)) == f"{table.ctypes.data + 8 * 13:#x},size=8"


def test_parts_and_wide_elements_are_ranges() -> None:
    array = np.zeros(8, np.complex128)
    at = array.ctypes.data
    assert watch_spec_for_array(array, 1) == f"{at + 16:#x}..{at + 32:#x}"
    table = np.zeros((4, 5))
    assert (
        watch_spec_for_array(table, 1)
        == f"{table.ctypes.data + 40:#x}..{table.ctypes.data + 80:#x}"
    )
    assert watch_spec_for_array(np.asfortranarray(table)).count("..") == 1


@pytest.mark.parametrize(
    ("part", "index"),
    [
        (np.zeros((4, 5)), (slice(None), 1)),
        (np.zeros(8)[::2], None),
        (np.zeros(8), [1, 2]),
        (np.zeros(8), 8),
        (np.zeros(8), (1, 2)),
        (np.zeros(0), None),
        ([1, 2], 0),
    ],
)
def test_what_cannot_be_watched_of_an_array(part: object, index: object) -> None:
    with pytest.raises(BadSpec):
        watch_spec_for_array(part, index)  # type: ignore[arg-type]


def test_locate_addresses_and_ranges() -> None:
    array = np.zeros(64, np.uint8)
    at = (array.ctypes.data + 7) & ~7
    assert (locate(HERE, f"{at:#x}").address, locate(HERE, f"{at:#x}").length) == (at, 8)
    assert locate(HERE, f"{at + 2:#x}").length == 2
    assert locate(HERE, f"{at:#x}", 4).length == 4
    assert locate(HERE, f"{at:#x}..{at + 24:#x}").length == 24
    assert locate(HERE, f"{at:#x}+0x10").length == 16


@pytest.mark.parametrize(
    "text", ["0x1000..0x1000", "0x2000..0x1000", "0x0", "0xffff888000000000", "", "0x10+0"]
)
def test_bad_places(text: str) -> None:
    with pytest.raises(BadSpec):
        locate(HERE, text)


def test_more_than_can_take_turns() -> None:
    with pytest.raises(BadSpec, match="take turns"):
        locate(HERE, f"0x1000+{MOST_BYTES + 1}")


def test_an_address_that_is_not_mapped() -> None:
    with pytest.raises(UnknownSymbol, match="not mapped"):
        locate(HERE, "0x1000")


def test_the_machine_has_no_address() -> None:
    with pytest.raises(BadSpec, match="whole machine"):
        locate(Target(None), "0x1000")


def test_specifications() -> None:
    watch = make(
        "watch:lib:counter,access=rw,size=4,values=yes,stacks=yes,hits=10,rate=20,rotate=5ms,slots=2"
    )
    assert isinstance(watch, WatchCollector)
    assert (watch.what, watch.access, watch.size, watch.values) == ("lib:counter", "rw", 4, True)
    assert (watch.stacks, watch.limits.hits, watch.limits.rate) == ("dwarf", 10, 20)
    assert (watch.turn, watch.slots, watch.label) == (5, 2, "watch:lib:counter")
    reads = make("rwatch:array[3]")
    assert isinstance(reads, WatchCollector)
    assert (
        reads.reads_only
        and reads.access == "rw"
        and reads.name == "rwatch"
        and reads.what == "array[3]"
    )


@pytest.mark.parametrize(
    "text",
    [
        "watch", "watch:a,access=r", "watch:a,size=3", "watch:a,slots=5", "watch:a,rotate=never", "watch:a,mode=x",
        "rwatch:a,access=w", "watch:a,hits=-1", "watch:a,colour=red",
    ],
)  # fmt: skip
def test_bad_specifications(text: str) -> None:
    with pytest.raises(BadSpec):
        make(text)
