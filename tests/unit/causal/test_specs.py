"""Regions and progress points in real programs: position-independent or not, with DWARF 4 and 5, in two processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from probed_programs import Running, build, running

from workbench.causal.lines import line_ranges, split_line
from workbench.causal.points import resolve_points
from workbench.causal.regions import Finder, Region, locate
from workbench.collectors.modules import Modules
from workbench.errors import BadSpec, UnknownSymbol

SOURCE = r"""
#include <stdio.h>
#include <unistd.h>
#define MARK __asm__ volatile( \
    "990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n" \
    ".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n" \
    "992: .balign 4\n993: .8byte 990b\n.8byte 0\n.8byte 0\n" \
    ".asciz \"shop\"\n.asciz \"sold\"\n.asciz \"\"\n994: .balign 4\n.popsection\n")
__attribute__((noipa)) long sell(long a) {
    a = a * 3 + 1; /* line 10 */
    MARK;
    return a;
}
__attribute__((noipa)) long loop(long n) {
    for (long i = 0; i < n; i++) /* line 15: in several pieces */
        sell(i);
    return n;
}
int main(void) {
    char byte;
    long addresses[2] = {(long)sell, (long)loop};
    if (fork() == 0)
        return read(0, &byte, 1) < 0;
    printf("%ld %ld\n", addresses[0], addresses[1]);
    fflush(stdout);
    return read(0, &byte, 1) < 0 || loop(1) != 1;
}
"""
KINDS = {
    "pie, DWARF 5": ("-pie", "-fPIE", "-gdwarf-5"),
    "no pie, DWARF 4": ("-no-pie", "-fno-PIE", "-gdwarf-4"),
    "pie, no optimisation": ("-pie", "-fPIE", "-O0"),
}


@pytest.fixture(scope="module", params=list(KINDS))
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    return build(folder, "shop", SOURCE, *KINDS[request.param])


@pytest.fixture(scope="module")
def stripped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("specs"), "bare", SOURCE, "-g0")


@pytest.fixture
def shop(program: Path) -> Iterator[tuple[Running, int, int]]:
    with running([program]) as process:
        sell, loop = map(int, process.read())
        yield process, sell, loop


def size_of(program: Path, name: str) -> int:
    listed = subprocess.run(["nm", "-S", program], capture_output=True, text=True, check=True)
    return next(int(line.split()[1], 16) for line in listed.stdout.splitlines() if line.endswith(f" {name}"))


def address_of(program: Path, name: str) -> int:
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True)
    return next(int(line.split()[0], 16) for line in listed.stdout.splitlines() if line.endswith(f" {name}"))


def test_a_function_is_where_the_program_says(shop: tuple[Running, int, int], program: Path) -> None:
    process, sell, _ = shop
    modules = Modules(process.pid)
    assert locate(modules, Region("sell")) == ((sell, sell + size_of(program, "sell")),)
    assert locate(modules, Region("shop:sell")) == locate(modules, Region("sell"))
    [(low, high)] = locate(modules, Region("libc:malloc"))
    assert 0 < high - low < 100_000


def test_a_source_line_is_inside_its_function(shop: tuple[Running, int, int], program: Path) -> None:
    process, sell, _ = shop
    pieces = locate(Modules(process.pid), Region("shop.c:10"))
    end = sell + size_of(program, "sell")
    assert pieces and all(sell <= low < high <= end for low, high in pieces)
    assert list(pieces) == sorted(pieces)
    assert locate(Modules(process.pid), Region(f"{program.parent}/shop.c:10")) == pieces
    loop = locate(Modules(process.pid), Region("shop.c:15"))
    assert len(loop) > 1 and all(high <= low for (_, high), (low, _) in pairwise(loop))


def test_lines_are_those_of_addr2line(program: Path) -> None:
    module = Modules(None, [str(program)]).find_module("")
    checked = 0
    for line in range(1, SOURCE.count("\n") + 1):
        try:
            pieces = line_ranges(module, "shop.c", line)
        except UnknownSymbol:
            continue
        inside = [f"{address:#x}" for low, high in pieces for address in (low, high - 1)]
        answer = subprocess.run(["addr2line", "-e", program, *inside], capture_output=True, text=True, check=True)
        assert {text.split()[0].rsplit("/", 1)[-1] for text in answer.stdout.splitlines()} == {f"shop.c:{line}"}
        checked += 1
    assert checked > 8


def test_addresses_are_taken_as_they_are_or_moved_by_the_load_bias(
    shop: tuple[Running, int, int], program: Path
) -> None:
    process, sell, _ = shop
    modules = Modules(process.pid)
    assert locate(modules, Region(f"{sell:#x}-{sell + 8:#x}")) == ((sell, sell + 8),)
    at = address_of(program, "sell")
    assert locate(modules, Region(f"shop:{at:#x}-{at + 8:#x}")) == ((sell, sell + 8),)
    with pytest.raises(BadSpec, match="empty"):
        locate(modules, Region("0x20-0x10"))


def test_every_process_has_the_region_at_its_own_place(program: Path) -> None:
    finder = Finder()
    with running([program]) as first, running([program]) as second:
        places = {one.pid: int(one.read()[0]) for one in (first, second)}
        found = finder.places([*places, 2**22 + 1], Region("sell"))
        assert {pid: low for pid, ((low, _),) in found.items()} == places
        assert finder.places(list(places), Region("sell")) == found
        with running(["sleep", "60"]) as other:  # a process without it is left out
            assert finder.places([other.pid, *places], Region("shop.c:10")).keys() == places.keys()
            with pytest.raises(UnknownSymbol):
                finder.places([other.pid], Region("sell"))
    assert finder.places(list(places), Region("sell")) == {}


def test_progress_points_are_bytes_of_the_file(shop: tuple[Running, int, int], program: Path) -> None:
    process, sell, _ = shop
    modules = Modules(process.pid)
    mapping = modules.find_module("").mapping
    assert mapping
    offset = sell - mapping[0] + mapping[2]
    specs = ["sell", "uprobe:shop:sell", "shop.c:13", "usdt:shop:sold", "usdt:shop:shop:sold"]
    points = resolve_points(modules, specs)
    assert [one.name for one in points] == specs
    assert {Path(one.path).samefile(program) for one in points} == {True}
    assert points[0].offset == points[1].offset == offset
    line, mark, again = (one.offset for one in points[2:])
    assert offset < line < offset + size_of(program, "sell")
    assert mark == again and program.read_bytes()[mark] == 0x90  # the mark's nop
    held = resolve_points(Modules(None, [str(program)]), ["sell"])
    assert held[0].offset == offset


def test_what_is_not_there_is_said_with_what_is(shop: tuple[Running, int, int], stripped: Path) -> None:
    modules = Modules(shop[0].pid)
    with pytest.raises(UnknownSymbol, match="no function 'sel'") as error:
        locate(modules, Region("sel"))
    assert "sell" in error.value.hint
    with pytest.raises(UnknownSymbol, match="no code of its own") as error:
        locate(modules, Region("shop.c:3"))
    assert "lines near" in error.value.hint
    with pytest.raises(UnknownSymbol, match="no code of a source"):
        locate(modules, Region("other.c:3"))
    with pytest.raises(UnknownSymbol, match="no USDT mark") as error:
        resolve_points(modules, ["usdt:shop:bought"])
    assert "shop:sold" in error.value.hint
    with pytest.raises(BadSpec):
        resolve_points(modules, ["usdt:sold"])
    with pytest.raises(BadSpec):
        resolve_points(modules, [])
    with pytest.raises(BadSpec, match="too many"):
        resolve_points(modules, ["sell"] * 17)
    with pytest.raises(BadSpec, match="pattern"):
        locate(modules, Region("se*"))
    with pytest.raises(BadSpec):
        Region(" ")
    with pytest.raises(UnknownSymbol, match="no line information") as error:
        line_ranges(Modules(None, [str(stripped)]).find_module(""), "bare.c", 10)
    assert "-g" in error.value.hint


def test_damaged_line_information_is_an_error_that_says_so(program: Path, tmp_path: Path) -> None:
    data = bytearray(program.read_bytes())
    at = data.index(b"shop.c")
    for step in range(40):  # every one either still reads or says what is wrong
        broken = bytearray(data)
        for place in range(at - 4000 + 97 * step, len(broken) - 3000, 61 + step):
            broken[place] ^= 0xA5
        path = tmp_path / f"broken{step}"
        path.write_bytes(broken)
        try:
            found = line_ranges(Modules(None, [str(path)]).find_module(""), "shop.c", 10)
            assert all(low < high for low, high in found)
        except UnknownSymbol as error:
            assert error.message


def test_lines_are_told_from_functions_and_addresses() -> None:
    assert split_line("src/a.c:42") == ("src/a.c", 42)
    assert split_line("C:/x/a.cc:7") == ("C:/x/a.cc", 7)
    for other in ("malloc", "libc:malloc", "libc:0x10", "a::b", "a.c:0", "a.c:"):
        assert split_line(other) is None
