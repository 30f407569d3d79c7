"""Maps of an object without libbpf: the definitions in `.maps`, and an array of one element for each data section."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.objects.btf import ARRAY, DATASEC, ENUM, ENUM64, FUNC_PROTO, PTR, STRUCT, VAR
from workbench.objects.elf import BadElf
from workbench.objects.linked import GlobalVariable, LinkedMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workbench.objects.btf import Btf, Member, Type
    from workbench.objects.elf import Section
    from workbench.objects.model import BpfObject

__all__ = ("MapTable", "build_maps")

_ARRAY, _PROG_ARRAY, _PERF_EVENT_ARRAY, _ARRAY_OF_MAPS, _HASH_OF_MAPS = 2, 3, 4, 12, 13
_RINGBUF, _USER_RINGBUF = 27, 31
_RDONLY_PROG, _MMAPABLE = 1 << 7, 1 << 10
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_ABS64 = 2
_LARGEST_DATA = 1 << 28  # bytes
_NUMBERS = {
    "type": "type",
    "key_size": "key_size",
    "value_size": "value_size",
    "max_entries": "max_entries",
    "map_flags": "flags",
    "map_extra": "extra",
    "pinning": "pinning",
    "numa_node": "",
}


@dataclass(slots=True)
class MapTable:
    """Maps by index, and where each lies: section index -> map index, (section index, offset) -> map index."""

    maps: list[LinkedMap]
    data: dict[int, int]
    declared: dict[tuple[int, int], int]
    variables: dict[str, GlobalVariable]


def build_maps(
    obj: BpfObject, constants: Mapping[str, int | bool], map_sizes: Mapping[str, int]
) -> MapTable:
    """All maps of an object: those of `.maps` as declared, then data sections in file order.

    Raises
    ------
    BadElf, BadBtf
        Damaged definitions.
    WorkbenchError
        `constants` or `map_sizes` names what the object lacks, or a constant has no room in its variable.
    """
    if any(section.name == "maps" for section in obj.elf.sections):
        raise BadElf(
            f"{obj.name} defines maps in the way of libbpf before 1.0 (section `maps`)",
            'declare them with SEC(".maps") and compile with clang -g',
        )
    table = MapTable([], {}, {}, {})
    _add_declared(obj, table, dict(map_sizes))
    for section in obj.elf.sections:
        if _is_data(section):
            table.data[section.index] = len(table.maps)
            table.maps.append(_data_map(obj, section))
            _add_variables(obj, section, table)
    _add_kconfig(obj, table)
    _set_constants(obj, table, constants)
    return table


def _is_data(section: Section) -> bool:
    names = (".rodata", ".data", ".bss")
    return (
        section.size > 0
        and bool(section.flags & _SHF_ALLOC)
        and not section.flags & _SHF_EXECINSTR
        and section.name.startswith(names)
    )


def _data_map(obj: BpfObject, section: Section) -> LinkedMap:
    read_only = section.name.startswith(".rodata")
    has_btf = obj.elf.section(".BTF") is not None
    described = obj.btf.find(DATASEC, section.name) if has_btf else None
    flags = _RDONLY_PROG if read_only else 0
    if section.size > _LARGEST_DATA:
        raise BadElf(f"{obj.name}: section {section.name} has {section.size} bytes")
    # As libbpf: only a section with a variable that others may see is worth mapping into memory.
    if described and any(_linkage(obj.btf, entry) for entry in described.members):
        flags |= _MMAPABLE
    return LinkedMap(
        section.name,
        _ARRAY,
        4,
        section.size,
        1,
        flags,
        value_type=described.id if described else 0,
        initial=section.data.ljust(section.size, b"\0"),
        read_only=read_only,
    )


def _linkage(btf: Btf, entry: Member) -> int:
    one = btf.resolve(entry.type)
    return one.count if one.kind == VAR else 0


def _add_variables(obj: BpfObject, section: Section, table: MapTable) -> None:
    if obj.elf.section(".BTF") is None:
        return
    for name, (offset, number) in obj.globals(section.name).items():
        table.variables[name] = GlobalVariable(name, table.data[section.index], offset, number)


def _add_kconfig(obj: BpfObject, table: MapTable) -> None:
    """Weak kernel configuration values: zeros in a read-only map, as libbpf has it where the kernel lacks them."""
    weak = {s.name for s in obj.elf.symbols if s.section == 0 and s.binding == 2}
    if not weak or obj.elf.section(".BTF") is None:
        return
    size = 0
    places: dict[str, GlobalVariable] = {}
    for name, (_, number) in sorted(obj.btf.variables(".kconfig").items()):
        if name in weak:
            size = size + 7 & ~7
            places[name] = GlobalVariable(name, len(table.maps), size, number)
            size += max(obj.btf.size(number), 1)
            if size > mmap.PAGESIZE:
                raise BadElf(
                    f"{obj.name}: kernel configuration values of more than {mmap.PAGESIZE} bytes"
                )
    if places:
        table.variables.update(places)
        table.maps.append(
            LinkedMap(
                ".kconfig", _ARRAY, 4, size, 1, _RDONLY_PROG, initial=bytes(size), read_only=True
            )
        )


def _set_constants(obj: BpfObject, table: MapTable, constants: Mapping[str, int | bool]) -> None:
    unknown = []
    for name, value in constants.items():
        variable = table.variables.get(name)
        if variable is None or not table.maps[variable.map].name.startswith(".rodata"):
            unknown.append(name)
            continue
        one = table.maps[variable.map]
        content = bytearray(one.initial)
        dtype: np.dtype[Any] = obj.btf.dtype(variable.type)
        base, shape = dtype.subdtype or (dtype, ())
        if variable.offset + dtype.itemsize > len(content):
            raise BadElf(f"{obj.name}: variable {name!r} reaches past the end of {one.name}")
        view: np.ndarray[Any, Any] = np.ndarray(shape, base, content, variable.offset)
        try:
            view[...] = value
        except (OverflowError, ValueError, TypeError) as error:
            raise WorkbenchError(
                f"constant {name!r} cannot be {value!r}: {error}",
                f"its type has {dtype.itemsize} bytes",
            ) from error
        del view
        table.maps[variable.map] = replace(one, initial=bytes(content))
    if unknown:
        names = sorted(n for n, v in table.variables.items() if table.maps[v.map].read_only)
        raise WorkbenchError(
            f"{obj.name} has no constant named {', '.join(map(repr, unknown))}",
            f"it has: {', '.join(names) or 'none'}",
        )


def _add_declared(obj: BpfObject, table: MapTable, sizes: dict[str, int]) -> None:
    section = obj.elf.section(".maps")
    if section is None:
        if sizes:
            raise WorkbenchError(f"{obj.name} has no map named {', '.join(map(repr, sizes))}")
        return
    described = obj.btf.variables(".maps")
    places = sorted(
        (s.value, s.name) for s in obj.elf.symbols if s.section == section.index and s.type == 1
    )
    for offset, name in places:
        if name not in described:
            raise BadElf(f"{obj.name}: map {name!r} has no BTF", "compile it with clang -g")
        made = _Definition(obj.btf, name, inner=False).read(described[name][1])
        if name in sizes:
            made = replace(made, max_entries=sizes.pop(name))
        table.declared[section.index, offset] = len(table.maps)
        table.maps.append(_adjusted(made))
    if sizes:
        raise WorkbenchError(
            f"{obj.name} has no map named {', '.join(map(repr, sizes))}",
            f"it has: {', '.join(name for _, name in places) or 'none'}",
        )
    _add_values(obj, section, table)


def _adjusted(one: LinkedMap) -> LinkedMap:
    """Sizes as libbpf completes them: rings in powers of two of pages, a perf array per CPU."""
    entries = one.max_entries
    if one.type in (_RINGBUF, _USER_RINGBUF) and 0 < entries <= 1 << 31:
        entries = max(mmap.PAGESIZE, 1 << (entries - 1).bit_length())
    elif one.type == _PERF_EVENT_ARRAY and not entries:
        entries = os.cpu_count() or 1
    return replace(one, max_entries=entries)


class _Definition:
    """Reads one map declaration: a struct whose members' types carry the attributes (bpf_helpers.h `__uint`)."""

    def __init__(self, btf: Btf, name: str, *, inner: bool) -> None:
        self.btf, self.name, self.inner = btf, name, inner

    def fail(self, what: str) -> BadElf:
        return BadElf(f"map {self.name!r}: {what}", "see bpf_helpers.h for __uint and __type")

    def read(self, number: int) -> LinkedMap:
        one = self.btf.resolve(number)
        if one.kind != STRUCT:
            raise self.fail("its definition is no struct")
        numbers = dict.fromkeys(("type", "key_size", "value_size", "max_entries", "flags"), 0)
        numbers.update(extra=0, pinning=0)
        types = {"key": 0, "value": 0}
        inner: LinkedMap | None = None
        for member in one.members:
            if member.name in _NUMBERS:
                if field := _NUMBERS[member.name]:
                    numbers[field] = self.number(member)
            elif member.name in types:
                pointer = self.pointer(member)
                types[member.name] = pointer.target
            elif member.name == "values":
                inner = self.values(member, numbers["type"])
            else:
                raise self.fail(f"unknown attribute {member.name!r}")
        for side, number in types.items():
            size = self.btf.size(number) if number else 0
            stated = numbers[f"{side}_size"]
            if stated and size and stated != size:
                raise self.fail(f"{side}_size is {stated}, but its type has {size} bytes")
            numbers[f"{side}_size"] = stated or size
        if not numbers["type"]:
            raise self.fail("it has no type")
        if numbers["type"] in (_ARRAY_OF_MAPS, _HASH_OF_MAPS, _PROG_ARRAY):
            if numbers["value_size"] not in (0, 4):
                raise self.fail(f"value_size is {numbers['value_size']}, must be 4")
            numbers["value_size"] = 4
            numbers["key_size"] = numbers["key_size"] or 4
        if numbers["type"] == _PERF_EVENT_ARRAY:
            numbers["key_size"] = numbers["key_size"] or 4
            numbers["value_size"] = numbers["value_size"] or 4
        if numbers["pinning"] not in (0, 1):
            raise self.fail(f"pinning is {numbers['pinning']}, must be 0 or LIBBPF_PIN_BY_NAME")
        if self.inner and numbers["pinning"]:
            raise self.fail("an inner map cannot be pinned")
        return LinkedMap(
            self.name,
            numbers["type"],
            numbers["key_size"],
            numbers["value_size"],
            numbers["max_entries"],
            numbers["flags"] & 0xFFFFFFFF,
            types["key"],
            types["value"],
            inner=inner,
            pinning=numbers["pinning"],
            extra=numbers["extra"],
        )

    def number(self, member: Member) -> int:
        one = self.btf.resolve(member.type)
        if one.kind in (ENUM, ENUM64) and len(one.members) == 1:  # __ulong
            return one.members[0].offset & 0xFFFFFFFFFFFFFFFF
        array = self.btf.resolve(self.pointer(member).target)
        if array.kind != ARRAY:
            raise self.fail(f"{member.name} is not written with __uint")
        return array.count

    def pointer(self, member: Member) -> Type:
        one = self.btf.resolve(member.type)
        if one.kind != PTR:
            raise self.fail(f"{member.name} is no pointer")
        return one

    def values(self, member: Member, kind: int) -> LinkedMap | None:
        if self.inner:
            raise self.fail("maps nest in two levels only")
        array = self.btf.resolve(member.type)
        pointer = self.btf.resolve(array.target) if array.kind == ARRAY else array
        if pointer.kind != PTR:
            raise self.fail("values is not written with __array")
        pointed = self.btf.resolve(pointer.target)
        if kind == _PROG_ARRAY and pointed.kind == FUNC_PROTO:
            return None
        if kind not in (_ARRAY_OF_MAPS, _HASH_OF_MAPS) or pointed.kind != STRUCT:
            raise self.fail("only maps of maps and program arrays have values")
        return _adjusted(_Definition(self.btf, f"{self.name}.inner", inner=True).read(pointed.id))


def _add_values(obj: BpfObject, section: Section, table: MapTable) -> None:
    """What `.values = {...}` puts into maps of maps and program arrays: relocations of `.maps`."""
    by_place = sorted((offset, index) for (_, offset), index in table.declared.items())
    described = obj.btf.variables(".maps")
    for relocation in obj.elf.relocations(section):
        holder = [(offset, index) for offset, index in by_place if offset <= relocation.offset]
        if relocation.type != _ABS64 or not holder:
            raise BadElf(f"{obj.name}: .maps has a relocation that belongs to no map")
        start, index = holder[-1]
        one = table.maps[index]
        definition = obj.btf.resolve(described[one.name][1])
        field = next((m for m in definition.members if m.name == "values"), None)
        slot, rest = divmod(relocation.offset - start - (field.offset // 8 if field else 0), 8)
        symbol = relocation.symbol
        if field is None or slot < 0 or rest or not symbol.name:
            raise BadElf(f"{obj.name}: map {one.name!r} has a misplaced initial value")
        is_map = (symbol.section, symbol.value) in table.declared
        fits = symbol.type == 2 if one.type == _PROG_ARRAY else is_map
        if not fits:
            raise BadElf(f"{obj.name}: map {one.name!r} cannot hold {symbol.name!r}")
        if slot >= one.max_entries:
            raise BadElf(
                f"{obj.name}: map {one.name!r} of {one.max_entries} entries has a value for {slot}"
            )
        table.maps[index] = replace(one, values=(*one.values, (slot, symbol.name)))
