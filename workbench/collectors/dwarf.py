"""C types of functions and data objects from debug information: DWARF (by pyelftools) or BTF in the file itself.

One compile unit is read per question, found by `.debug_aranges` where the compiler wrote it, else by the address
ranges of all units. Attributes and tags: DWARF 5, chapters 3 to 5.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.collectors.uprobe.types import VOID, CType, Parameter, Signature
from workbench.errors import UnknownSymbol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("DebugInfo", "debug_info", "member_of")

_QUALIFIERS = (
    "DW_TAG_const_type",
    "DW_TAG_volatile_type",
    "DW_TAG_restrict_type",
    "DW_TAG_atomic_type",
)
_AGGREGATES = ("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type")
_SCOPES = ("DW_TAG_namespace", "DW_TAG_module", *_AGGREGATES)
_BOOLEAN, _FLOAT, _SIGNED, _SIGNED_CHAR, _UNSIGNED_CHAR = 2, 4, 5, 6, 8
_BY_REFERENCE = 4
_MAX_DEPTH = 64
# What pyelftools raises on damaged input beside its own errors.
_DAMAGE = (
    OSError, LookupError, ValueError, AttributeError, AssertionError, TypeError, RecursionError, OverflowError,
    NotImplementedError, StopIteration,
)  # fmt: skip


class DebugInfo:
    """Debug information of one file. Made by `debug_info`; every question has the answer None where it is silent."""

    def __init__(self, place: str) -> None:
        from elftools.elf.elffile import ELFFile

        self._file = Path(place).open("rb")  # noqa: SIM115 - read lazily for as long as this object lives
        elf = ELFFile(self._file)
        self._dwarf: Any = elf.get_dwarf_info() if elf.has_dwarf_info() else None
        self._btf: Any = None
        section = elf.get_section_by_name(".BTF")
        if section is not None:
            from workbench.errors import WorkbenchError
            from workbench.objects.btf import Btf

            try:
                self._btf = Btf(section.data())
            except (WorkbenchError, ValueError):
                self._btf = None
        self._units: dict[int, dict[int, Any]] = {}
        self._ranges: list[tuple[int, int, int]] | None = None

    def signature(self, vaddr: int, name: str = "") -> Signature | None:
        """Parameters and result of the function that begins at `vaddr`."""
        found: Signature | None = _guard(lambda: self._dwarf_signature(vaddr))
        return found or _guard(lambda: self._btf_signature(name))

    # Functions -----------------------------------------------------------------------------------------------------

    def _dwarf_signature(self, vaddr: int) -> Signature | None:
        if self._dwarf is None or (unit := self._unit_at(vaddr)) is None:
            return None
        if unit not in self._units:
            self._units[unit] = dict(self._functions(self._dwarf.get_CU_at(unit).get_top_DIE()))
        function = self._units[unit].get(vaddr)
        if function is None:
            return None
        declared = _origin(function)
        source = function
        parameters = [
            die for die in function.iter_children() if die.tag == "DW_TAG_formal_parameter"
        ]
        if not parameters and declared is not function:
            source = declared
            parameters = [
                die for die in declared.iter_children() if die.tag == "DW_TAG_formal_parameter"
            ]
        variadic = any(die.tag == "DW_TAG_unspecified_parameters" for die in source.iter_children())
        result = _type(function) if "DW_AT_type" in function.attributes else _type(declared)
        return Signature(
            tuple(
                Parameter(_name(_origin(die)) or _name(die), _type_of(die)) for die in parameters
            ),
            result,
            variadic,
        )

    def _unit_at(self, vaddr: int) -> int | None:
        table = self._dwarf.get_aranges()
        if table is not None and (found := table.cu_offset_at_addr(vaddr)) is not None:
            return int(found)
        if self._ranges is None:
            self._ranges = list(self._unit_ranges())
        for low, high, offset in self._ranges:
            if low <= vaddr < high:
                return offset
        return None

    def _unit_ranges(self) -> Iterator[tuple[int, int, int]]:
        lists = self._dwarf.range_lists()
        for unit in self._dwarf.iter_CUs():
            top = unit.get_top_DIE()
            for low, high in _ranges(top, lists, unit):
                yield low, high, unit.cu_offset

    def _functions(self, die: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
        for child in die.iter_children():
            if child.tag == "DW_TAG_subprogram":
                low = child.attributes.get("DW_AT_low_pc")
                if low is not None:
                    yield int(low.value), child
            elif child.tag in _SCOPES and depth < 8:
                yield from self._functions(child, depth + 1)

    # Data ----------------------------------------------------------------------------------------------------------

    def variable(self, name: str, vaddr: int) -> Any:
        """The entry of a global or static variable: the one at `vaddr` where several have the name."""
        if self._dwarf is None:
            return None
        for unit in self._dwarf.iter_CUs():
            for die in self._variables(unit.get_top_DIE(), name):
                if (address := _location(die)) is not None and address == vaddr:
                    return die
        return None

    def _variables(self, die: Any, name: str, depth: int = 0) -> Iterator[Any]:
        last = name.split("::")[-1]
        for child in die.iter_children():
            if child.tag == "DW_TAG_variable":
                if _name(child) in (name, last) or _name(_origin(child)) in (name, last):
                    yield child
            elif (
                (child.tag in _SCOPES or child.tag == "DW_TAG_subprogram")
                and depth < 8
                and child.has_children
            ):
                yield from self._variables(child, name, depth + 1)

    # BTF -----------------------------------------------------------------------------------------------------------

    def _btf_signature(self, name: str) -> Signature | None:
        from workbench.objects import btf

        if self._btf is None or not name:
            return None
        function = self._btf.find(btf.FUNC, name)
        if function is None:
            return None
        prototype = self._btf.resolve(function.target)
        members = list(prototype.members)
        variadic = bool(members) and not members[-1].name and members[-1].type == 0
        parameters = tuple(
            Parameter(m.name, _btf_type(self._btf, m.type))
            for m in members[: len(members) - variadic]
        )
        return Signature(parameters, _btf_type(self._btf, prototype.target), variadic)


@lru_cache(maxsize=32)
def debug_info(place: str, debug_path: str = "") -> DebugInfo | None:
    """Debug information of a file, or of its separate debug file; None where there is none."""
    for one in (place, debug_path):
        if not one:
            continue
        found = _guard(lambda path=one: DebugInfo(path))
        if isinstance(found, DebugInfo) and (found._dwarf is not None or found._btf is not None):
            return found
    return None


def _guard(question: Any) -> Any:
    """The answer, or None where the debug information is damaged: it may come from anywhere."""
    from elftools.common.exceptions import DWARFError, ELFError

    try:
        return question()
    except (DWARFError, ELFError, *_DAMAGE):
        return None


def _name(die: Any) -> str:
    found = die.attributes.get("DW_AT_name")
    return found.value.decode("utf-8", "replace") if found is not None else ""


def _origin(die: Any) -> Any:
    for _ in range(8):
        for key in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if key in die.attributes:
                die = die.get_DIE_from_attribute(key)
                break
        else:
            return die
    return die


def _ranges(top: Any, lists: Any, unit: Any) -> Iterator[tuple[int, int]]:
    attributes = top.attributes
    low = int(attributes["DW_AT_low_pc"].value) if "DW_AT_low_pc" in attributes else 0
    if "DW_AT_high_pc" in attributes:
        high = attributes["DW_AT_high_pc"]
        yield low, int(high.value) + (0 if high.form == "DW_FORM_addr" else low)
    elif "DW_AT_ranges" in attributes and lists is not None:
        base = low
        for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, unit):
            if hasattr(entry, "base_address"):
                base = entry.base_address
            else:
                start = 0 if getattr(entry, "is_absolute", False) else base
                yield start + entry.begin_offset, start + entry.end_offset


def _location(die: Any) -> int | None:
    """Address of a variable whose location is `DW_OP_addr X`."""
    found = die.attributes.get("DW_AT_location")
    if (
        found is None
        or not isinstance(found.value, list)
        or len(found.value) != 9
        or found.value[0] != 3
    ):
        return None
    return int.from_bytes(bytes(found.value[1:]), "little")


def _type_of(die: Any) -> CType:
    own = die if "DW_AT_type" in die.attributes else _origin(die)
    return _type(own) or VOID


def _target(die: Any) -> Any:
    return die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None


def _strip(die: Any) -> Any:
    for _ in range(_MAX_DEPTH):
        if die is None or die.tag not in (*_QUALIFIERS, "DW_TAG_typedef"):
            return die
        die = _target(die)
    return None


def _spell(die: Any, depth: int = 0) -> str:
    if die is None:
        return "void"
    if depth > 8:
        return "..."
    if die.tag in ("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type"):
        inner = _spell(_target(die), depth + 1)
        return f"{inner}*" if inner.endswith("*") else f"{inner} *"
    if die.tag in _QUALIFIERS:
        word = die.tag[7:].removesuffix("_type")
        return f"{word} {_spell(_target(die), depth + 1)}"
    if die.tag == "DW_TAG_array_type":
        return f"{_spell(_target(die), depth + 1)}[]"
    if die.tag == "DW_TAG_subroutine_type":
        return "function"
    prefix = {
        "DW_TAG_structure_type": "struct ",
        "DW_TAG_union_type": "union ",
        "DW_TAG_enumeration_type": "enum ",
    }
    return prefix.get(die.tag, "") + (_name(die) or "anonymous")


def _type(holder: Any) -> CType:
    """C type of the entry's DW_AT_type; void where it has none."""
    die = _target(holder)
    name = _spell(die)
    bare = _strip(die)
    if bare is None:
        return VOID
    size = _size(bare)
    if bare.tag in ("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type",
                    "DW_TAG_ptr_to_member_type", "DW_TAG_array_type", "DW_TAG_subroutine_type"):  # fmt: skip
        inner = _strip(_target(bare)) if bare.tag == "DW_TAG_pointer_type" else None
        is_text = (
            inner is not None
            and inner.tag == "DW_TAG_base_type"
            and _encoding(inner) in (_SIGNED_CHAR, _UNSIGNED_CHAR)
            and _name(inner) == "char"
        )
        return CType("string" if is_text else "pointer", 8, False, name)
    if bare.tag == "DW_TAG_enumeration_type":
        under = _strip(_target(bare))
        signed = under is not None and _encoding(under) in (_SIGNED, _SIGNED_CHAR)
        return CType("enum", size or 4, signed, name)
    if bare.tag in _AGGREGATES:
        convention = bare.attributes.get("DW_AT_calling_convention")
        if convention is not None and convention.value == _BY_REFERENCE:
            return CType("aggregate", 1 << 20, False, name)
        return CType("aggregate", size, False, name)
    encoding = _encoding(bare)
    if encoding == _BOOLEAN:
        return CType("bool", size, False, name)
    if encoding == _FLOAT or encoding == 3:
        return CType("float", size, True, name)
    kind = "char" if encoding in (_SIGNED_CHAR, _UNSIGNED_CHAR) else "integer"
    return CType(kind, size, encoding in (_SIGNED, _SIGNED_CHAR), name)  # type: ignore[arg-type]


def _encoding(die: Any) -> int:
    found = die.attributes.get("DW_AT_encoding")
    return int(found.value) if found is not None else 0


def _size(die: Any, depth: int = 0) -> int:
    die = _strip(die)
    if die is None or depth > 16:
        return 0
    if "DW_AT_byte_size" in die.attributes:
        return int(die.attributes["DW_AT_byte_size"].value)
    if die.tag == "DW_TAG_array_type":
        total = _size(_target(die), depth + 1)
        for length in _dimensions(die):
            total *= length
        return total
    return 8 if die.tag in ("DW_TAG_pointer_type", "DW_TAG_reference_type") else 0


def _dimensions(die: Any) -> list[int]:
    if isinstance(die, _Rows):
        return list(die.dimensions)
    found = []
    for child in die.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            if "DW_AT_count" in child.attributes:
                found.append(int(child.attributes["DW_AT_count"].value))
            elif "DW_AT_upper_bound" in child.attributes:
                found.append(int(child.attributes["DW_AT_upper_bound"].value) + 1)
            else:
                found.append(0)
    return found


def _btf_type(table: Any, number: int) -> CType:
    from workbench.objects import btf

    kind = table.resolve(number) if number else None
    if kind is None:
        return VOID
    if kind.kind == btf.PTR:
        inner = table.resolve(kind.target) if kind.target else None
        is_text = inner is not None and inner.kind == btf.INT and inner.name == "char"
        return CType(
            "string" if is_text else "pointer", 8, False, (inner.name if inner else "void") + " *"
        )
    if kind.kind == btf.INT:
        dtype = table.dtype(number)
        return CType(
            "bool" if dtype.kind == "b" else "integer", dtype.itemsize, dtype.kind == "i", kind.name
        )
    dtype = table.dtype(number)
    if dtype.kind in "iu":
        return CType("enum", dtype.itemsize, dtype.kind == "i", kind.name)
    if dtype.kind == "f":
        return CType("float", dtype.itemsize, True, kind.name)
    return CType("aggregate", dtype.itemsize, False, kind.name)


# Members of data objects ----------------------------------------------------------------------


def member_of(
    place: str, debug_path: str, name: str, vaddr: int, path: str
) -> tuple[int, int, str]:
    """Offset, size and C type of a part of a data object.

    Parameters
    ----------
    place, debug_path : str
        File of the object, and its separate debug file or empty.
    name, vaddr : str, int
        The object and its address in the file.
    path : str
        What follows the name: `[3]`, `.field`, `[1].field[2]`.

    Raises
    ------
    UnknownSymbol
        No debug information, no such member (its members are listed), or an index out of range.
    """
    info = debug_info(place, debug_path)
    die = _guard(lambda: info.variable(name, vaddr)) if info is not None else None
    if die is None:
        raise UnknownSymbol(
            f"the layout of {name} is not known: {place} has no debug information for it",
            f"compile with -g, or give a byte offset: {name}+8",
        )
    holder = die if "DW_AT_type" in die.attributes else _origin(die)
    kind, offset, shown = _strip(_target(holder)), 0, name
    steps = re.findall(r"\[(\d+)\]|\.(\w+)|(\S)", path)
    for index, field, junk in steps:
        if junk:
            hint = "an element is [N], a member .NAME; a pointer must be followed by its run-time address"
            raise UnknownSymbol(f"{name}{path}: {junk!r} is not understood", hint)
        if index:
            kind, step = _element(kind, int(index), shown)
            shown += f"[{index}]"
        else:
            kind, step = _field(kind, field, shown)
            shown += f".{field}"
        offset += step
    return offset, _size(kind), _spell(kind)


def _element(kind: Any, index: int, shown: str) -> tuple[Any, int]:
    if isinstance(kind, _Rows):
        array, dimensions = kind.array, kind.dimensions
    elif kind is not None and kind.tag == "DW_TAG_array_type":
        array, dimensions = kind, _dimensions(kind)
    else:
        raise UnknownSymbol(f"{shown} is {_spell(kind)}, not an array", "leave the index away")
    if dimensions and dimensions[0] and index >= dimensions[0]:
        raise UnknownSymbol(f"{shown} has {dimensions[0]} elements; [{index}] is outside")
    element = _strip(_target(array))
    size = _size(element)
    for length in dimensions[1:]:
        size *= length
    return (_Rows(array, dimensions[1:]) if len(dimensions) > 1 else element), size * index


class _Rows:
    """The rest of a multi-dimensional array after the first index."""

    tag = "DW_TAG_array_type"

    def __init__(self, array: Any, dimensions: list[int]) -> None:
        self.array, self.dimensions = array, dimensions
        self.attributes = {k: v for k, v in array.attributes.items() if k != "DW_AT_byte_size"}

    def get_DIE_from_attribute(self, name: str) -> Any:
        return self.array.get_DIE_from_attribute(name)

    def iter_children(self) -> Iterator[Any]:
        return iter(self.array.iter_children())


def _field(kind: Any, field: str, shown: str) -> tuple[Any, int]:
    if kind is None or kind.tag not in _AGGREGATES:
        raise UnknownSymbol(
            f"{shown} is {_spell(kind)}, not a struct or union", "leave the member away"
        )
    found = _search(kind, field)
    if found is None:
        names = [
            _name(child)
            for child in kind.iter_children()
            if child.tag == "DW_TAG_member" and _name(child)
        ]
        raise UnknownSymbol(
            f"{_spell(kind)} has no member {field!r}", f"its members: {', '.join(names)}"
        )
    return found


def _search(kind: Any, field: str, depth: int = 0) -> tuple[Any, int] | None:
    for child in kind.iter_children():
        if child.tag not in ("DW_TAG_member", "DW_TAG_inheritance"):
            continue
        where = child.attributes.get("DW_AT_data_member_location")
        start = int(where.value) if where is not None and isinstance(where.value, int) else 0
        inner = _strip(_target(child))
        if _name(child) == field:
            if "DW_AT_data_bit_offset" in child.attributes or "DW_AT_bit_size" in child.attributes:
                raise UnknownSymbol(
                    f"{field} is a bit field and has no address of its own",
                    "watch its whole struct",
                )
            return inner, start
        if (
            not _name(child) and inner is not None and depth < 8
        ):  # anonymous members and base classes
            nested = _search(inner, field, depth + 1)
            if nested is not None:
                return nested[0], start + nested[1]
    return None
