"""CO-RE relocations: what a field, type or enum value of the object is in the target's types.

The rules are libbpf's (tools/lib/bpf/relo_core.c, `bpf_core_calc_relo_insn`): candidates are all types of the target
with the same kind and essential name; members are found by name, through anonymous structs and unions; candidates
that disagree are an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.objects.btf import (
    ARRAY,
    ENUM,
    ENUM64,
    INT,
    PTR,
    STRUCT,
    UNION,
    BadBtf,
    essential_name,
)
from workbench.objects.core_match import COMPOSITES, ENUMS, Matcher, same_kind, size_of

if TYPE_CHECKING:
    from workbench.objects.btf import Btf, Type
    from workbench.objects.btf_ext import CoreRecord

__all__ = ("AmbiguousRelocation", "Resolution", "Resolver")

(
    FIELD_BYTE_OFFSET, FIELD_BYTE_SIZE, FIELD_EXISTS, FIELD_SIGNED, FIELD_LSHIFT_U64, FIELD_RSHIFT_U64,
    TYPE_ID_LOCAL, TYPE_ID_TARGET, TYPE_EXISTS, TYPE_SIZE, ENUMVAL_EXISTS, ENUMVAL_VALUE, TYPE_MATCHES,
) = range(13)  # fmt: skip
_FIELD_KINDS = range(FIELD_BYTE_OFFSET, FIELD_RSHIFT_U64 + 1)
_TYPE_KINDS = (TYPE_ID_LOCAL, TYPE_ID_TARGET, TYPE_EXISTS, TYPE_SIZE, TYPE_MATCHES)
_ENUM_KINDS = (ENUMVAL_EXISTS, ENUMVAL_VALUE)
_LONGEST = 64
_KEYWORDS = {STRUCT: "struct ", UNION: "union ", ENUM: "enum ", ENUM64: "enum "}


class AmbiguousRelocation(WorkbenchError):
    """Several types of the target fit a CO-RE relocation and disagree."""

    code = "ambiguous-relocation"


@dataclass(frozen=True, slots=True)
class Resolution:
    """Outcome of one relocation.

    Attributes
    ----------
    expected : int
        What the compiler must have put into the instruction (64 bits).
    value : int
        What belongs there.
    check : bool
        `expected` is unambiguous, so a difference is damage.
    sizes : tuple of int
        Bytes of the field in the object and in the target; (0, 0) where loads keep their size.
    missing : str
        Not empty: the target lacks what the instruction needs; this says what.
    misread : str
        Not empty: a load or store of this field would give another value than in C; this says why.
    """

    expected: int = 0
    value: int = 0
    check: bool = True
    sizes: tuple[int, int] = (0, 0)
    missing: str = ""
    misread: str = ""


@dataclass(frozen=True, slots=True)
class _Accessor:
    """One step: member `index` of a struct (with its name), or element `index` of an array (type of the element)."""

    type: int
    index: int
    name: str = ""


@dataclass(slots=True)
class _Spec:
    """A path from a type to a field of it."""

    btf: Btf
    root: int
    steps: list[_Accessor] = field(default_factory=list)
    bits: int = 0


class Resolver:
    """Resolves relocations of `local`, the object's types, against `target`.

    Where `target` is `local` itself, every type is its own only candidate: the layout that the source declares.
    """

    def __init__(self, local: Btf, target: Btf) -> None:
        self.local, self.target = local, target
        self._matcher = Matcher(local, target)
        self._candidates: dict[int, list[int]] = {}

    def resolve(self, record: CoreRecord) -> Resolution:
        """One relocation.

        Raises
        ------
        BadBtf
            Damaged: an access string or type that does not exist.
        AmbiguousRelocation
            The target's candidates disagree.
        """
        spec = self._parse(record)
        if record.kind == TYPE_ID_LOCAL:
            return Resolution(record.type, record.type, check=False)
        if not self.local.types[record.type].name:
            raise BadBtf(f"CO-RE relocation of type {record.type}, which has no name")
        if record.type not in self._candidates:
            self._candidates[record.type] = self._find(record.type)
        fitting: list[int] = []
        found: Resolution | None = None
        bits = 0
        for candidate in self._candidates[record.type]:
            other = self._match(record.kind, spec, candidate)
            if other is None:
                continue
            one = self._calculate(record.kind, spec, other)
            if found is None:
                found, bits = one, other.bits
            elif (bits, found.value, bool(found.missing)) != (
                other.bits,
                one.value,
                bool(one.missing),
            ):
                raise AmbiguousRelocation(
                    f"{self._describe(record, spec)} is {found.value} in type {fitting[0]} of the target, "
                    f"but {one.value} in type {candidate}"
                )
            fitting.append(candidate)
        if found is None:
            return self._absent(record, spec)
        # As libbpf: what did not fit one relocation of a type is no candidate for its others.
        self._candidates[record.type] = fitting
        return found

    def _find(self, number: int) -> list[int]:
        if self.target is self.local:
            return [number]
        one = self.local.types[number]
        same_name = self.target.by_essential_name.get(essential_name(one.name), ())
        return [n for n in same_name if same_kind(one, self.target.types[n])]

    def _parse(self, record: CoreRecord) -> _Spec:
        btf, kind = self.local, record.kind
        if not 0 < record.type < len(btf.types):
            raise BadBtf(f"CO-RE relocation of type {record.type}: there is none")
        spec = _Spec(btf, record.type)
        if kind in _TYPE_KINDS:
            if record.access != "0":
                raise BadBtf(f"CO-RE relocation of a type with access {record.access!r}")
            return spec
        parts = record.access.split(":")
        if (
            not all(p.isascii() and p.isdecimal() and len(p) < 10 for p in parts)
            or len(parts) > _LONGEST
        ):
            raise BadBtf(f"CO-RE relocation with access {record.access!r}")
        path = [int(part) for part in parts]
        one = btf.resolve(record.type)
        if kind in _ENUM_KINDS:
            if one.kind not in ENUMS or len(path) > 1 or path[0] >= len(one.members):
                raise BadBtf(f"CO-RE relocation of value {record.access} of type {record.type}")
            spec.steps.append(_Accessor(one.id, path[0], one.members[path[0]].name))
            return spec
        if kind not in _FIELD_KINDS:
            raise BadBtf(f"CO-RE relocation of unknown kind {kind}")
        spec.steps.append(_Accessor(one.id, path[0]))
        spec.bits = path[0] * size_of(btf, one.id) * 8
        for index in path[1:]:
            if one.kind in COMPOSITES:
                if index >= len(one.members):
                    raise BadBtf(f"CO-RE relocation of member {index} of {one.name or one.id}")
                member = one.members[index]
                spec.bits += member.offset
                if member.name:
                    spec.steps.append(_Accessor(one.id, index, member.name))
                one = btf.resolve(member.type)
            elif one.kind == ARRAY:
                element = btf.resolve(one.target)
                if index >= one.count and not _flexible(btf, spec, one):
                    raise BadBtf(f"CO-RE relocation of element {index} of an array of {one.count}")
                spec.steps.append(_Accessor(element.id, index))
                spec.bits += index * size_of(btf, element.id) * 8
                one = element
            else:
                raise BadBtf(f"CO-RE relocation with access {record.access!r} into type {one.id}")
        return spec

    def _match(self, kind: int, local: _Spec, candidate: int) -> _Spec | None:
        made = _Spec(self.target, candidate)
        if kind in _TYPE_KINDS:
            rule = self._matcher.matches if kind == TYPE_MATCHES else self._matcher.compatible
            return made if rule(local.root, candidate) else None
        if kind in _ENUM_KINDS:
            one = self.target.resolve(candidate)
            wanted = essential_name(local.steps[0].name)
            for index, member in enumerate(one.members if one.kind in ENUMS else ()):
                if essential_name(member.name) == wanted:
                    made.steps.append(_Accessor(one.id, index, member.name))
                    return made
            return None
        at = candidate
        for place, step in enumerate(local.steps):
            one = self.target.resolve(at)
            if step.name:
                inside = self._member(step, one, 0)
                if inside is None:
                    return None
                accessor, bits, at = inside
                made.steps.append(accessor)
                made.bits += bits
                continue
            if place:
                if one.kind != ARRAY:
                    return None
                if step.index >= one.count and not _flexible(self.target, made, one):
                    return None
                one = self.target.resolve(one.target)
            at = one.id
            made.steps.append(_Accessor(at, step.index))
            made.bits += step.index * size_of(self.target, at) * 8
        return made

    def _member(
        self, step: _Accessor, holder: Type, depth: int
    ) -> tuple[_Accessor, int, int] | None:
        """Member of the target's `holder` with the name of `step`: accessor, offset in bits, type."""
        if holder.kind not in COMPOSITES:
            return None
        if depth > _LONGEST:
            raise BadBtf(f"type {holder.id} nests too deeply")
        mine = self.local.types[step.type].members[step.index]
        for index, member in enumerate(holder.members):
            self._matcher.step()
            if not member.name:
                inside = self._member(step, self.target.resolve(member.type), depth + 1)
                if inside is not None:
                    return inside[0], inside[1] + member.offset, inside[2]
            elif member.name == step.name:
                if not self._matcher.fields_compatible(mine.type, member.type):
                    return None
                accessor = _Accessor(holder.id, index, member.name)
                return accessor, member.offset, member.type
        return None

    def _calculate(self, kind: int, local: _Spec, target: _Spec) -> Resolution:
        if kind in _FIELD_KINDS:
            if kind == FIELD_EXISTS:
                return Resolution(1, 1)
            mine, theirs = _field(kind, local), _field(kind, target)
            return Resolution(
                mine.value,
                theirs.value,
                mine.check,
                (mine.size, theirs.size),
                misread=_misread(local, target, mine, theirs),
            )
        if kind in _ENUM_KINDS:
            if kind == ENUMVAL_EXISTS:
                return Resolution(1, 1)
            return Resolution(_enum_value(local), _enum_value(target))
        if kind == TYPE_ID_TARGET:
            return Resolution(local.root, target.root, check=False)
        if kind == TYPE_SIZE:
            return Resolution(size_of(local.btf, local.root), size_of(target.btf, target.root))
        return Resolution(1, 1)

    def _absent(self, record: CoreRecord, spec: _Spec) -> Resolution:
        kind = record.kind
        if kind in (FIELD_EXISTS, ENUMVAL_EXISTS, TYPE_EXISTS, TYPE_MATCHES):
            return Resolution(1, 0)
        if kind == TYPE_SIZE:
            return Resolution(size_of(spec.btf, spec.root), 0)
        if kind == TYPE_ID_TARGET:
            return Resolution(spec.root, 0, check=False)
        why = "" if self._find(record.type) else ": it has no such type"
        return Resolution(
            missing=f"{self._describe(record, spec)} is not in the target's types{why}"
        )

    def _describe(self, record: CoreRecord, spec: _Spec) -> str:
        one = self.local.types[record.type]
        text = f"{_KEYWORDS.get(one.kind, '')}{essential_name(one.name)}"
        if record.kind in _ENUM_KINDS:
            return f"{text}::{spec.steps[0].name}"
        for place, step in enumerate(spec.steps):
            if step.name:
                text += f".{step.name}"
            elif place or step.index:
                text += f"[{step.index}]"
        return text


@dataclass(frozen=True, slots=True)
class _Field:
    value: int
    check: bool = True
    size: int = 0  # bytes that a load of it takes; 0 for bit-fields
    type: int = 0


def _flexible(btf: Btf, spec: _Spec, array: Type) -> bool:
    """The array just reached is the flexible last member of a struct."""
    last = spec.steps[-1]
    return bool(
        last.name and not array.count and last.index == len(btf.types[last.type].members) - 1
    )


def _field(kind: int, spec: _Spec) -> _Field:
    last = spec.steps[-1]
    if not last.name:
        size = size_of(spec.btf, last.type)
        if kind == FIELD_BYTE_OFFSET:
            return _Field(spec.bits // 8, True, size, last.type)
        if kind == FIELD_BYTE_SIZE:
            return _Field(size)
        raise BadBtf(f"CO-RE relocation of kind {kind} of an array element")
    member = spec.btf.types[last.type].members[last.index]
    one = spec.btf.resolve(member.type)
    bits, is_bitfield = member.bits, member.bits > 0
    if is_bitfield:
        size = one.size
        if size not in (1, 2, 4, 8):
            raise BadBtf(f"bit-field {last.name} in {size} bytes")
        offset = spec.bits // 8 // size * size
        while spec.bits + bits - offset * 8 > size * 8:
            if size >= 8:
                raise BadBtf(f"bit-field {last.name} does not fit a load of 64 bits")
            size *= 2
            offset = spec.bits // 8 // size * size
    else:
        size = size_of(spec.btf, one.id)
        offset, bits = spec.bits // 8, size * 8
    if kind == FIELD_BYTE_OFFSET:
        return _Field(offset, not is_bitfield, 0 if is_bitfield else size, one.id)
    if kind == FIELD_BYTE_SIZE:
        return _Field(size, not is_bitfield)
    if kind == FIELD_SIGNED:
        return _Field(int(one.kind in (INT, *ENUMS) and one.signed))
    if kind == FIELD_LSHIFT_U64:
        return _Field(64 - (spec.bits + bits - offset * 8), not is_bitfield)
    return _Field(64 - bits)


def _misread(local: _Spec, target: _Spec, mine: _Field, theirs: _Field) -> str:
    """Why a load of the field cannot take the target's size; empty where it can."""
    if mine.size == theirs.size:
        return ""
    if not mine.type or not theirs.type:
        return f"field {local.steps[-1].name!r} is a bit-field on one side only"
    one, other = local.btf.resolve(mine.type), target.btf.resolve(theirs.type)
    if one.kind == other.kind == PTR:
        return ""
    if one.kind == other.kind == INT and not one.signed and not other.signed:
        return ""
    return (
        f"field {local.steps[-1].name or '[]'!r} has {theirs.size} bytes in the target, {mine.size} in the object, "
        "and only pointers and unsigned integers keep their value when read with another size"
    )


def _enum_value(spec: _Spec) -> int:
    step = spec.steps[0]
    return spec.btf.types[step.type].members[step.index].offset & 0xFFFFFFFFFFFFFFFF
