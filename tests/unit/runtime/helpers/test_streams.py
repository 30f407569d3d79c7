"""The rings that an object's helpers write to are found from its calls."""

from __future__ import annotations

import pytest

from workbench.objects.linked import Function, LinkedObject, LinkedProgram
from workbench.runtime.helpers.streams import needed_rings
from workbench.runtime.isa import assemble


@pytest.mark.parametrize(
    ("calls", "rings"),
    [
        ((), ()),
        ((5, 14), ()),
        ((6,), (".printk",)),
        ((177, 6), (".printk",)),
        ((169, 6), (".printk", ".timers")),
    ],
)
def test_rings_by_calls(calls: tuple[int, ...], rings: tuple[str, ...]) -> None:
    text = "".join(f"call {number}\n" for number in calls) + "r0 = 0\nexit\n"
    code = assemble(text)
    program = LinkedProgram("f", "xdp", "xdp", code, (Function("f", 0, len(code) // 8),))
    linked = LinkedObject("o", "GPL", {"f": program}, (), {})
    assert tuple(ring.name for ring in needed_rings(linked)) == rings
