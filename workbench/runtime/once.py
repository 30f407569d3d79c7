"""One run of raw code on a piece of memory: r1 is its address, r2 its length. For conformance tests and fuzzing."""

from __future__ import annotations

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


def run_jit(code: bytes, memory: bytes = b"", tier: str = "optimised") -> int:
    """r0 of the program, compiled by the given tier.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    MissingCapability
        LLVM is not there.
    """
    from workbench.runtime.jit.raw import run_raw

    return run_raw(code, bytearray(memory), tier)
