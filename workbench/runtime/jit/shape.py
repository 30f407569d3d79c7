"""Which registers hold addresses: LLVM optimises what it sees as pointers, and only guesses at integers.

Each register has at each block's start one of four shapes, in this order: nothing, a constant, an address, a number.
Where paths meet, the higher one counts: an address on one path and a constant (mostly 0) on another stays an address;
joined with any other number it becomes a number, and the edges convert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit.flow import Block, Graph, Slots

if TYPE_CHECKING:
    import numpy as np

__all__ = ("ADDRESS", "CONSTANT", "NOTHING", "NUMBER", "Shapes", "known", "shapes")

NOTHING: Final = 0
CONSTANT: Final = 1
ADDRESS: Final = 2
NUMBER: Final = 3

Shapes = list[list[int]]


def known(kinds: np.ndarray | None) -> Shapes | None:
    """The verifier's kinds [slots, 11] as shapes, in lists because they are read one by one."""
    if kinds is None:
        return None
    import numpy as np

    from workbench.runtime.verifier import kinds as words

    table = np.full(256, ADDRESS, np.uint8)
    table[words.DEAD] = NOTHING
    table[[words.NUMBER, words.MIXED]] = NUMBER
    shaped: Shapes = table[np.asarray(kinds, np.uint8)].tolist()
    return shaped


def entry_shapes(graph: Graph, verified: Shapes | None) -> list[int]:
    """Shapes of r0 to r10 when the function begins."""
    first = [NUMBER] * 10 + [ADDRESS]
    for register in range(1, 6):
        if verified is not None:
            is_address = verified[graph.start][register] == ADDRESS
        else:
            is_address = bool(graph.blocks[graph.start].address >> register & 1)
        if is_address or (graph.start == 0 and register == 1):
            first[register] = ADDRESS
    return first


def loaded_shape(graph: Graph, slot: int, register: int, verified: Shapes | None) -> int:
    """Shape of what a load, a call or an atomic left in `register`.

    From the verifier where the next slot is reached from here only; else an address when memory is later accessed
    through it.
    """
    if verified is not None and slot + 1 < len(verified) and slot + 1 not in graph.blocks:
        return ADDRESS if verified[slot + 1][register] == ADDRESS else NUMBER
    return ADDRESS if slot in graph.addresses else NUMBER


def shapes(slots: Slots, graph: Graph, verified: Shapes | None) -> dict[int, list[int]]:
    """Shapes of r0 to r10 at the start of every block.

    Parameters
    ----------
    slots : sequence of Instruction or None
    graph : Graph
        One function.
    verified : list of list of int or None
        From `known`.
    """
    found: dict[int, list[int]] = {graph.start: entry_shapes(graph, verified)}
    changed = True
    while changed:
        changed = False
        for slot, block in graph.blocks.items():
            state = list(found[slot])
            _through(slots, graph, block, state, verified)
            for following in block.next:
                old = found.get(following)
                if old is None:
                    found[following] = list(state)
                    changed = True
                    continue
                for register in range(10):
                    if state[register] > old[register]:
                        old[register] = state[register]
                        changed = True
    return found


def _through(
    slots: Slots, graph: Graph, block: Block, state: list[int], verified: Shapes | None
) -> None:
    """Change `state` as the block's instructions do."""
    slot = block.start
    while slot <= block.last:
        one = slots[slot]
        assert one is not None
        opcode, dst = one.opcode, one.dst
        kind = opcode & 7
        if kind == op.ALU64:
            operation, register = opcode & 0xF0, opcode & op.X
            if operation == op.MOV:
                if not register:
                    state[dst] = CONSTANT
                else:
                    state[dst] = state[one.src] if not one.offset else NUMBER
            elif operation == op.ADD:
                address = state[dst] == ADDRESS or (register and state[one.src] == ADDRESS)
                state[dst] = ADDRESS if address else NUMBER
            elif operation == op.SUB:
                address = state[dst] == ADDRESS and not (register and state[one.src] == ADDRESS)
                state[dst] = ADDRESS if address else NUMBER
            else:
                state[dst] = NUMBER
        elif kind == op.ALU:
            state[dst] = CONSTANT if opcode == op.ALU | op.MOV else NUMBER
        elif kind == op.LDX:
            plain = opcode == op.LDX | op.MEM | op.DW
            state[dst] = loaded_shape(graph, slot, dst, verified) if plain else NUMBER
        elif kind == op.LD:
            if opcode == op.LD_IMM64:
                state[dst] = ADDRESS if one.src else CONSTANT
            else:
                state[0] = NUMBER
        elif opcode in (op.CALL_IMM, op.CALLX):
            state[0] = loaded_shape(graph, slot, 0, verified)
            state[1:6] = (NOTHING,) * 5
        elif kind == op.STX and opcode & 0xE0 == op.ATOMIC:
            if one.imm == op.LOAD_ACQ:
                state[dst] = loaded_shape(graph, slot, dst, verified)
            elif one.imm == op.CMPXCHG:
                state[0] = NUMBER
            elif one.imm & op.FETCH:
                state[one.src] = NUMBER
        slot += one.slots
