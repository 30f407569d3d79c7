"""What all functions of one program share while they are translated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from workbench.objects.linked import LinkedMap
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit.bitcode import Inlined, available
from workbench.runtime.jit.flow import Graph, Slots
from workbench.runtime.jit.shape import ADDRESS, Shapes, entry_shapes

__all__ = ("CALLBACK_HELPERS", "LOOP", "TAIL_CALL", "Options", "Unit", "unit")

TAIL_CALL: Final = 12
LOOP: Final = 181
#: Helpers that call a function of the program before they return: for_each_map_elem, loop, user_ringbuf_drain.
CALLBACK_HELPERS: Final = frozenset({164, LOOP, 209})


@dataclass(frozen=True, slots=True)
class Options:
    """How to translate.

    Attributes
    ----------
    optimised : bool
        Second tier: everything that costs time to compile.
    vectors : bool
        Vector registers may be used. Code that probes call does without, so that they need not be saved.
    raw : bool
        The program gets the length of its memory in r2 (public conformance tests); read from `run->registers[0]`.
    machine : str
        `x86_64` or `aarch64`.
    bitcode : bool
        Inline helpers, where bitcode of them was built and the code is optimised.
    """

    optimised: bool = False
    vectors: bool = False
    raw: bool = False
    machine: str = "x86_64"
    bitcode: bool = True


@dataclass(slots=True)
class Unit:
    """One program.

    Attributes
    ----------
    slots : sequence of Instruction or None
    graphs : dict of int to Graph
        Each function by its first slot, the main function (0) first.
    maps : sequence of LinkedMap
        By the index in the code.
    shapes : list of list of int or None
        The verifier's view of registers; None for code that was not verified.
    probed : frozenset of (int, int)
        (slot, register): a load through it may fault.
    counted : frozenset of int or None
        Slots of backward jumps that count down the budget; None = all.
    stopping : set of int
        Functions in which a run can be cut short.
    counting : set of int
        Functions that count down the budget themselves; they keep it in a local variable meanwhile.
    callbacks : set of int
        Functions whose address is passed to a helper.
    inlined : dict of str to str
        Declarations of functions of `workbench.runtime.jit.bitcode`, by name.
    bitcode : set of str
        Files that have them.
    globals : list of str
        Module-level lines made while translating.
    """

    slots: Slots
    graphs: dict[int, Graph]
    maps: Sequence[LinkedMap]
    options: Options
    shapes: Shapes | None
    probed: frozenset[tuple[int, int]]
    counted: frozenset[int] | None
    stopping: set[int] = field(default_factory=set)
    counting: set[int] = field(default_factory=set)
    callbacks: set[int] = field(default_factory=set)
    inlined: dict[str, str] = field(default_factory=dict)
    bitcode: set[str] = field(default_factory=set)
    globals: list[str] = field(default_factory=list)
    constants: dict[int, str] = field(default_factory=dict)
    parameters: dict[int, tuple[bool, ...]] = field(default_factory=dict)

    def counts(self, slot: int, target: int) -> bool:
        """The jump at `slot` counts down the budget when it goes to `target`."""
        if target > slot:
            return False
        one = self.slots[slot]
        may_goto = one is not None and one.opcode == op.MAY_GOTO
        return self.counted is None or slot in self.counted or may_goto

    def inline(self, function: Inlined | None, declaration: str) -> bool:
        """Whether the function's body will be there; `declaration` has `{}` for its name."""
        wanted = self.options.optimised and self.options.bitcode
        if function is None or not wanted or function.file not in available():
            return False
        self.inlined[function.name] = declaration.format(f"@{function.name}")
        self.bitcode.add(function.file)
        return True


def unit(
    slots: Slots,
    graphs: dict[int, Graph],
    maps: Sequence[LinkedMap],
    options: Options,
    shapes: Shapes | None,
    probed: frozenset[tuple[int, int]],
    counted: frozenset[int] | None,
) -> Unit:
    """Put together what is known before translation; `graphs` has callers before those they call."""
    made = Unit(slots, graphs, maps, options, shapes, probed, counted)
    for start in reversed(graphs):
        entry = entry_shapes(graphs[start], shapes)
        made.parameters[start] = tuple(entry[register] == ADDRESS for register in range(1, 6))
        if _counts(made, graphs[start]):
            made.counting.add(start)
        if start in made.counting or _stops(made, graphs[start]):
            made.stopping.add(start)
    return made


def _counts(made: Unit, graph: Graph) -> bool:
    for block in graph.blocks.values():
        one = made.slots[block.last]
        if one is not None and one.opcode == op.MAY_GOTO:
            return True
        if any(made.counts(block.last, following) for following in block.next):
            return True
    return False


def _stops(made: Unit, graph: Graph) -> bool:
    for block in graph.blocks.values():
        for slot in range(block.start, block.last + 1):
            one = made.slots[slot]
            if one is not None and one.opcode == op.CALLX:
                return True
            if one is None or one.opcode != op.CALL_IMM:
                continue
            if one.src == op.CALL_LOCAL and slot + 1 + one.imm in made.stopping:
                return True
            if one.src == op.CALL_HELPER and (one.imm in CALLBACK_HELPERS or one.imm == TAIL_CALL):
                return True
    return False
