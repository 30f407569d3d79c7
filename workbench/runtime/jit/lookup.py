"""Lookups and updates that become a few instructions because the map's shape is known when the program is compiled."""

from __future__ import annotations

from typing import Final

from workbench.objects.linked import LinkedMap
from workbench.runtime.jit.bitcode import LARGEST_INLINE_VALUE, LOOKUPS, UPDATES
from workbench.runtime.jit.body import INVARIANT, Body
from workbench.runtime.jit.layout import MAP

__all__ = ("ARRAY", "INLINED", "PERCPU_ARRAY", "lookup", "stride", "update")

ARRAY: Final = 2  # BPF_MAP_TYPE_ARRAY
PERCPU_ARRAY: Final = 6
INLINED: Final = frozenset({ARRAY, PERCPU_ARRAY})
_LOOKUP: Final = 1  # bpf_map_lookup_elem
_UPDATE: Final = 2


def stride(value_size: int) -> int:
    """Bytes from an array's element to the next: kernel/bpf/arraymap.c array_map_alloc."""
    return value_size + 7 & ~7


def lookup(body: Body, helper: int) -> bool:
    """Translate the helper call to address computation; False where it has to be called."""
    index = body.state[1].map
    if helper != _LOOKUP or index < 0:
        return False
    shape = body.unit.maps[index]
    if shape.type not in INLINED:
        return _bitcode_lookup(body, shape)
    array = body.address(1)
    key = body.new(f"load i32, ptr {body.address(2)}, align 1")
    inside = body.new(f"icmp ult i32 {key}, {_signed(shape.max_entries)}")
    values = body.new(f"load ptr, ptr {_field(body, array, 'values')}{INVARIANT}")
    wide = body.new(f"zext i32 {key} to i64")
    offset = body.new(f"mul i64 {wide}, {stride(shape.value_size)}")
    if shape.type == PERCPU_ARRAY:
        step = body.new(f"load i32, ptr {_field(body, array, 'cpu_stride')}{INVARIANT}")
        cpu = body.new(f"load i32, ptr {body.field_address('cpu')}")
        cpus = body.new(f"load i32, ptr {_field(body, array, 'cpus')}{INVARIANT}")
        inside = body.new(f"and i1 {inside}, {body.new(f'icmp ult i32 {cpu}, {cpus}')}")
        slot = body.new(
            f"mul i64 {body.new(f'zext i32 {step} to i64')}, {body.new(f'zext i32 {cpu} to i64')}"
        )
        values = body.new(f"getelementptr i8, ptr {values}, i64 {slot}")
    element = body.new(f"getelementptr i8, ptr {values}, i64 {offset}")
    body.set_address(0, body.new(f"select i1 {inside}, ptr {element}, ptr null"))
    return True


def _bitcode_lookup(body: Body, shape: LinkedMap) -> bool:
    """The map type's own lookup, to be inlined with the key's size known."""
    function = LOOKUPS.get((shape.type, shape.key_size))
    if not body.unit.inline(function, "declare ptr {}(ptr, ptr, ptr)") or not function:
        return False
    operands = f"ptr %run, ptr {body.address(1)}, ptr {body.address(2)}"
    body.set_address(0, body.new(f"call ptr @{function.name}({operands})"))
    return True


def update(body: Body, helper: int) -> bool:
    """The usual update of a hash map in line, with the sizes known; False where the helper has to be called."""
    index = body.state[1].map
    if helper != _UPDATE or index < 0:
        return False
    shape = body.unit.maps[index]
    function = UPDATES.get((shape.type, shape.key_size))
    if (
        not function
        or shape.value_size > LARGEST_INLINE_VALUE
        or not body.unit.inline(function, "declare i64 {}(ptr, ptr, ptr, ptr, i64, i32)")
    ):
        return False
    pointers = ", ".join(f"ptr {body.address(register)}" for register in (1, 2, 3))
    operands = f"ptr %run, {pointers}, i64 {body.number(4)}, i32 {shape.value_size}"
    body.set_number(0, body.new(f"call i64 @{function.name}({operands})"))
    return True


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number


def _field(body: Body, array: str, name: str) -> str:
    return body.new(f"getelementptr i8, ptr {array}, i64 {MAP[name]}")
