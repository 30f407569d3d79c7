"""LD_ABS and LD_IND in the interpreter give what the kernel gives, inside and outside of the packet."""

from __future__ import annotations

import pytest

from workbench.kernel.raw_program import KernelProgram
from workbench.runtime.interpreter import Interpreter
from workbench.runtime.interpreter.memory import Allocation
from workbench.runtime.isa import assemble

PACKET = bytes((7 * n + 1) & 0xFF for n in range(64))
OFFSETS = (0, 1, 13, 14, 60, 61, 62, 63, 64, 1000, -1, -4)


@pytest.mark.needs("raw tracepoint")
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("indirect", [False, True])
def test_as_the_kernel(bits: int, indirect: bool) -> None:
    packet = Allocation(len(PACKET), PACKET)
    for offset in OFFSETS:
        where = f"r7 + {offset - 5}" if indirect else f"{offset}"
        text = f"r6 = r1\nr7 = 5\nr0 = *(u{bits} *)skb[{where}]\nr0 &= 0x7fffffff\nr0 |= 0x1000000\nexit"
        code = assemble(text)
        with KernelProgram(code, "sched_cls") as loaded:
            expected, _ = loaded.run(PACKET)
        context = Allocation(16)
        got = Interpreter(code).run([context.address], packet=(packet.address, len(PACKET))).r0
        assert got == expected, (text, hex(got), hex(expected))
