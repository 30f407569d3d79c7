"""Values that are printed: text may be given by address, an address itself is not printed."""

from __future__ import annotations

import re
from typing import Final

from workbench.runtime.helpers.prototypes import Helper
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.state import Reg, State

__all__ = ("check_printed", "text_offsets")

#: A conversion of kernel/bpf/helpers.c bpf_bprintf_prepare: what its value is, `%%` is none.
_CONVERSION: Final = re.compile(rb"%(?:%|[-+ 0#]*\d*(?:\.\d+)?(?:hh|h|ll|l)?(\w))")


def check_printed(env: Environment, state: State, helper: Helper) -> None:
    """r3 to r5 of bpf_trace_printk.

    Raises
    ------
    Reject
        An address would be printed as a number. `%s` of a known format prints what is there.
    """
    if not env.strict:
        return
    first = len(helper.arguments or ()) + 1
    conversions = _conversions(env, state.top.regs[1])
    for at, register in enumerate(range(first, helper.registers + 1)):
        if not state.top.regs[register].is_pointer:
            continue
        if at < len(conversions) and conversions[at] != b"s":
            env.leak(state, register, f"{helper.name} would print it")
        elif not conversions:
            env.leak(state, register, f"{helper.name} may print it: its format is not constant")


#: Helper -> the register of its format and that of its values, 8 bytes each.
_VALUES: Final = {"bpf_trace_vprintk": (1, 3), "bpf_snprintf": (3, 4)}


def text_offsets(env: Environment, state: State, helper: Helper, register: int) -> frozenset[int]:
    """Offsets from r10 at which the memory that is given in `register` holds the addresses of texts to print."""
    form, values = _VALUES.get(helper.name, (0, 0))
    reg = state.top.regs[register]
    if register != values or reg.kind != k.STACK or reg.s.mask:
        return frozenset()
    first = reg.off + reg.s.smin
    kinds = _conversions(env, state.top.regs[form])
    return frozenset(first + 8 * at for at, kind in enumerate(kinds) if kind == b"s")


def _conversions(env: Environment, reg: Reg) -> list[bytes]:
    return [one[1] for one in _CONVERSION.finditer(_format(env, reg)) if one[1]]


def _format(env: Environment, reg: Reg) -> bytes:
    """The format, where it is constant data."""
    if reg.kind != k.MAP_VALUE or reg.s.mask:
        return b""
    one = env.maps[reg.x]
    at = reg.off + reg.s.smin
    if not one.read_only or not 0 <= at < one.value_size:
        return b""
    content: bytes = one.initial.ljust(one.value_size, b"\0")
    return content[at:].partition(b"\0")[0]
