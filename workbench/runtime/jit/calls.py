"""Calls: functions of the program, helpers through the run's table, and those that need the compiler's hand.

`bpf_tail_call` does not return, `bpf_loop` becomes a loop that LLVM can see into, lookups in arrays become address
computation.
"""

from __future__ import annotations

from workbench.errors import MissingCapability
from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit.bitcode import HELPERS as HELPER_BITCODE
from workbench.runtime.jit.body import INVARIANT, ZERO, Body
from workbench.runtime.jit.layout import HELPERS, MAX_LOOPS
from workbench.runtime.jit.lookup import lookup, update
from workbench.runtime.jit.shape import ADDRESS, loaded_shape
from workbench.runtime.jit.unit import CALLBACK_HELPERS, LOOP, TAIL_CALL

__all__ = ("call", "call_register")

_EINVAL, _E2BIG = 22, 7
_FREE_ROUNDS = (
    4096  # a bpf_loop of at most so many rounds whose callback cannot stop is not counted
)


def call(body: Body, one: Instruction, slot: int, arguments: int) -> None:
    """Opcode CALL; `arguments` registers are read by a helper."""
    if one.src == op.CALL_KFUNC:
        raise MissingCapability(
            f"the instruction at slot {slot} calls a kernel function, which user space does not have",
            "load the object with backend='kernel'",
        )
    if one.src == op.CALL_LOCAL:
        _function(body, slot + 1 + one.imm)
    elif one.imm == TAIL_CALL:
        _tail_call(body)
    elif one.imm == LOOP and body.state[2].function >= 0:
        _loop(body, body.state[2].function)
    else:
        as_address = loaded_shape(body.graph, slot, 0, body.unit.shapes) == ADDRESS
        if not lookup(body, one.imm) and not update(body, one.imm):
            _helper(body, one.imm, arguments, as_address)
    for register in range(1, 6):
        body.state[register] = ZERO


def call_register(body: Body, one: Instruction, slot: int) -> None:
    """Opcode CALLX: a function of the program, or a helper by its number."""
    target = body.state[one.dst].function
    if target >= 0:
        _function(body, target)
    else:
        _numbered(body, one.dst)
    for register in range(1, 6):
        body.state[register] = ZERO


def _function(body: Body, start: int) -> None:
    parameters = body.unit.parameters[start]
    live = body.unit.graphs[start].blocks[start].live
    operands = []
    for register, as_address in enumerate(parameters, 1):
        if live >> register & 1:
            operands.append(body.passed(register, as_address=as_address))
        else:
            operands.append("ptr undef" if as_address else "i64 undef")
    stopping = start in body.unit.stopping
    if stopping:
        body.store_budget()
    result = body.new(f"call i64 @function_{start}({', '.join(operands)}, ptr %run)")
    if stopping:
        body.check_stopped()
        body.fetch_budget()
    body.set_number(0, result)


def helper_address(body: Body, number: int) -> str:
    """Entry of the run's table of helpers."""
    table = body.new(f"load ptr, ptr {body.field_address('helpers')}{INVARIANT}")
    place = body.new(f"getelementptr i8, ptr {table}, i64 {8 * number}")
    return body.new(f"load ptr, ptr {place}{INVARIANT}")


def _helper(body: Body, number: int, arguments: int, as_address: bool) -> None:
    operands = [body.passed(register, as_address=False) for register in range(1, arguments + 1)]
    operands += ["i64 undef"] * (5 - arguments)
    function = HELPER_BITCODE.get(number)
    if body.unit.inline(function, "declare i64 {}(ptr, i64, i64, i64, i64, i64)") and function:
        kind, helper = "i64", f"@{function.name}"
        as_address = False
    else:
        kind, helper = "ptr" if as_address else "i64", helper_address(body, number)
    if number in CALLBACK_HELPERS:
        body.store_budget()
    result = body.new(f"call {kind} {helper}(ptr %run, {', '.join(operands)})")
    if number in CALLBACK_HELPERS:
        body.check_stopped()
        body.fetch_budget()
    if as_address:
        body.set_address(0, result)
    else:
        body.set_number(0, result)


def _numbered(body: Body, register: int) -> None:
    """A helper whose number is known at run time only; a number that is no helper gives 0."""
    number = body.number(register)
    body.store_budget()
    operands = ", ".join(body.passed(r, as_address=False) for r in range(1, 6))
    known, call_it, done = body.fresh(), body.fresh(), body.fresh()
    table = body.new(f"load ptr, ptr {body.field_address('helpers')}{INVARIANT}")
    test = body.new(f"icmp ult i64 {number}, {HELPERS}")
    before = body.label
    body.emit(f"br i1 {test}, label %{known}, label %{done}")
    body.begin(known)
    place = body.new(f"getelementptr ptr, ptr {table}, i64 {number}")
    helper = body.new(f"load ptr, ptr {place}")
    test = body.new(f"icmp eq ptr {helper}, null")
    body.emit(f"br i1 {test}, label %{done}, label %{call_it}")
    body.begin(call_it)
    result = body.new(f"call i64 {helper}(ptr %run, {operands})")
    body.emit(f"br label %{done}")
    body.begin(done)
    body.set_number(0, body.new(f"phi i64 [0, %{before}], [0, %{known}], [{result}, %{call_it}]"))
    body.check_stopped()
    body.fetch_budget()


def _tail_call(body: Body) -> None:
    """kernel/bpf/core.c JMP_TAIL_CALL: with no such program, or after 33 of them, the call does nothing.

    The helper makes the run the target's and returns its entry, or 0. A subprogram's tail call returns to its caller.
    """
    operands = [body.passed(register, as_address=False) for register in (1, 2, 3)]
    context = body.address(1)
    body.store_budget()
    own = body.new("load ptr, ptr %run")
    program_place = body.field_address("program")
    program = body.new(f"load ptr, ptr {program_place}")
    helper = helper_address(body, TAIL_CALL)
    entry = body.new(f"call ptr {helper}(ptr %run, {', '.join(operands)}, i64 undef, i64 undef)")
    take, fail = body.fresh(), body.fresh()
    test = body.new(f"icmp eq ptr {entry}, null")
    body.emit(f"br i1 {test}, label %{fail}, label %{take}")
    body.begin(take)
    result = body.new(f"call i64 {entry}(ptr {context}, ptr %run)")
    body.emit(f"store ptr {own}, ptr %run")
    body.emit(f"store ptr {program}, ptr {program_place}")
    body.emit(f"ret i64 {result}")
    body.begin(fail)
    body.state[0] = ZERO


def _loop(body: Body, start: int) -> None:
    """bpf_loop(rounds, callback, context, flags): kernel/bpf/bpf_iter.c, counted against the budget in one go."""
    rounds_word = body.word(1)
    flags = body.number(4)
    rounds = body.new(f"zext i32 {rounds_word} to i64")
    context = body.passed(3, as_address=body.unit.parameters[start][1])
    free = (
        rounds_word[0] != "%"
        and 0 <= int(rounds_word) <= _FREE_ROUNDS
        and start not in body.unit.stopping
    )
    body.store_budget()
    bad = body.new(f"icmp ne i64 {flags}, 0")
    many = body.new(f"icmp ugt i64 {rounds}, {MAX_LOOPS}")
    wrong = body.new(f"or i1 {bad}, {many}")
    code = body.new(f"select i1 {bad}, i64 -{_EINVAL}, i64 -{_E2BIG}")
    begin, head, after, done = body.fresh(), body.fresh(), body.fresh(), body.fresh()
    refused = body.label
    body.emit(f"br i1 {wrong}, label %{done}, label %{begin}")
    body.begin(begin)
    limit, left, place = rounds, "", ""
    if not free:
        place = body.field_address("budget")
        left = body.new(f"load i64, ptr {place}")
        limit = body.new(f"call i64 @llvm.umin.i64(i64 {rounds}, i64 {left})")
    none = body.new(f"icmp eq i64 {limit}, 0")
    body.emit(f"br i1 {none}, label %{after}, label %{head}")
    body.begin(head)
    body.names += 1
    index, following = f"%i{body.names}", f"%j{body.names}"
    phi = len(body.lines)
    body.emit("")
    first = f"i64 {index}"
    if body.unit.parameters[start][0]:
        first = f"ptr {body.new(f'inttoptr i64 {index} to ptr')}"
    others = [
        "ptr undef" if pointer else "i64 undef" for pointer in body.unit.parameters[start][2:]
    ]
    result = body.new(
        f"call i64 @function_{start}({', '.join([first, context, *others])}, ptr %run)"
    )
    if start in body.unit.stopping:
        body.check_stopped()
    body.emit(f"{following} = add nuw nsw i64 {index}, 1")
    again = body.new(f"icmp eq i64 {result}, 0")
    within = body.new(f"icmp ult i64 {following}, {limit}")
    both = body.new(f"select i1 {again}, i1 {within}, i1 false")
    latch = body.label
    body.emit(f"br i1 {both}, label %{head}, label %{after}")
    body.lines[phi] = f"{index} = phi i64 [0, %{begin}], [{following}, %{latch}]"
    body.begin(after)
    count = body.new(f"phi i64 [0, %{begin}], [{following}, %{latch}]")
    if not free:
        broke = body.new(f"phi i1 [true, %{begin}], [{again}, %{latch}]")
        now = body.new(f"load i64, ptr {place}")
        rest = body.new(f"call i64 @llvm.usub.sat.i64(i64 {now}, i64 {count})")
        body.emit(f"store i64 {rest}, ptr {place}")
        short = body.new(f"icmp ult i64 {limit}, {rounds}")
        reached = body.new(f"icmp eq i64 {count}, {limit}")
        stops = body.new(f"and i1 {short}, {reached}")
        stops = body.new(f"and i1 {stops}, {broke}")
        go = body.fresh()
        body.uses_stop = True
        body.emit(f"br i1 {stops}, label %stop, label %{go}, !prof !1")
        body.begin(go)
    last = body.label
    body.emit(f"br label %{done}")
    body.begin(done)
    body.set_number(0, body.new(f"phi i64 [{code}, %{refused}], [{count}, %{last}]"))
    body.fetch_budget()
