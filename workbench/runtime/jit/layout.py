"""Offsets of the structures of `workbench/native/runtime/runtime.h` that compiled code reads and writes.

A test compiles the header and compares, so the two cannot drift apart.
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "HELPERS",
    "MAP",
    "MAX_LOOPS",
    "PACKET",
    "PROGRAM",
    "PROGRAM_BYTES",
    "RUN",
    "RUN_BYTES",
    "STOP_BUDGET",
)

HELPERS: Final = 512
STOP_BUDGET: Final = 1
MAX_LOOPS: Final = 1 << 23  # kernel: BPF_MAX_LOOPS of kernel/bpf/bpf_iter.c

RUN: Final = {
    "maps": 0,
    "helpers": 8,
    "budget": 16,
    "self": 24,
    "ctx": 32,
    "link": 40,
    "owner": 48,
    "cpu": 52,
    "busy": 56,
    "tail_calls": 60,
    "stopped": 64,
    "flags": 68,
    "registers": 112,
    "scratch": 168,
    "program": 200,
}
RUN_BYTES: Final = 256

MAP: Final = {
    "type": 0,
    "key_size": 4,
    "value_size": 8,
    "max_entries": 12,
    "flags": 16,
    "values": 40,
    "stride": 48,
    "cpu_stride": 52,
    "cpus": 56,
}

#: What LD_ABS and LD_IND read through r6: the lowered context of programs on packets begins with these two addresses.
PACKET: Final = {"data": 0, "data_end": 8}
PROGRAM: Final = {"entry": 0, "maps": 8, "type": 16, "id": 20, "budget": 24}
PROGRAM_BYTES: Final = 32
