"""One run of raw code on a piece of memory: r1 is its address, r2 its length. For conformance tests and fuzzing."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import import_module
from typing import Any

from workbench.errors import MissingCapability
from workbench.objects.linked import Function, LinkedProgram
from workbench.runtime.interpreter import Interpreter
from workbench.runtime.interpreter.memory import Allocation

__all__ = ("run_interpreted", "run_jit")


def run_interpreted(code: bytes, memory: bytes = b"") -> int:
    """r0 of the program in the reference interpreter.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    ProgramFault
        The program did what is not defined.
    """
    from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS

    place = Allocation(max(len(memory), 1), memory)
    machine = Interpreter(code, helpers=REFERENCE_HELPERS)
    return machine.run(
        [place.address, len(memory)], [(place.address, len(memory), "memory", True)]
    ).r0


# r2 = *(u64 *)(r1 + 8); r1 = *(u64 *)(r1 + 0): a compiled program gets one argument, here address and length.
_ENTER = bytes.fromhex("79120800000000007911000000000000")
_RUN_BYTES, _HELPERS_AT, _BUDGET_AT = 256, 8, 16  # struct wb_run


def run_jit(code: bytes, memory: bytes = b"", tier: str = "optimised") -> int:
    """r0 of the program, compiled by the given tier.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    MissingCapability
        The native core or LLVM is not there.
    """
    place = Allocation(max(len(memory), 1), memory)
    context = Allocation(
        16, place.address.to_bytes(8, "little") + len(memory).to_bytes(8, "little")
    )
    run = Allocation(_RUN_BYTES)
    ctypes.c_uint64.from_address(run.address + _HELPERS_AT).value = _native_helpers()
    ctypes.c_uint64.from_address(run.address + _BUDGET_AT).value = 1 << 40
    whole = _ENTER + code
    program = LinkedProgram("raw", "", "raw", whole, (Function("raw", 0, len(whole) // 8),))
    jit: Any = import_module("workbench.runtime.jit")
    loaded = jit.load(jit.compile_program(program, [], tier=tier))
    entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(loaded.address)
    result: int = entry(context.address, run.address)
    return result


@cache
def _native_helpers() -> int:
    """Address of the helper table of the native core."""
    from workbench.native.library import load

    try:
        return ctypes.addressof(ctypes.c_char.in_dll(load(), "wb_helpers"))
    except ValueError:
        raise MissingCapability(
            "the native core has no helpers", "build it with `python -m workbench.native.build`"
        ) from None
