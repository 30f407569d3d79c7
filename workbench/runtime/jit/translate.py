"""BPF code to LLVM IR text: one internal function per BPF function, `program(ctx, run)` for the main one.

Values go straight into SSA form: a block with one predecessor inherits its registers, other blocks get a phi for each
register that is live there. The text needs no pass before it is compiled, which is what makes the quick tier quick.
"""

from __future__ import annotations

from typing import Final

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit.arithmetic import arithmetic
from workbench.runtime.jit.body import ZERO, Body, Exit, Value
from workbench.runtime.jit.calls import call, call_register
from workbench.runtime.jit.flow import Block
from workbench.runtime.jit.layout import RUN_BYTES, STOP_BUDGET
from workbench.runtime.jit.llvm import ENTRY
from workbench.runtime.jit.memory import atomic, immediate, load, packet_load, store
from workbench.runtime.jit.shape import ADDRESS, shapes
from workbench.runtime.jit.unit import Unit

__all__ = ("translate",)

_JUMPS: Final = {
    op.JEQ: "eq",
    op.JNE: "ne",
    op.JGT: "ugt",
    op.JGE: "uge",
    op.JLT: "ult",
    op.JLE: "ule",
    op.JSGT: "sgt",
    op.JSGE: "sge",
    op.JSLT: "slt",
    op.JSLE: "sle",
}
_RUN: Final = f"ptr noalias writable dereferenceable({RUN_BYTES}) %run"
_TAIL: Final = """
declare i16 @llvm.bswap.i16(i16)
declare i32 @llvm.bswap.i32(i32)
declare i64 @llvm.bswap.i64(i64)
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.usub.sat.i64(i64, i64)
attributes #0 = { nounwind "no-builtins" }
attributes #1 = { nounwind noinline "no-builtins" }
!0 = !{}
!1 = !{!"branch_weights", i32 1, i32 4000}
!2 = !{!"branch_weights", i32 4000, i32 1}
"""


def translate(unit: Unit, arguments: dict[int, int]) -> str:
    """The module's text, without target triple.

    Parameters
    ----------
    unit : Unit
    arguments : dict of int to int
        Registers that each helper reads.
    """
    parts = [_function(unit, start, arguments) for start in unit.graphs]
    parts += [_callback(unit, start) for start in sorted(unit.callbacks)]
    return "\n".join([*unit.globals, *parts, *unit.inlined.values(), _TAIL])


def _function(unit: Unit, start: int, arguments: dict[int, int]) -> str:
    graph = unit.graphs[start]
    body = Body(unit, graph)
    shaped = shapes(unit.slots, graph, unit.shapes)
    exits: dict[int, Exit] = {}
    phis: dict[int, dict[int, str]] = {}
    for slot, block in graph.blocks.items():
        body.lines = []
        body.label = f"s{slot}"
        if slot == start and not block.before:
            body.state = _entry_state(body, start)
        elif len(block.before) == 1 and slot != start:
            body.state = list(exits[block.before[0]].state)
        else:
            body.state, phis[slot] = _phi_state(block, shaped[slot])
        exits[slot] = _block(body, block, arguments)
    return _assemble(body, exits, phis, shaped)


def _entry_state(body: Body, start: int) -> list[Value]:
    """r1 to r5 as they come in, the frame pointer."""
    state = [ZERO] * 11
    state[10] = Value(stack=512)
    if start == 0:
        state[1] = Value(address="%ctx")
        if body.unit.options.raw:
            length = body.new(f"load i64, ptr {body.field_address('registers')}")
            state[2] = Value(length)
        return state
    for register, is_address in enumerate(body.unit.parameters[start], 1):
        name = f"%r{register}"
        state[register] = Value(address=name) if is_address else Value(name)
    return state


def _phi_state(block: Block, shaped: list[int]) -> tuple[list[Value], dict[int, str]]:
    state = [ZERO] * 11
    state[10] = Value(stack=512)
    phis: dict[int, str] = {}
    for register in range(10):
        if block.live >> register & 1:
            name = phis[register] = f"%p{block.start}_{register}"
            state[register] = Value(address=name) if shaped[register] == ADDRESS else Value(name)
    return state, phis


def _block(body: Body, block: Block, arguments: dict[int, int]) -> Exit:
    slots = body.unit.slots
    slot = block.start
    while True:
        one = slots[slot]
        assert one is not None
        if slot == block.last:
            break
        _instruction(body, one, slot, arguments)
        slot += one.slots
    targets = tuple(block.next)
    condition = ""
    if one.opcode == op.EXIT_OP:
        body.store_budget()
        body.emit(f"ret i64 {body.number(0)}")
        targets = ()
    elif one.opcode == op.MAY_GOTO:
        condition = _may_goto(body) if len(targets) == 2 else ""
    elif one.is_jump:
        if len(targets) == 2:
            condition = _condition(body, one)
    else:
        _instruction(body, one, slot, arguments)
    return Exit(body.label, body.lines, body.state, slot, targets, condition)


def _instruction(body: Body, one: Instruction, slot: int, arguments: dict[int, int]) -> None:
    kind = one.opcode & 7
    if kind == op.ALU64 or kind == op.ALU:
        arithmetic(body, one)
    elif kind == op.LDX:
        load(body, one, slot)
    elif kind == op.STX and one.opcode & 0xE0 == op.ATOMIC:
        atomic(body, one, slot)
    elif kind == op.ST or kind == op.STX:
        store(body, one)
    elif one.opcode == op.LD_IMM64:
        immediate(body, one, slot)
    elif one.opcode == op.CALL_IMM:
        call(body, one, slot, arguments.get(one.imm, 5))
    elif one.opcode == op.CALLX:
        call_register(body, one, slot)
    else:
        packet_load(body, one)


def _may_goto(body: Body) -> str:
    """include/uapi/linux/bpf.h BPF_JCOND: jumps when the loop budget is used up, which does not end the program."""
    left = body.new("load i64, ptr %left")
    rest = body.new(f"call i64 @llvm.usub.sat.i64(i64 {left}, i64 1)")
    body.emit(f"store i64 {rest}, ptr %left")
    return body.new(f"icmp eq i64 {left}, 0")


def _condition(body: Body, one: Instruction) -> str:
    """Section 4.3: an i1 operand."""
    operation = one.opcode & 0xF0
    wide = one.opcode & 7 == op.JMP
    register = bool(one.opcode & op.X)
    kind = "i64" if wide else "i32"
    read = body.number if wide else body.word
    if operation == op.JSET:
        right = read(one.src) if register else str(one.imm)
        both = body.new(f"and {kind} {read(one.dst)}, {right}")
        return body.new(f"icmp ne {kind} {both}, 0")
    if wide and body.is_address(one.dst):
        if register and body.is_address(one.src):
            other = body.address(one.src)
            return body.new(f"icmp {_JUMPS[operation]} ptr {body.address(one.dst)}, {other}")
        zero = body.state[one.src].number == "0" if register else one.imm == 0
        if zero and operation in (op.JEQ, op.JNE):
            return body.new(f"icmp {_JUMPS[operation]} ptr {body.address(one.dst)}, null")
    left = read(one.dst)
    right = read(one.src) if register else str(one.imm)
    return body.new(f"icmp {_JUMPS[operation]} {kind} {left}, {right}")


def _assemble(
    body: Body,
    exits: dict[int, Exit],
    phis: dict[int, dict[int, str]],
    shaped: dict[int, list[int]],
) -> str:
    """Join the blocks: convert on edges, add phis and jumps."""
    unit, graph, start = body.unit, body.graph, body.graph.start
    incoming: dict[int, list[tuple[str, dict[int, str]]]] = {slot: [] for slot in phis}
    tails: dict[int, list[str]] = {}
    for slot, exit_ in exits.items():
        if not exit_.targets:
            continue
        body.lines, body.state, body.label = exit_.lines, exit_.state, exit_.label
        operands: dict[int, dict[int, str]] = {}
        for target in exit_.targets:
            operands[target] = {
                register: body.shaped(register, shaped[target][register])
                for register in phis.get(target, ())
            }
        labels: dict[int, str] = {}
        edges: list[str] = []
        for target in exit_.targets:
            if unit.counts(exit_.slot, target):
                label = f"e{slot}_{target}"
                kept, body.lines = body.lines, [f"{label}:"]
                body.label = label
                body.spend()
                body.emit(f"br label %s{target}")
                edges += body.lines
                body.lines = kept
                came = body.label
            else:
                label, came = f"s{target}", exit_.label
            labels[target] = label
            if target in incoming:
                incoming[target].append((came, operands[target]))
        if exit_.condition:
            yes, no = (labels[target] for target in exit_.targets)
            jump = f"br i1 {exit_.condition}, label %{yes}, label %{no}"
        else:
            jump = f"br label %{labels[exit_.targets[0]]}"
        tails[slot] = [jump, *edges]
    lines: list[str] = []
    first = "entry" if start in phis else f"s{start}"
    lines.append(f"{first}:")
    if body.uses_stack:
        lines.append("%stack = alloca [512 x i8], align 16")
    if body.uses_buffer:
        lines.append("%buffer = alloca i64")
    if body.counting:
        lines.append("%left = alloca i64")
        body.lines = lines
        body.fetch_budget()
    if start in phis:
        body.lines, body.label = lines, "entry"
        body.state = _entry_state(body, start)
        begin = {r: body.shaped(r, shaped[start][r]) for r in phis[start]}
        incoming[start].append(("entry", begin))
        lines.append(f"br label %s{start}")
    for slot in graph.blocks:
        if slot != start or start in phis:
            lines.append(f"s{slot}:")
        for register, name in phis.get(slot, {}).items():
            kind = "ptr" if shaped[slot][register] == ADDRESS else "i64"
            pairs = ", ".join(f"[{values[register]}, %{came}]" for came, values in incoming[slot])
            lines.append(f"{name} = phi {kind} {pairs}")
        lines += exits[slot].lines
        lines += tails.get(slot, ())
    if body.uses_stop:
        lines.append("stop:")
        lines.append("%stop.place = getelementptr i8, ptr %run, i64 64")
        lines.append(f"store i32 {STOP_BUDGET}, ptr %stop.place")
        lines.append("%stop.left = getelementptr i8, ptr %run, i64 16")
        lines.append("store i64 0, ptr %stop.left")
        lines.append(f"ret i64 {body.stop_value}")
    if body.uses_stopped:
        lines += ["stopped:", f"ret i64 {body.stop_value}"]
    if start == 0:
        head = f"define i64 @{ENTRY}(ptr %ctx, {_RUN})"
    else:
        typed = (
            f"{'ptr' if is_address else 'i64'} %r{register}"
            for register, is_address in enumerate(unit.parameters[start], 1)
        )
        head = f"define internal i64 @function_{start}({', '.join(typed)}, {_RUN})"
    return "\n".join([f"{head} #0 {{", *lines, "}"])


def _callback(unit: Unit, start: int) -> str:
    """What a helper calls: one round of the budget, then the function."""
    operands = ", ".join(
        f"{'ptr' if is_address else 'i64'} %r{register}"
        for register, is_address in enumerate(unit.parameters[start], 1)
    )
    return f"""define internal i64 @callback_{start}({operands}, ptr %run) #1 {{
  %place = getelementptr i8, ptr %run, i64 16
  %left = load i64, ptr %place
  %none = icmp eq i64 %left, 0
  br i1 %none, label %stop, label %go, !prof !1
go:
  %less = add i64 %left, -1
  store i64 %less, ptr %place
  %result = call i64 @function_{start}({operands}, ptr %run)
  ret i64 %result
stop:
  %flag = getelementptr i8, ptr %run, i64 64
  store i32 {STOP_BUDGET}, ptr %flag
  ret i64 1
}}"""
