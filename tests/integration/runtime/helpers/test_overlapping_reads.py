"""bpf_probe_read of memory that its destination overlaps: chunks of 8, 4, 2, 1, as the kernel has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from workbench.bench.fuzz_builder import MAPS
from workbench.bench.fuzz_programs import FuzzProgram, generate
from workbench.bench.fuzz_worker import Judge
from workbench.objects.linked import Function, LinkedProgram
from workbench.runtime.isa import assemble

pytestmark = pytest.mark.needs("userspace JIT", "userspace maps")

_SLOTS = 12


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge()
    yield made
    made.close()


def overlapping(size: int, distance: int) -> FuzzProgram:
    """Reads `size` bytes at r10 - 60 to `distance` bytes behind them; the stack goes into a map."""
    lines = []
    for i in range(_SLOTS):
        lines += [f"r1 = {0x01020304 + i * 0x11111111 & 0x7FFFFFFF}", f"*(u64 *)(r10 - {8 * i + 8}) = r1"]
    lines += [f"r1 = r10\nr1 += {distance - 60}\nr2 = {size}\nr3 = r10\nr3 += -60\ncall 113"]
    lines += ["r9 = map[results][0]+0 ll"]
    for i in range(3, 10):
        lines += [f"r1 = *(u64 *)(r10 - {8 * i + 8})", f"*(u64 *)(r9 + {8 * (i - 3)}) = r1"]
    code = assemble("\n".join([*lines, "r0 = 2", "exit"]), maps=[one.name for one in MAPS])
    program = LinkedProgram("main", "xdp", "xdp", code, (Function("main", 0, len(code) // 8),))
    return replace(next(one for one in map(generate, range(50)) if one.program.type == "xdp"), program=program)


@pytest.mark.parametrize("size", [3, 7, 9, 13, 25, 31])
@pytest.mark.parametrize("distance", [-9, -4, -1, 0, 1, 2, 3, 4, 5, 7, 8, 24])
def test_all_leave_the_same(judge: Judge, size: int, distance: int) -> None:
    one = overlapping(size, distance)
    wanted = judge.interpreter.run(one)
    found = {engine.name: engine.run(one) for engine in judge.compiled}
    if judge.kernel is not None:
        found["kernel"] = judge.kernel.run(one)
    assert len(found) >= 2
    assert {name: got.maps for name, got in found.items()} == dict.fromkeys(found, wanted.maps)
