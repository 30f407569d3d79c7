"""Arithmetic instructions (RFC 9669 section 4.1, 4.2): no operand is undefined behaviour, as the RFC says."""

from __future__ import annotations

from typing import Final

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit.body import Body, Value, constant

__all__ = ("arithmetic",)

_PLAIN: Final = {
    op.ADD: "add",
    op.SUB: "sub",
    op.MUL: "mul",
    op.OR: "or",
    op.AND: "and",
    op.XOR: "xor",
}
_SHIFTS: Final = {op.LSH: "shl", op.RSH: "lshr", op.ARSH: "ashr"}


def arithmetic(body: Body, one: Instruction) -> None:
    """Classes ALU and ALU64."""
    operation = one.opcode & 0xF0
    if operation == op.MOV:
        _move(body, one)
    elif operation == op.END:
        _swap(body, one)
    elif one.opcode & 7 == op.ALU64:
        if operation in (op.ADD, op.SUB) and _on_address(body, one, operation):
            return
        body.set_number(one.dst, _compute(body, one, operation, 64))
    else:
        body.set_word(one.dst, _compute(body, one, operation, 32))


def _move(body: Body, one: Instruction) -> None:
    wide = one.opcode & 7 == op.ALU64
    if not one.opcode & op.X:
        body.state[one.dst] = constant(one.imm if wide else one.imm & 0xFFFFFFFF)
    elif one.offset:
        small = body.new(f"trunc i64 {body.number(one.src)} to i{one.offset}")
        if wide:
            body.set_number(one.dst, body.new(f"sext i{one.offset} {small} to i64"))
        else:
            body.set_word(one.dst, body.new(f"sext i{one.offset} {small} to i32"))
    elif wide:
        body.state[one.dst] = body.state[one.src]
    else:
        word = body.word(one.src)
        if word[0] == "%":
            body.set_word(one.dst, word)
        else:
            body.state[one.dst] = constant(int(word) & 0xFFFFFFFF)


def _swap(body: Body, one: Instruction) -> None:
    """Section 4.2. The host is little endian, so `le` only truncates."""
    bits = one.imm
    wide = body.number(one.dst)
    small = wide if bits == 64 else body.new(f"trunc i64 {wide} to i{bits}")
    if one.opcode & 7 == op.ALU64 or one.opcode & op.X:
        small = body.new(f"call i{bits} @llvm.bswap.i{bits}(i{bits} {small})")
    if bits == 32:
        body.set_word(one.dst, small)
    else:
        body.set_number(one.dst, small if bits == 64 else body.new(f"zext i{bits} {small} to i64"))


def _on_address(body: Body, one: Instruction, operation: int) -> bool:
    """An address plus or minus a number stays an address. False: neither operand is one."""
    dst, src = one.dst, one.src
    register = bool(one.opcode & op.X)
    if not register:
        value = body.state[dst]
        amount = one.imm if operation == op.ADD else -one.imm
        if value.stack >= 0 and 0 <= value.stack + amount <= 512:
            body.state[dst] = Value(stack=value.stack + amount)
            return True
        if not body.is_address(dst):
            return False
        body.set_address(dst, body.new(f"getelementptr i8, ptr {body.address(dst)}, i64 {amount}"))
        return True
    if body.is_address(dst):
        if operation == op.SUB:
            if body.is_address(src):
                return False
            amount_name = body.new(f"sub i64 0, {body.number(src)}")
        else:
            amount_name = body.number(src)
        base = dst
    elif operation == op.ADD and body.is_address(src):
        base, amount_name = src, body.number(dst)
    else:
        return False
    body.set_address(
        dst, body.new(f"getelementptr i8, ptr {body.address(base)}, i64 {amount_name}")
    )
    return True


def _compute(body: Body, one: Instruction, operation: int, bits: int) -> str:
    """Section 4.1, on i64 or i32."""
    read = body.number if bits == 64 else body.word
    left = read(one.dst)
    if operation == op.NEG:
        return body.new(f"sub i{bits} 0, {left}")
    if operation in (op.DIV, op.MOD):
        return _divide(body, one, operation, bits, left)
    right = read(one.src) if one.opcode & op.X else str(one.imm)
    if operation in _SHIFTS:
        if not one.opcode & op.X:
            right = str(one.imm & bits - 1)
        elif right[0] != "%":
            right = str(int(right) & bits - 1)
        else:
            right = body.new(f"and i{bits} {right}, {bits - 1}")
        return body.new(f"{_SHIFTS[operation]} i{bits} {left}, {right}")
    return body.new(f"{_PLAIN[operation]} i{bits} {left}, {right}")


def _divide(body: Body, one: Instruction, operation: int, bits: int, left: str) -> str:
    """x / 0 = 0, x % 0 = x; the smallest number / -1 = itself, % -1 = 0."""
    signed = one.offset == 1
    modulo = operation == op.MOD
    name = ("s" if signed else "u") + ("rem" if modulo else "div")
    kind = f"i{bits}"
    if not one.opcode & op.X:
        if one.imm == 0:
            return left if modulo else "0"
        if signed and one.imm == -1:
            return "0" if modulo else body.new(f"sub {kind} 0, {left}")
        return body.new(f"{name} {kind} {left}, {one.imm}")
    right = body.number(one.src) if bits == 64 else body.word(one.src)
    zero = body.new(f"icmp eq {kind} {right}, 0")
    if not signed:
        safe = body.new(f"select i1 {zero}, {kind} 1, {kind} {right}")
        result = body.new(f"{name} {kind} {left}, {safe}")
        other = left if modulo else "0"
        return body.new(f"select i1 {zero}, {kind} {other}, {kind} {result}")
    minus = body.new(f"icmp eq {kind} {right}, -1")
    special = body.new(f"or i1 {zero}, {minus}")
    safe = body.new(f"select i1 {special}, {kind} 1, {kind} {right}")
    result = body.new(f"{name} {kind} {left}, {safe}")
    if modulo:
        return body.new(f"select i1 {zero}, {kind} {left}, {kind} {result}")
    negative = body.new(f"sub {kind} 0, {left}")
    result = body.new(f"select i1 {minus}, {kind} {negative}, {kind} {result}")
    return body.new(f"select i1 {zero}, {kind} 0, {kind} {result}")
