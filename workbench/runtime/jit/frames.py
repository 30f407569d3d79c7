"""How much of a thread's stack a blob takes: probes run on the stack of the probed code, a signal handler's too."""

from __future__ import annotations

import re
import struct

from workbench.runtime.jit.blob import Blob

__all__ = ("stack_bytes",)

# push of rbx, rbp, r12-r15 or a dummy; mov %rsp, %rbp; then sub $n, %rsp with 32 or 8 bits
_PROLOGUE = re.compile(
    rb"((?:\x50|\x53|\x55|\x41[\x54-\x57]|\x48\x89\xe5)*)(?:\x48\x81\xec(.{4})|\x48\x83\xec(.))?",
    re.DOTALL,
)
_PUSH = re.compile(rb"\x48\x89\xe5|\x41?[\x50-\x57]")
_RETURN_ADDRESS = 8


def stack_bytes(blob: Blob) -> int:
    """Bytes of stack that all functions of x86-64 code take together: none of them calls itself.

    Read from the instructions that each function begins with; what its helpers take is not in it.
    """
    total = 0
    for one in blob.symbols:
        found = _PROLOGUE.match(blob.code, one.offset, one.offset + one.size)
        if found is None:
            continue
        pushes = sum(len(push) < 3 for push in _PUSH.findall(found[1]))
        total += _RETURN_ADDRESS + 8 * pushes
        if found[2]:
            total += struct.unpack("<I", found[2])[0]
        elif found[3]:
            total += found[3][0]
    return total
