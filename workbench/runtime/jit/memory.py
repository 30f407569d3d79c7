"""Loads, stores, atomics and 64-bit immediates (RFC 9669 section 5)."""

from __future__ import annotations

from typing import Final

from workbench.errors import BadSpec, MissingCapability
from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.jit.body import INVARIANT, ZERO, Body, Value, constant
from workbench.runtime.jit.layout import MAP, PACKET
from workbench.runtime.jit.shape import ADDRESS, loaded_shape

__all__ = ("atomic", "immediate", "load", "map_address", "packet_load", "store")

_READ: Final = {op.ADD: "add", op.OR: "or", op.AND: "and", op.XOR: "xor", 0xE0: "xchg"}
_PROBE_READ: Final = 113  # bpf_probe_read_kernel
_BAKED: Final = 1 << 16  # bytes of a read-only section that may become part of the code


def load(body: Body, one: Instruction, slot: int) -> None:
    """Class LDX."""
    size, dst = one.size, one.dst
    bits = 8 * size
    faults = (slot, one.src) in body.unit.probed
    place = _probed(body, one) if faults else body.memory(one.src, one.offset)
    if one.mode == op.MEMSX:
        small = body.new(f"load i{bits}, ptr {place}, align 1")
        body.set_number(dst, body.new(f"sext i{bits} {small} to i64"))
    elif size == 8:
        if loaded_shape(body.graph, slot, dst, body.unit.shapes) == ADDRESS:
            body.set_address(dst, body.new(f"load ptr, ptr {place}, align 1"))
        else:
            body.set_number(dst, body.new(f"load i64, ptr {place}, align 1"))
    elif size == 4:
        body.set_word(dst, body.new(f"load i32, ptr {place}, align 1"))
    else:
        small = body.new(f"load i{bits}, ptr {place}, align 1")
        body.set_number(dst, body.new(f"zext i{bits} {small} to i64"))


def _probed(body: Body, one: Instruction) -> str:
    """Copy what may not be readable into the function's buffer, which is zeroed where it is not."""
    body.uses_buffer = True
    table = body.new(f"load ptr, ptr {body.field_address('helpers')}{INVARIANT}")
    place = body.new(f"getelementptr i8, ptr {table}, i64 {8 * _PROBE_READ}")
    helper = body.new(f"load ptr, ptr {place}{INVARIANT}")
    buffer = body.new("ptrtoint ptr %buffer to i64")
    base = body.new(f"add i64 {body.number(one.src)}, {one.offset}")
    body.new(f"call i64 {helper}(ptr %run, i64 {buffer}, i64 {one.size}, i64 {base}, i64 0, i64 0)")
    return "%buffer"


def store(body: Body, one: Instruction) -> None:
    """Classes ST and STX, but atomics."""
    bits = 8 * one.size
    place = body.memory(one.dst, one.offset)
    if one.opcode & 7 == op.ST:
        body.emit(f"store i{bits} {_fitted(one.imm, bits)}, ptr {place}, align 1")
    elif bits == 64:
        if body.is_address(one.src):
            body.emit(f"store ptr {body.address(one.src)}, ptr {place}, align 1")
        else:
            body.emit(f"store i64 {body.number(one.src)}, ptr {place}, align 1")
    elif bits == 32:
        body.emit(f"store i32 {body.word(one.src)}, ptr {place}, align 1")
    else:
        body.emit(f"store i{bits} {_narrow(body, one.src, bits)}, ptr {place}, align 1")


def _fitted(number: int, bits: int) -> int:
    """`number` modulo 2^bits, signed."""
    low = number & (1 << bits) - 1
    return low - (1 << bits) if low >> bits - 1 else low


def _narrow(body: Body, register: int, bits: int) -> str:
    number = body.number(register)
    if number[0] != "%":
        return str(_fitted(int(number), bits))
    return body.new(f"trunc i64 {number} to i{bits}")


def atomic(body: Body, one: Instruction, slot: int) -> None:
    """Section 5.3 and the load-acquire and store-release of ISA v4."""
    size, bits = one.size, 8 * one.size
    if one.imm == op.LOAD_ACQ:
        place = body.memory(one.src, one.offset)
        name = body.new(f"load atomic i{bits}, ptr {place} acquire, align {size}")
        if bits < 64:
            name = body.new(f"zext i{bits} {name} to i64")
        body.set_number(one.dst, name)
        return
    place = body.memory(one.dst, one.offset)
    if bits == 64:
        value = body.number(one.src)
    elif bits == 32:
        value = body.word(one.src)
    else:
        value = _narrow(body, one.src, bits)
    if one.imm == op.STORE_REL:
        body.emit(f"store atomic i{bits} {value}, ptr {place} release, align {size}")
        return
    done = body.set_number if bits == 64 else body.set_word
    if one.imm == op.CMPXCHG:
        expected = body.number(0) if bits == 64 else body.word(0)
        both = body.new(
            f"cmpxchg ptr {place}, i{bits} {expected}, i{bits} {value} seq_cst seq_cst, align {size}"
        )
        done(0, body.new(f"extractvalue {{ i{bits}, i1 }} {both}, 0"))
        return
    fetch = one.imm & op.FETCH
    order = "seq_cst" if fetch else "monotonic"
    operation = _READ[one.imm & 0xF0]
    name = body.new(f"atomicrmw {operation} ptr {place}, i{bits} {value} {order}, align {size}")
    if fetch:
        done(one.src, name)


def immediate(body: Body, one: Instruction, slot: int) -> None:
    """LD_IMM64: a constant, a map, an address in a map's value, a function (section 5.4)."""
    if one.src == op.PSEUDO_NONE:
        body.state[one.dst] = constant(one.imm64)
    elif one.src == op.PSEUDO_MAP_IDX:
        index = _map_index(body, one)
        body.state[one.dst] = Value(address=map_address(body, index), map=index)
    elif one.src == op.PSEUDO_MAP_IDX_VALUE:
        index = _map_index(body, one)
        name = _baked(body, index)
        if not name:
            place = map_address(body, index)
            values = body.new(f"getelementptr i8, ptr {place}, i64 {MAP['values']}")
            name = body.new(f"load ptr, ptr {values}{INVARIANT}")
        if one.next_imm:
            name = body.new(f"getelementptr i8, ptr {name}, i64 {one.next_imm & 0xFFFFFFFF}")
        body.set_address(one.dst, name)
    elif one.src == op.PSEUDO_FUNC:
        body.state[one.dst] = Value(function=slot + 1 + one.imm)
    else:
        what = {1: "a map by file descriptor", 2: "a map value by file descriptor"}.get(
            one.src, "a kernel variable"
        )
        raise MissingCapability(
            f"the instruction at slot {slot} names {what}, which user space does not have",
            "link the object with workbench.objects.link; kernel variables exist in the kernel backend only",
        )


def packet_load(body: Body, one: Instruction) -> None:
    """LD_ABS and LD_IND (section 5.5): big-endian data of the packet to r0; outside of it the function returns 0."""
    bits = 8 * one.size
    data = body.new(f"load ptr, ptr {body.memory(6, PACKET['data'])}, align 1")
    end = body.new(f"load ptr, ptr {body.memory(6, PACKET['data_end'])}, align 1")
    first, last = (body.new(f"ptrtoint ptr {name} to i64") for name in (data, end))
    length = body.new(f"sub i64 {last}, {first}")
    at = str(one.imm)
    if one.mode == op.IND:
        at = body.new(f"add i32 {body.word(one.src)}, {one.imm}")
    wide = body.new(f"zext i32 {at} to i64")  # a negative one is beyond every packet
    behind = body.new(f"add i64 {wide}, {one.size}")
    test = body.new(f"icmp ule i64 {behind}, {length}")
    inside, outside = body.fresh(), body.fresh()
    body.emit(f"br i1 {test}, label %{inside}, label %{outside}")
    body.begin(outside)
    body.store_budget()
    body.emit("ret i64 0")
    body.begin(inside)
    place = body.new(f"getelementptr i8, ptr {data}, i64 {wide}")
    value = body.new(f"load i{bits}, ptr {place}, align 1")
    if bits > 8:
        value = body.new(f"call i{bits} @llvm.bswap.i{bits}(i{bits} {value})")
    for register in range(1, 6):
        body.state[register] = ZERO
    if bits == 32:
        body.set_word(0, value)
    else:
        body.set_number(0, body.new(f"zext i{bits} {value} to i64"))


def _map_index(body: Body, one: Instruction) -> int:
    if not 0 <= one.imm < len(body.unit.maps):
        raise BadSpec(
            f"the code names map {one.imm}, but the program has {len(body.unit.maps)}",
            "pass the maps of the LinkedObject that the program came from",
        )
    return one.imm


def map_address(body: Body, index: int) -> str:
    """The struct wb_map of a map of this program."""
    maps = body.new("load ptr, ptr %run, align 8")
    place = body.new(f"getelementptr i8, ptr {maps}, i64 {8 * index}") if index else maps
    return body.new(f"load ptr, ptr {place}{INVARIANT}")


def _baked(body: Body, index: int) -> str:
    """The constant that a read-only section becomes, so that LLVM knows its content; empty for all others."""
    shape = body.unit.maps[index]
    if not shape.read_only or not shape.initial or shape.value_size > _BAKED:
        return ""
    name = body.unit.constants.get(index)
    if name is None:
        name = body.unit.constants[index] = f"@section_{index}"
        content = shape.initial.ljust(shape.value_size, b"\0")
        text = "".join(f"\\{byte:02x}" for byte in content)
        body.unit.globals.append(
            f'{name} = internal constant [{len(content)} x i8] c"{text}", align 16'
        )
    return name
