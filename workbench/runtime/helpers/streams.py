"""Which rings of the helpers' own an object needs: to be created with its maps, and mapped into every target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.runtime.helpers import printk, timers
from workbench.runtime.helpers.prototypes import BY_NAME
from workbench.runtime.isa import decode

if TYPE_CHECKING:
    from workbench.objects.linked import LinkedMap, LinkedObject

__all__ = ("needed_rings",)

_CALL, _HELPER = 0x85, 0
_RINGS = {
    "bpf_trace_printk": printk.RING,
    "bpf_trace_vprintk": printk.RING,
    "bpf_timer_init": timers.RING,
}


def needed_rings(linked: LinkedObject) -> tuple[LinkedMap, ...]:
    """`.printk` when a program prints (read it with `printk.Lines`), `.timers` when one has timers (`timers.Timers`).

    Opening a ring of that name in a process (`Space.create`, the agent's map) is all that its helpers need.
    """
    called = {
        one.imm
        for program in linked.programs.values()
        for one in decode(program.code)
        if one.opcode == _CALL and one.src == _HELPER
    }
    found = {ring.name: ring for name, ring in _RINGS.items() if BY_NAME[name].number in called}
    return tuple(found.values())
