"""A program as the verifier sees it: instructions by slot, functions, jumps, which registers are still read where."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

from workbench.objects.linked import Function, Line, LinkedProgram
from workbench.runtime.isa import BadInstruction, Instruction, check_targets, decode_slots
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier.reject import Reject

__all__ = ("Code", "Part", "prepare")

MAX_SLOTS: Final = 1_000_000
MAX_FRAMES: Final = 8
_CALLER_SAVED: Final = 0b111110


@dataclass(slots=True)
class Part:
    """One function: its first slot and the slot behind its last."""

    start: int
    end: int
    name: str
    type: int = 0
    is_global: bool = False


@dataclass(slots=True)
class Code:
    """Instructions by slot (None = second half), and what is known of them before any path is walked.

    Attributes
    ----------
    live : list of int
        Bit r set: register r may be read at or after this slot before it is written.
    heads : set of int
        Targets of backward jumps.
    joins : set of int
        Slots where states are kept and compared.
    back : set of int
        Slots of backward jumps.
    changed_by : list of int
        Registers for which an instruction matters when a number is followed back over it.
    """

    slots: list[Instruction | None]
    parts: list[Part]
    lines: tuple[Line, ...]
    live: list[int] = field(default_factory=list)
    heads: set[int] = field(default_factory=set)
    joins: set[int] = field(default_factory=set)
    back: set[int] = field(default_factory=set)
    successors: list[tuple[int, ...]] = field(default_factory=list)
    predecessors: list[list[int]] = field(default_factory=list)
    changed_by: list[int] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _line_starts: list[int] = field(default_factory=list)

    def part(self, slot: int) -> Part:
        """The function that a slot belongs to."""
        return self.parts[bisect_right(self._starts, slot) - 1]

    def line(self, slot: int) -> Line | None:
        """Source line of a slot."""
        at = bisect_right(self._line_starts, slot) - 1
        return self.lines[at] if at >= 0 else None

    def next(self, slot: int) -> int:
        """Slot of the instruction behind it."""
        one = self.slots[slot]
        return slot + (2 if one is not None and one.opcode == op.LD_IMM64 else 1)


def prepare(program: LinkedProgram) -> Code:
    """Decode and check what needs no path: fields, jump targets, functions that end, no recursion, no dead code.

    Raises
    ------
    Reject
        Names the slot.
    """
    if not program.code:
        raise Reject("the program has no instructions", slot=0)
    if len(program.code) // 8 > MAX_SLOTS:
        raise Reject(f"more than {MAX_SLOTS:,} instructions", slot=0)
    try:
        slots = decode_slots(program.code)
        check_targets(slots)
    except BadInstruction as error:
        raise Reject(error.reason, hint=error.hint, slot=error.slot) from error
    code = Code(slots, _parts(slots, program), program.lines)
    code._starts = [part.start for part in code.parts]
    code._line_starts = [line.instruction for line in program.lines]
    _flow(code)
    _reachable(code)
    _no_recursion(code)
    _liveness(code)
    return code


def _parts(slots: list[Instruction | None], program: LinkedProgram) -> list[Part]:
    """Functions as declared and as called."""
    declared = {f.start: f for f in program.functions}
    starts = {0, *declared}
    for slot, one in enumerate(slots):
        if one is None:
            continue
        if (one.opcode == op.CALL_IMM and one.src == op.CALL_LOCAL) or (
            one.opcode == op.LD_IMM64 and one.src == op.PSEUDO_FUNC
        ):
            starts.add(one.target(slot))
    if any(not 0 <= start < len(slots) for start in starts):
        raise Reject("a function begins outside the program", slot=0)
    ordered = sorted(starts)
    unknown = Function("", 0, 0)
    return [
        Part(
            start,
            end,
            declared.get(start, unknown).name
            or (program.name if not start else f"function at {start}"),
            declared.get(start, unknown).type,
            declared.get(start, unknown).is_global,
        )
        for start, end in zip(ordered, [*ordered[1:], len(slots)], strict=True)
    ]


def _flow(code: Code) -> None:
    """Successors within functions; backward jumps and where states meet."""
    n = len(code.slots)
    code.successors = [()] * n
    code.predecessors = [[] for _ in range(n)]
    for part in code.parts:
        for slot in range(part.start, part.end):
            one = code.slots[slot]
            if one is None:
                continue
            following: list[int] = []
            behind = code.next(slot)
            if one.falls_through:
                following.append(behind)
            if one.is_jump:
                target = one.target(slot)
                following.append(target)
                if target <= slot:
                    code.back.add(slot)
                    code.heads.add(target)
                code.joins.add(target)
                if one.falls_through:
                    code.joins.add(behind)
            elif one.opcode == op.CALL_IMM and one.src == op.CALL_LOCAL:
                code.joins.add(behind)
            if one.opcode == op.MAY_GOTO:
                code.joins.add(slot)
            for to in following:
                if not part.start <= to < part.end:
                    what = "jumps" if one.is_jump and to != behind else "falls"
                    raise Reject(
                        f"{what} out of the function {part.name}",
                        hint="every path of a function ends with exit or a jump within it",
                        slot=slot,
                    )
            code.successors[slot] = tuple(dict.fromkeys(following))
            for to in code.successors[slot]:
                code.predecessors[to].append(slot)


def _reachable(code: Code) -> None:
    """The kernel refuses instructions that no path reaches (check_cfg)."""
    for part in code.parts:
        seen = {part.start}
        todo = [part.start]
        while todo:
            for to in code.successors[todo.pop()]:
                if to not in seen:
                    seen.add(to)
                    todo.append(to)
        for slot in range(part.start, part.end):
            if code.slots[slot] is not None and slot not in seen:
                raise Reject("no path reaches this instruction", hint="remove it", slot=slot)


def _no_recursion(code: Code) -> None:
    """A function that calls itself could overflow the stack."""
    calls: dict[int, list[tuple[int, int]]] = {part.start: [] for part in code.parts}
    for part in code.parts:
        for slot in range(part.start, part.end):
            one = code.slots[slot]
            if one is not None and not one.is_jump and (target := one.target(slot)) >= 0:
                calls[part.start].append((slot, target))
    done: set[int] = set()
    for root in calls:
        if root in done:
            continue
        path = [root]
        pending = [iter(calls[root])]
        while path:
            found = next(pending[-1], None)
            if found is None:
                done.add(path.pop())
                pending.pop()
                continue
            slot, target = found
            if target in path:
                raise Reject(
                    "a function calls itself, directly or through others",
                    hint="write it as a loop with its own stack in a map",
                    slot=slot,
                )
            if target not in done:
                path.append(target)
                pending.append(iter(calls[target]))


def _uses(one: Instruction, slot: int) -> tuple[int, int]:
    """Masks of the registers that an instruction reads and writes."""
    kind, dst, src = one.kind, 1 << one.dst, 1 << one.src
    if kind in (op.ALU, op.ALU64):
        if one.operation == op.MOV:
            return (src if one.from_register else 0), dst
        if one.operation == op.END or one.operation == op.NEG:
            return dst, dst
        return dst | (src if one.from_register else 0), dst
    if kind in (op.JMP, op.JMP32):
        if one.opcode == op.EXIT_OP:
            return 1, 0
        if one.opcode == op.CALL_IMM:
            return _CALLER_SAVED, _CALLER_SAVED | 1
        if one.opcode == op.CALLX:
            return dst | _CALLER_SAVED, _CALLER_SAVED | 1
        if one.operation in (op.JA, op.JCOND):
            return 0, 0
        return dst | (src if one.from_register else 0), 0
    if kind == op.LD:
        if one.opcode == op.LD_IMM64:
            return 0, dst
        return (1 << 6) | (src if one.mode == op.IND else 0), _CALLER_SAVED | 1
    if kind == op.LDX:
        return src, dst
    if kind == op.ST:
        return dst, 0
    if one.mode != op.ATOMIC:
        return dst | src, 0
    if one.imm == op.LOAD_ACQ:
        return src, dst
    if one.imm == op.CMPXCHG:
        return dst | src | 1, 1
    return dst | src, src if one.imm & op.FETCH and one.imm != op.STORE_REL else 0


def _liveness(code: Code) -> None:
    """Backward data flow over registers; a call reads r1 to r5, exit reads r0."""
    n = len(code.slots)
    uses = [(0, 0) if one is None else _uses(one, slot) for slot, one in enumerate(code.slots)]
    for slot, one in enumerate(code.slots):
        read, written = uses[slot]
        compared = one is not None and one.is_jump and one.from_register
        code.changed_by.append(read if compared else written)
    live = [0] * n
    todo = list(range(n))
    queued = [True] * n
    while todo:
        slot = todo.pop()
        queued[slot] = False
        if code.slots[slot] is None:
            continue
        after = 0
        for to in code.successors[slot]:
            after |= live[to]
        read, written = uses[slot]
        now = read | (after & ~written)
        if now != live[slot]:
            live[slot] = now
            for before in code.predecessors[slot]:
                if not queued[before]:
                    queued[before] = True
                    todo.append(before)
    code.live = live
