"""Entry probes by a jump: every call is counted, arguments are seen, bytes are restored, in PIE and static programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from probed_programs import Running, build, counting, running, storing

from workbench.errors import MissingCapability, UnknownSymbol
from workbench.runtime.attach import Process, Request

pytestmark = [pytest.mark.needs("ptrace")]

SOURCE = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
static volatile uint64_t words[64];
volatile long factor = 3;
__attribute__((noipa)) long work(long a, long b) { return a * factor + b; }
__attribute__((noipa)) double mixed(double x, long a, double y) { return x * a + y + factor; }
__attribute__((noipa)) long sum(long n) {
    long s = 0;
    for (long i = 0; i < n; i++) { s += work(i, n); __asm__ volatile("" ::: "memory"); }
    return s;
}
int main(void) {
    char line[64];
    printf("%p\n", (void *)words);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long n = atol(line), total = 0;
        double d = 0;
        for (long i = 0; i < n; i++) { total += work(i, 5); d += mixed(i, 2, 0.5); }
        total += sum(n);
        printf("%ld %.1f %lu %lu\n", total, d, (unsigned long)words[0], (unsigned long)words[1]);
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module", params=["pie", "no-pie", "static", "endbr"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {
        "pie": ["-pie", "-fPIE"],
        "no-pie": ["-no-pie"],
        "static": ["-static"],
        "endbr": ["-fcf-protection=full"],
    }
    folder = tmp_path_factory.mktemp(request.param)
    return build(folder, "target", SOURCE, *flags[request.param])


@pytest.fixture
def target(program: Path) -> Iterator[tuple[Running, int]]:
    with running([program]) as one:
        yield one, int(one.read()[0], 16)


def expected(n: int) -> tuple[int, float]:
    total = sum(i * 3 + 5 for i in range(n)) + sum(i * 3 + n for i in range(n))
    return total, sum(i * 2 + 0.5 + 3 for i in range(n))


def answer(words: list[str]) -> tuple[int, float]:
    return int(words[0]), float(words[1])


def test_every_call_is_counted_and_results_stay(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "work")
        said = program.ask("100")
        assert answer(said) == expected(100)
        assert int(said[2]) == 200 == link.hits
        assert link.missed == 0
        assert link.method == "jump"
    said = program.ask("10")
    assert answer(said) == expected(10)
    assert int(said[2]) == 200, "the probe is gone after the process is left"


def test_bytes_are_restored_and_attached_again(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        link = process.attach(counting(words), "work")
        site = link.address
        assert process.memory.read(site, 1) == b"\xe9"
        link.detach()
        before = process.memory.read(site, 16)
        assert before[0] != 0xE9
        for round_number in range(1, 6):
            link = process.attach(counting(words), "work")
            said = program.ask("7")
            assert int(said[2]) == 14 * round_number
            link.detach()
            link.detach()
            assert process.memory.read(site, 16) == before
    assert program.alive


def test_arguments_and_floating_point_pass(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        process.attach_many(
            [Request(storing(words + 8, 104), "work"), Request(counting(words), "mixed")]
        )
        said = program.ask("40")
    assert answer(said) == expected(40)
    assert int(said[2]) == 40
    assert int(said[3]) == 40, "rsi of the last call of work"


def test_several_programs_run_in_order_at_one_site(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        first = process.attach(counting(words), "work")
        second = process.attach(counting(words + 8), "work")
        said = program.ask("3")
        assert (said[2], said[3]) == ("6", "6")
        first.detach()
        said = program.ask("3")
        assert (said[2], said[3]) == ("6", "12")
        second.detach()


def test_unknown_functions_are_refused_by_name(target: tuple[Running, int]) -> None:
    program, words = target
    with Process(program.pid) as process:
        with pytest.raises(UnknownSymbol, match="wrok"):
            process.attach(counting(words), "target:wrok")
        with pytest.raises(UnknownSymbol, match="no library or program"):
            process.attach(counting(words), "nolib:work")
        link = process.attach(counting(words), "work")
        with pytest.raises(MissingCapability, match="within 5 bytes"):
            process.attach(counting(words), link.address + 4)
