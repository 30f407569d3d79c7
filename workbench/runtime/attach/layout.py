"""Structures that the agent and the workbench share: native/agents/runtime/agent.h, native/runtime/runtime.h."""

from __future__ import annotations

import struct

__all__ = (
    "AGENT_MISSED",
    "CHAIN",
    "COUNTED",
    "DEPTH",
    "EARLY",
    "ENTRY",
    "FRAME",
    "FRAMES",
    "HITS",
    "LINK",
    "LINKS",
    "LOST",
    "MIDDLE",
    "MISSED",
    "NEXT",
    "OVERRIDE",
    "OVER_BUDGET",
    "PROGRAM",
    "REPLACE",
    "RETURN",
    "SITE",
    "TASKS",
    "UNWINDER",
    "chain",
)

PROGRAM = struct.Struct("<QQIIQ")  # entry, maps, type, id, budget
LINK = struct.Struct("<QQQIIQQ")  # program, cookie, function, kind, id, hits, missed
SITE = struct.Struct("<QQQIIQQ")  # address, red_zone, chain, flags, pad, only, back
CHAIN = struct.Struct("<II")  # entries, returns; then the links
MIDDLE, UNWINDER = 1, 2
ENTRY, RETURN, OVERRIDE, REPLACE = 1, 2, 3, 4


def chain(entries: list[int], returns: list[int]) -> bytes:
    """A struct wb_chain of links by address."""
    links = entries + returns
    return CHAIN.pack(len(entries), len(returns)) + struct.pack(f"<{len(links)}Q", *links)


# struct wb_agent
TASKS, AGENT_MISSED, EARLY = 16, 24, 40
# struct wb_task
_FRAMES, LINKS = 512, 1 << 14
FRAME = struct.Struct("<QQQQ")  # place, address, chain, back
NEXT, DEPTH, LOST, COUNTED, FRAMES = 248, 284, 288, 368, 384
HITS = FRAMES + _FRAMES * FRAME.size
MISSED = HITS + 8 * LINKS
OVER_BUDGET = MISSED + 8 * LINKS
