"""Frames about programs themselves: what they left in their maps, and what the verifier knows of them."""

from __future__ import annotations

from workbench.frames.declaration import Column, Schema
from workbench.frames.gain_schemas import GAIN_SCHEMAS
from workbench.frames.scheduler_schemas import SCHEDULER_SCHEMAS

__all__ = ("PROGRAM_SCHEMAS",)

_PROGRAM = Column("program", "str", "", "name of the program")

PROGRAM_SCHEMAS = (
    Schema(
        "map_entries",
        "what the programs of an object left in their maps, by the backend that ran them",
        (
            Column("backend", "str", "", "kernel or userspace"),
            Column("map", "str", "", "name of the map"),
            Column("key", "str", "", "the entry's key, for a reader"),
            Column("value", "int64", "", "its value; summed over CPUs where it has one for each"),
        ),
        recorded_by="wb.compare_backends",
    ),
    Schema(
        "verdicts",
        "what user space's verifier says of programs",
        (
            _PROGRAM,
            Column("section", "str", "", "ELF section, which names the program's type"),
            Column("instructions", "int64", "", "8-byte instructions of its function"),
            Column("accepted", "bool", "", "it may run"),
            Column("steps", "int64", "", "instructions walked over all paths"),
            Column("states", "int64", "", "states kept to prune paths"),
            Column("stack", "int64", "bytes", "deepest use of the stack"),
            Column("reason", "str", "", "why it was refused, where, and what to do; else empty"),
        ),
        recorded_by="wb.compare_backends",
    ),
    Schema(
        "verifier_states",
        "what the verifier knows before each instruction of an accepted program, over all paths",
        (
            _PROGRAM,
            Column("slot", "int64", "", "position of the instruction, in units of 8 bytes"),
            Column("function", "str", "", "BPF function that it belongs to"),
            Column("text", "str", "", "the instruction"),
            Column("line", "int64", "", "line of the C source; 0 where it is not known"),
            Column("source", "str", "", "that line"),
            Column("visits", "int64", "", "how often the verifier walked it"),
            *(Column(f"r{n}", "str", "", f"what register r{n} may hold") for n in range(11)),
            Column("stack", "str", "", "what the stack's written slots may hold"),
        ),
        recorded_by="wb.compare_backends",
    ),
    *SCHEDULER_SCHEMAS,
    *GAIN_SCHEMAS,
)
