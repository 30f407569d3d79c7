"""aarch64: the processor stops before the access, so the reported instruction is the accessing one.

Source: Arm Architecture Reference Manual, D2.10 (watchpoint exceptions are taken before the access completes).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from workbench.collectors.watch.operands import READ, READ_WRITE, WRITE, Candidate, Operand

__all__ = ("CODE_BEFORE", "IP", "REGISTERS", "candidates")

# Columns of the register array: struct user_pt_regs (arch/arm64/include/uapi/asm/ptrace.h).
REGISTERS = (*(f"x{n}" for n in range(31)), "sp", "pc", "pstate")
IP = REGISTERS.index("pc")
CODE_BEFORE = 16
_ATOMIC = re.compile(
    r"(ld|st)(add|clr|eor|set|smax|smin|umax|umin)(a|l|al)?[bh]?|swp\w*|casp?(a|l|al)?[bh]?"
)
_NOTHING = re.compile(r"prfu?m|ldg|stg")


@cache
def _machine() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)


def _access(mnemonic: str, arguments: str) -> int | None:
    if _NOTHING.fullmatch(mnemonic):
        return None
    if _ATOMIC.fullmatch(mnemonic):
        return READ_WRITE
    if mnemonic.startswith("ld"):
        return READ
    if mnemonic.startswith("st") or (mnemonic == "dc" and arguments.startswith("zva")):
        return WRITE
    return None


def candidates(code: bytes, ip: int, start: int | None) -> tuple[Candidate, ...]:
    """The instruction at `ip`, if it accesses memory; `start` is not needed."""
    word = code[ip : ip + 4]
    for _, _, mnemonic, arguments in _machine().disasm_lite(word, 0, 1):
        access = _access(mnemonic, arguments)
        if access is not None:
            # The processor stopped at this very instruction; no address needs to prove it.
            return (
                Candidate(0, f"{mnemonic} {arguments}", (Operand(access, 0, known=False),), True),
            )
    return ()
