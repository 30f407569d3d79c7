"""Which backend can attach a program, told from its section as attaching tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import MissingCapability, WorkbenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.objects.linked import LinkedMap, LinkedProgram

__all__ = ("attachable", "kernel_only", "map_rows")

_BOTH, _KERNEL, _OWN = ["userspace", "kernel"], ["kernel"], ["userspace"]


def attachable(program: LinkedProgram) -> dict[str, Any]:
    """`backends` that can attach it, and where user space cannot, the `reason` and `hint` that attaching would give."""
    from workbench.collectors.attach import refuse_kernel_only
    from workbench.runtime.tracepoints import raw_tracepoint, tracepoint

    kind, _, named = program.section.removeprefix("?").partition("/")
    try:
        refuse_kernel_only(program.name, kind)
        if kind in ("tp", "tracepoint") and named:
            category, _, name = named.replace("/", ":").partition(":")
            tracepoint(category, name)
        elif kind.startswith(("raw_tp", "raw_tracepoint")) and named:
            raw_tracepoint(named)
    except MissingCapability as error:
        return kernel_only(error)
    return {"backends": _OWN if _calls_own(program.code) else _BOTH}


def _calls_own(code: bytes) -> bool:
    """The program calls a helper that no kernel has."""
    from workbench.runtime.helpers.tracing import OWN
    from workbench.runtime.isa import decode
    from workbench.runtime.isa import opcodes as op

    own = {helper.number for helper in OWN}
    return any(
        one.opcode == op.JMP | op.CALL and one.src == op.CALL_HELPER and one.imm in own
        for one in decode(code)
    )


def kernel_only(error: WorkbenchError) -> dict[str, Any]:
    """The same for a program that user space cannot even load."""
    return {"backends": _KERNEL, "reason": error.message, "hint": error.hint}


def map_rows(maps: Sequence[LinkedMap]) -> list[dict[str, Any]]:
    """Maps that loading into user space would refuse here, with its `reason` and `hint`."""
    from workbench.runtime.maps.room import refused_maps

    return [
        {"name": name, "reason": error.message, "hint": error.hint}
        for name, error in refused_maps(maps).items()
    ]
