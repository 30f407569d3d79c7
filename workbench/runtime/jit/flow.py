"""Functions, basic blocks and liveness of BPF code: what the translation to LLVM needs to know before it begins.

A function is every slot that can be reached from its first one without a call, so code need not be laid out in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.errors import BadSpec
from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op

__all__ = ("Block", "Graph", "called", "functions", "graph")

Slots = Sequence[Instruction | None]
_GONE = 0b111111  # r0 to r5: written or lost in a call


@dataclass(slots=True)
class Block:
    """Instructions that run one after the other, slots `start` to `last` (the slot of the last instruction).

    Attributes
    ----------
    next : list of int
        Starts of the blocks that can follow.
    before : list of int
        Starts of the blocks that it can follow.
    live : int
        Bit r is set when register r is read before it is written, from the block's start on.
    address : int
        Bit r is set when, further, memory may be accessed through what register r holds.
    """

    start: int
    last: int
    next: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    live: int = 0
    address: int = 0


@dataclass(slots=True)
class Graph:
    """One function.

    Attributes
    ----------
    start : int
        Its first slot.
    blocks : dict of int to Block
        By their start, in reverse postorder.
    addresses : set of int
        Slots of loads, calls and atomics whose result is used as an address later.
    """

    start: int
    blocks: dict[int, Block]
    addresses: set[int]


def called(slots: Slots, start: int, seen: dict[int, set[int]]) -> None:
    """Collect into `seen` which functions (by first slot) each function calls or passes to a helper."""
    work = [start]
    while work:
        function = work.pop()
        if function in seen:
            continue
        names: set[int] = set()
        reach = [function]
        visited: set[int] = set()
        while reach:
            slot = reach.pop()
            while slot not in visited:
                if slot >= len(slots):
                    raise BadSpec(
                        f"the program runs past its last instruction (slot {len(slots)})",
                        "a function must end in exit or a jump; the verifier names the path",
                    )
                visited.add(slot)
                one = slots[slot]
                assert one is not None
                opcode = one.opcode
                if opcode == op.CALL_IMM:
                    if one.src == op.CALL_LOCAL:
                        names.add(slot + 1 + one.imm)
                elif opcode == op.LD_IMM64:
                    if one.src == op.PSEUDO_FUNC:
                        names.add(slot + 1 + one.imm)
                    slot += 1
                elif one.is_jump:
                    reach.append(one.target(slot))
                if not one.falls_through:
                    break
                slot += 1
        seen[function] = names
        work.extend(names)


def functions(slots: Slots) -> list[int]:
    """First slots of the main function and of all it can reach, callers before those they call.

    Raises
    ------
    BadSpec
        Code that runs past its end, or functions that call themselves.
    """
    calls: dict[int, set[int]] = {}
    called(slots, 0, calls)
    order: list[int] = []
    state: dict[int, int] = {}
    stack: list[tuple[int, list[int]]] = [(0, sorted(calls[0]))]
    state[0] = 1
    while stack:
        function, rest = stack[-1]
        if not rest:
            stack.pop()
            state[function] = 2
            order.append(function)
            continue
        other = rest.pop()
        if state.get(other) == 1:
            raise BadSpec(
                f"the function at slot {other} calls itself",
                "BPF has no recursion; the verifier names the chain of calls",
            )
        if other not in state:
            state[other] = 1
            stack.append((other, sorted(calls[other])))
    return order[::-1]


def _leaders(slots: Slots, start: int) -> tuple[set[int], set[int]]:
    """Slots where blocks begin, and all slots of the function."""
    leaders, visited, work = {start}, set(), [start]
    while work:
        slot = work.pop()
        while slot not in visited:
            visited.add(slot)
            one = slots[slot]
            assert one is not None
            following = slot + one.slots
            if one.is_jump:
                target = one.target(slot)
                leaders.add(target)
                leaders.add(following)
                work.append(target)
            if not one.falls_through:
                break
            slot = following
    return leaders & visited, visited


def graph(
    slots: Slots, start: int, arguments: Mapping[int, int], entries: Mapping[int, int]
) -> Graph:
    """Blocks of the function at `start`, with liveness.

    Parameters
    ----------
    slots : sequence of Instruction or None
        From `workbench.runtime.isa.decode_slots`, targets checked.
    start : int
        First slot of the function.
    arguments : mapping of int to int
        How many registers a helper reads, by its number; 5 for those that are missing.
    entries : mapping of int to int
        `Block.live` of the first block of functions that this one calls; all five where it is missing.
    """
    leaders, visited = _leaders(slots, start)
    blocks: dict[int, Block] = {}
    for leader in sorted(leaders):
        slot = leader
        while True:
            one = slots[slot]
            assert one is not None
            following = slot + one.slots
            if one.is_jump or not one.falls_through or following in leaders:
                break
            slot = following
        block = Block(leader, slot)
        if one.is_jump:
            block.next.append(one.target(slot))
        if one.falls_through and following not in block.next:
            block.next.append(following)
        blocks[leader] = block
    assert all(slot in visited for slot in blocks)
    ordered = _reverse_postorder(blocks, start)
    for block in ordered.values():
        for following in block.next:
            ordered[following].before.append(block.start)
    return Graph(start, ordered, _liveness(slots, ordered, arguments, entries))


def _reverse_postorder(blocks: dict[int, Block], start: int) -> dict[int, Block]:
    order: list[int] = []
    seen = {start}
    stack: list[tuple[int, list[int]]] = [(start, list(blocks[start].next))]
    while stack:
        here, rest = stack[-1]
        if not rest:
            stack.pop()
            order.append(here)
            continue
        following = rest.pop(0)
        if following not in seen:
            seen.add(following)
            stack.append((following, list(blocks[following].next)))
    return {slot: blocks[slot] for slot in reversed(order)}


def _liveness(
    slots: Slots,
    blocks: dict[int, Block],
    arguments: Mapping[int, int],
    entries: Mapping[int, int],
) -> set[int]:
    """Backwards until nothing changes; `address` rides along. Returns `Graph.addresses`."""
    backwards = list(reversed(blocks.values()))
    steps = {block.start: _steps(slots, block, arguments, entries) for block in backwards}
    changed = True
    results: set[int] = set()
    while changed:
        changed = False
        for block in backwards:
            live = address = 0
            for following in block.next:
                after = blocks[following]
                live |= after.live
                address |= after.address
            for slot, kill, use, base, move, keep in steps[block.start]:
                live = live & ~kill | use
                if address & kill:
                    if move:
                        address = address & ~kill | move
                    elif not keep:
                        results.add(slot)
                        address &= ~kill
                address |= base
            if live != block.live or address != block.address:
                block.live, block.address = live, address
                changed = True
    return results


def _steps(
    slots: Slots, block: Block, arguments: Mapping[int, int], entries: Mapping[int, int]
) -> list[tuple[int, int, int, int, int, bool]]:
    """Last instruction first: (slot, written, read, used as address, copied from, address stays address)."""
    found: list[tuple[int, int, int, int, int, bool]] = []
    slot = block.start
    while slot <= block.last:
        one = slots[slot]
        assert one is not None
        if one.opcode == op.CALL_IMM:
            if one.src == op.CALL_LOCAL:
                used = entries.get(slot + 1 + one.imm, 0b111110) & 0b111110
            else:
                used = (2 << arguments.get(one.imm, 5)) - 2
            found.append((slot, _GONE, used, 0, 0, False))
        else:
            found.append((slot, *_step(one)))
        slot += one.slots
    found.reverse()
    return found


def _step(one: Instruction) -> tuple[int, int, int, int, bool]:
    kind, opcode = one.opcode & 7, one.opcode
    dst, src = 1 << one.dst, 1 << one.src
    if kind == op.ALU64 or kind == op.ALU:
        register = opcode & op.X
        operation = opcode & 0xF0
        if operation == op.MOV:
            plain = register and kind == op.ALU64 and not one.offset
            return dst, src if register else 0, 0, src if plain else 0, False
        if operation in (op.NEG, op.END) or not register:
            return dst, dst, 0, 0, operation in (op.ADD, op.SUB)
        return dst, dst | src, 0, 0, operation in (op.ADD, op.SUB)
    if kind == op.LDX:
        return dst, src, src, 0, False
    if kind == op.ST:
        return 0, dst, dst, 0, False
    if kind == op.STX:
        if opcode & 0xE0 == op.ATOMIC:
            if one.imm == op.LOAD_ACQ:
                return dst, src, src, 0, False
            if one.imm == op.CMPXCHG:
                return 1, dst | src | 1, dst, 0, False
            if one.imm & op.FETCH:
                return src, dst | src, dst, 0, False
        return 0, dst | src, dst, 0, False
    if kind == op.LD:
        if opcode == op.LD_IMM64:
            return dst, 0, 0, 0, False
        index = src if opcode & 0xE0 == op.IND else 0
        return _GONE, index | 1 << 6, 1 << 6, 0, False
    if opcode == op.EXIT_OP:
        return 0, 1, 0, 0, False
    if opcode == op.CALLX:
        return _GONE, 0b111110 | dst, 0, 0, False
    if opcode in (op.GOTO, op.GOTOL, op.MAY_GOTO):
        return 0, 0, 0, 0, False
    return 0, dst | (src if opcode & op.X else 0), 0, 0, False
