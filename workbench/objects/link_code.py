"""Code of an object without libbpf: functions with their relocations applied, put together into programs.

Relocation types: kernel Documentation/bpf/llvm_reloc.rst. How a call or an address names its target follows libbpf
(tools/lib/bpf/libbpf.c, `bpf_program__record_reloc` and `bpf_object__reloc_code`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, WorkbenchError
from workbench.objects.btf import DATASEC, FUNC, VAR, BadBtf
from workbench.objects.btf_ext import BtfExt
from workbench.objects.core_patch import POISON, CorePatcher
from workbench.objects.elf import BadElf
from workbench.objects.linked import Function, Line, LinkedProgram, Unresolved

if TYPE_CHECKING:
    from workbench.objects.btf import Btf
    from workbench.objects.elf import Relocation, Section, Symbol
    from workbench.objects.link_maps import MapTable
    from workbench.objects.model import BpfObject
    from workbench.objects.sections import SectionKind

__all__ = ("CodeLinker",)

_64_64, _64_32 = 1, 10  # R_BPF_64_64, R_BPF_64_32
_LD_IMM64, _CALL = 0x18, 0x85
_PSEUDO_CALL, _PSEUDO_FUNC, _MAP_IDX, _MAP_IDX_VALUE = 1, 4, 5, 6
_SHF_EXECINSTR = 4
_LARGEST = 1_000_000  # instructions: the kernel's BPF_COMPLEXITY_LIMIT_INSNS; more could not be verified either

_Place = tuple[int, int]  # section index, slot in it


@dataclass(slots=True)
class _Body:
    """A function as it stands in its section, with all relocations but calls applied."""

    name: str
    place: _Place
    code: bytearray
    type: int
    is_global: bool
    lines: list[Line]
    calls: list[tuple[int, _Place, bool]] = field(default_factory=list)  # slot, target, is a call
    unresolved: list[Unresolved] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.code) // 8


class CodeLinker:
    """Makes programs of an object's functions; each function is relocated once.

    Parameters
    ----------
    obj : BpfObject
    maps : MapTable
    btf : Btf, optional
        Types that CO-RE relocations are resolved against; None for the running kernel's.

    Raises
    ------
    BadElf, BadBtf
        Damaged tables.
    """

    def __init__(self, obj: BpfObject, maps: MapTable, btf: Btf | None) -> None:
        self.obj, self.maps = obj, maps
        self._bodies: dict[_Place, _Body] = {}
        self._symbols: dict[_Place, Symbol] = {}
        self._sections: dict[int, dict[int, Relocation]] = {}
        for symbol in obj.elf.symbols:
            if symbol.type == 2 and 0 < symbol.section < len(obj.elf.sections):
                self._symbols.setdefault((symbol.section, symbol.value // 8), symbol)
        has_btf = obj.elf.section(".BTF") is not None
        ext = obj.elf.section(".BTF.ext")
        self._ext = BtfExt.parse(ext.data, obj.btf, obj.name) if has_btf and ext else BtfExt()
        self._core = CorePatcher(obj.btf, btf) if has_btf else None

    def program(self, symbol: Symbol, kind: SectionKind) -> LinkedProgram:
        """One program with every function that it can reach, the main function first.

        Raises
        ------
        BadElf, BadBtf
            Damaged code or relocations.
        MissingCapability
            It needs a variable or function of the kernel.
        """
        bodies, starts = self._reached(symbol)
        code = bytearray()
        functions, lines, unresolved = [], [], []
        for body in bodies:
            start = starts[body.place]
            functions.append(Function(body.name, start, body.count, body.type, body.is_global))
            part = bytearray(body.code)
            for slot, target, _ in body.calls:
                struct.pack_into("<i", part, 8 * slot + 4, starts[target] - (start + slot) - 1)
            code += part
            lines += [
                Line(start + one.instruction, one.file, one.line, one.column, one.text)
                for one in body.lines
            ]
            unresolved += [Unresolved(start + u.instruction, u.message) for u in body.unresolved]
        return LinkedProgram(
            symbol.name,
            self.obj.elf.sections[symbol.section].name,
            kind.type,
            bytes(code),
            tuple(functions),
            tuple(lines),
            kind.attach_type,
            kind.sleepable,
            tuple(unresolved),
        )

    def _reached(self, symbol: Symbol) -> tuple[list[_Body], dict[_Place, int]]:
        """Functions in libbpf's order: each where it is first called, before what is called after it."""
        bodies: list[_Body] = []
        starts: dict[_Place, int] = {}
        total = 0
        waiting = [(symbol.section, symbol.value // 8)]
        while waiting:
            place = waiting.pop()
            if place in starts:
                continue
            body = self._body(place)
            starts[place] = total
            total += body.count
            if total > _LARGEST:
                raise BadElf(
                    f"{self.obj.name}: program {symbol.name!r} has more than {_LARGEST} slots"
                )
            bodies.append(body)
            waiting += [target for _, target, _ in reversed(body.calls)]
        return bodies, starts

    def _body(self, place: _Place) -> _Body:
        if place not in self._bodies:
            self._bodies[place] = self._relocate(self._read(place))
        return self._bodies[place]

    def _read(self, place: _Place) -> _Body:
        index, slot = place
        section = self.obj.elf.sections[index]
        symbol = self._symbols.get(place)
        if symbol is None or not section.flags & _SHF_EXECINSTR:
            raise BadElf(f"{self.obj.name}: no function begins at slot {slot} of {section.name}")
        begin, end = symbol.value, symbol.value + symbol.size
        if begin % 8 or not symbol.size or symbol.size % 8 or end > len(section.data):
            raise BadElf(f"{self.obj.name}: function {symbol.name!r} is not within {section.name}")
        number = next((t for at, t in self._ext.functions.get(section.name, ()) if at == begin), 0)
        if number and not (
            number < len(self.obj.btf.types) and self.obj.btf.types[number].kind == FUNC
        ):
            raise BadBtf(f"{self.obj.name}: the type of function {symbol.name!r} is no function")
        lines = [
            Line((one.offset - begin) // 8, one.file, one.line, one.column, one.text)
            for one in self._ext.lines.get(section.name, ())
            if begin <= one.offset < end
        ]
        # As libbpf: a hidden global function is verified where it is called, like a static one.
        is_global = symbol.binding in (1, 2) and symbol.visibility == 0
        code = bytearray(section.data[begin:end])
        return _Body(symbol.name, place, code, number, is_global, lines)

    def _section_relocations(self, section: Section) -> dict[int, Relocation]:
        if section.index not in self._sections:
            found = {}
            for one in self.obj.elf.relocations(section):
                if one.offset % 8 or one.offset in found:
                    raise BadElf(
                        f"{self.obj.name}: damaged relocation at {one.offset} of {section.name}"
                    )
                found[one.offset] = one
            self._sections[section.index] = found
        return self._sections[section.index]

    def _relocate(self, body: _Body) -> _Body:
        section = self.obj.elf.sections[body.place[0]]
        relocations = self._section_relocations(section)
        self._apply_core(body, section)
        slot = 0
        while slot < body.count:
            opcode = body.code[8 * slot]
            relocation = relocations.get(8 * (body.place[1] + slot))
            wide = opcode == _LD_IMM64
            if wide and slot + 1 >= body.count:
                raise BadElf(f"{self.obj.name}: function {body.name!r} ends in half an instruction")
            if relocation is not None:
                self._apply(body, slot, relocation)
            elif opcode == _CALL and body.code[8 * slot + 1] >> 4 == _PSEUDO_CALL:
                # A static function of the same section is called without a relocation.
                (distance,) = struct.unpack_from("<i", body.code, 8 * slot + 4)
                target = body.place[1] + slot + distance + 1
                body.calls.append((slot, self._target(body, body.place[0], target), True))
            elif wide and body.code[8 * slot + 1] >> 4:
                raise BadElf(
                    f"{self.obj.name}: slot {slot} of {body.name!r} has an address without relocation"
                )
            slot += 2 if wide else 1
        return body

    def _apply_core(self, body: _Body, section: Section) -> None:
        begin = 8 * body.place[1]
        for one in self._ext.relocations.get(section.name, ()):
            if not begin <= one.offset < begin + len(body.code):
                continue
            if one.offset % 8 or self._core is None:
                raise BadBtf(f"{self.obj.name}: CO-RE relocation at byte {one.offset}")
            slot = (one.offset - begin) // 8
            where = f"{self.obj.name}: {body.name!r} at slot {slot}"
            message = self._core.patch(body.code, slot, one, where)
            if message:
                body.unresolved.append(Unresolved(slot, message))

    def _target(self, body: _Body, section: int, slot: int) -> _Place:
        if not 0 < section < len(self.obj.elf.sections) or (section, slot) not in self._symbols:
            raise BadElf(
                f"{self.obj.name}: {body.name!r} calls where no function begins (slot {slot})"
            )
        return section, slot

    def _apply(self, body: _Body, slot: int, relocation: Relocation) -> None:
        symbol, at = relocation.symbol, 8 * slot
        opcode, registers = body.code[at], body.code[at + 1]
        (addend,) = struct.unpack_from("<i", body.code, at + 4)
        if relocation.type == _64_32 and opcode == _CALL:
            if symbol.section == 0:
                self._external_call(body, slot, symbol)
                return
            target = symbol.value // 8 + addend + 1
            body.code[at + 1] = registers & 15 | _PSEUDO_CALL << 4
            body.calls.append((slot, self._target(body, symbol.section, target), True))
            return
        if relocation.type != _64_64 or opcode != _LD_IMM64:
            raise BadElf(
                f"{self.obj.name}: relocation of type {relocation.type} at slot {slot} of {body.name!r}"
            )
        register = registers & 15
        if symbol.section == 0:
            self._external_address(body, slot, symbol)
        elif (index := self.maps.declared.get((symbol.section, symbol.value + addend))) is not None:
            body.code[at + 1] = register | _MAP_IDX << 4
            struct.pack_into("<ixxxxi", body.code, at + 4, index, 0)
        elif (index := self.maps.data.get(symbol.section)) is not None:
            offset = symbol.value + addend
            if not 0 <= offset < self.maps.maps[index].value_size:
                raise BadElf(
                    f"{self.obj.name}: {body.name!r} refers to byte {offset} of {self.maps.maps[index].name}"
                )
            body.code[at + 1] = register | _MAP_IDX_VALUE << 4
            struct.pack_into("<iI", body.code, at + 4, index, 0)
            struct.pack_into("<i", body.code, at + 12, offset)
        elif self._is_code(symbol):
            target = (symbol.value + addend) // 8
            body.code[at + 1] = register | _PSEUDO_FUNC << 4
            struct.pack_into("<i", body.code, at + 12, 0)
            body.calls.append((slot, self._target(body, symbol.section, target), False))
        else:
            raise BadElf(
                f"{self.obj.name}: {body.name!r} refers to {symbol.name or 'a section'!r}, "
                "which is neither map, variable nor function"
            )

    def _is_code(self, symbol: Symbol) -> bool:
        sections = self.obj.elf.sections
        return symbol.section < len(sections) and bool(
            sections[symbol.section].flags & _SHF_EXECINSTR
        )

    @cached_property
    def _externals(self) -> dict[str, str]:
        """Name of each extern of BTF -> section (.kconfig or .ksyms)."""
        found = {}
        if self.obj.elf.section(".BTF") is not None:
            for section in (".kconfig", ".ksyms"):
                data = self.obj.btf.find(DATASEC, section)
                for entry in data.members if data else ():
                    one = (
                        self.obj.btf.types[entry.type]
                        if entry.type < len(self.obj.btf.types)
                        else None
                    )
                    if one is not None and one.kind in (VAR, FUNC):
                        found[one.name] = section
        return found

    def _refuse(self, body: _Body, symbol: Symbol) -> WorkbenchError:
        section = self._externals.get(symbol.name)
        if section is None:
            return BadElf(
                f"{self.obj.name}: {body.name!r} refers to {symbol.name!r}, which no file defines",
                "link the objects into one first: bpftool gen object ALL.bpf.o PARTS...",
            )
        what = "kernel configuration value" if section == ".kconfig" else "kernel symbol"
        return MissingCapability(
            f"{self.obj.name}: {body.name!r} needs the {what} {symbol.name!r}, which user space does not have",
            'load it with backend="kernel", or declare it __weak and check it before use',
        )

    def _external_address(self, body: _Body, slot: int, symbol: Symbol) -> None:
        if symbol.binding != 2 or symbol.name not in self._externals:
            raise self._refuse(body, symbol)
        register, index, offset = body.code[8 * slot + 1] & 15, 0, 0
        if (
            place := self.maps.variables.get(symbol.name)
        ) is not None:  # a weak .kconfig value: 0 in its map
            register, index, offset = register | _MAP_IDX_VALUE << 4, place.map, place.offset
        body.code[8 * slot + 1] = register
        struct.pack_into("<iI", body.code, 8 * slot + 4, index, 0)
        struct.pack_into("<i", body.code, 8 * slot + 12, offset)

    def _external_call(self, body: _Body, slot: int, symbol: Symbol) -> None:
        if symbol.binding != 2 or symbol.name not in self._externals:
            raise self._refuse(body, symbol)
        body.code[8 * slot : 8 * slot + 8] = POISON
        body.unresolved.append(
            Unresolved(slot, f"call of the weak kernel function {symbol.name!r}, which is not here")
        )
