"""What a register can hold, as small numbers: the language between the verifier and the JIT.

`Verdict.kinds[slot, register]` is the kind *before* the instruction at that slot, joined over every state that the
verifier saw there. `Verdict.offsets[slot, register]` adds the byte offset where it is the same in all of them.
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "CALLER_STACK",
    "CONTEXT",
    "DEAD",
    "FUNCTION",
    "KINDS",
    "MAP",
    "MAP_VALUE",
    "MEMORY",
    "MIXED",
    "NULLABLE",
    "NUMBER",
    "OPAQUE",
    "PACKET",
    "PACKET_END",
    "PACKET_META",
    "PROBED",
    "STACK",
    "UNKNOWN_OFFSET",
    "join",
)

DEAD: Final = 0  # never initialised on any path, or the instruction is never reached
NUMBER: Final = 1  # a scalar; no address may be made of it
STACK: Final = 2  # this frame's stack: r10 + offset; `offsets` holds the offset where it is known
CALLER_STACK: Final = 3  # the stack of a calling frame
CONTEXT: Final = 4  # the program's context + offset
MAP: Final = 5  # a map handle (struct wb_map *), no arithmetic
MAP_VALUE: Final = 6  # inside a map's value (global data as well)
MEMORY: Final = 7  # a block of known size: ring record, slice of a dynptr, memory argument
PACKET: Final = 8  # packet data
PACKET_END: Final = 9  # end of packet data: compared only
PACKET_META: Final = 10  # packet metadata
PROBED: Final = 11  # a kernel structure by BTF: loads must be fault-safe, stores do not happen
FUNCTION: Final = 12  # address of a subprogram, for a helper that calls back
NULLABLE: Final = (
    13  # one of the pointers above, or 0: may be compared and copied, never dereferenced
)
OPAQUE: Final = 14  # a handle that only helpers look into
MIXED: Final = 15  # pointers of different kinds, or pointer on one path and number on another

KINDS: Final = (
    "dead",
    "number",
    "stack",
    "caller stack",
    "context",
    "map",
    "map value",
    "memory",
    "packet",
    "packet end",
    "packet meta",
    "probed",
    "function",
    "nullable",
    "opaque",
    "mixed",
)

UNKNOWN_OFFSET: Final = -(1 << 31)  # in `Verdict.offsets`


def join(a: int, b: int) -> int:
    """Kind that covers both."""
    if a == b or b == DEAD:
        return a
    return b if a == DEAD else MIXED
