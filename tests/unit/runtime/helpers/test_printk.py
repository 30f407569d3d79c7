"""What programs print is read by who loaded them; the process in which they run shows nothing of it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.runtime.helpers.native import call
from workbench.runtime.helpers.printk import Lines
from workbench.runtime.maps import Space, current_run


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def printk(space: Space, text: bytes, *arguments: int) -> int:
    held = ctypes.create_string_buffer(text)
    return call("trace_printk", current_run(space), ctypes.addressof(held), len(held), *arguments)


def test_lines_carry_who_printed_them_when_and_where(
    space: Space, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = Lines(space)
    assert printk(space, b"value %d of %x\n", 2**64 - 3, 255) == 15
    (line,) = lines
    assert line.text == "value -3 of ff"
    assert (line.pid, line.tid) == (os.getpid(), threading.get_native_id())
    assert line.comm == Path(f"/proc/self/task/{line.tid}/comm").read_text().strip()
    assert line.cpu < (os.cpu_count() or 1)
    assert str(line).endswith(": value -3 of ff") and line.to_json()["text"] == line.text
    assert list(lines) == []
    assert capfd.readouterr() == ("", "")


def test_lines_of_threads_keep_their_order(space: Space) -> None:
    lines = Lines(space)

    def work(number: int) -> None:
        for i in range(100):
            printk(space, b"%d %d", number, i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [tuple(map(int, line.text.split())) for line in lines]
    assert len(found) == 400 and lines.lost == 0
    for number in range(4):
        assert [i for n, i in found if n == number] == list(range(100))


def test_a_full_ring_loses_lines_and_counts_them(space: Space) -> None:
    lines = Lines(space)
    text = b"x" * 900
    count = 0
    while lines.lost < 5:
        assert printk(space, text) == 900
        count += 1
    assert len(list(lines)) == count - 5
    printk(space, b"again")
    assert [line.text for line in lines] == ["again"]


def test_follow_ends_when_nothing_comes(space: Space) -> None:
    lines = Lines(space)
    printk(space, b"one")
    assert [line.text for line in lines.follow(timeout=0.01)] == ["one"]


def test_without_a_reader_printing_still_gives_the_length(space: Space) -> None:
    assert printk(space, b"nobody reads %d", 10) == 15
    assert printk(space, b"%d %d %d %d") == -22  # four arguments: the helper takes three
    assert list(Lines(space)) == []


def test_long_lines_are_cut(space: Space) -> None:
    lines = Lines(space)
    assert printk(space, b"%2000d", 1) == 2000
    assert [len(line.text) for line in lines] == [1023]
