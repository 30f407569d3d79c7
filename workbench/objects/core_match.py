"""When a type of an object and a type of the target are the same thing: libbpf's rules for CO-RE.

Source of the rules: tools/lib/bpf/relo_core.c (`bpf_core_types_are_compat`, `bpf_core_types_match`,
`bpf_core_fields_are_compat`). Names match without their flavour: what follows the last `___`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.objects.btf import (
    ARRAY,
    ENUM,
    ENUM64,
    FLOAT,
    FUNC_PROTO,
    FWD,
    INT,
    PTR,
    STRUCT,
    UNION,
    BadBtf,
    essential_name,
)

if TYPE_CHECKING:
    from workbench.objects.btf import Btf, Type

__all__ = ("Matcher", "same_kind", "size_of")

ENUMS, COMPOSITES = (ENUM, ENUM64), (STRUCT, UNION)
_VOID = 0
_DEEPEST = 32
_STEPS = 200_000


def same_kind(one: Type, other: Type) -> bool:
    """Equal kinds, where enums of 32 and of 64 bits are one."""
    return one.kind == other.kind or (one.kind in ENUMS and other.kind in ENUMS)


def size_of(btf: Btf, number: int) -> int:
    """Byte size; unlike `Btf.size`, a type without one is an error.

    Raises
    ------
    BadBtf
    """
    one = btf.resolve(number)
    for _ in range(_DEEPEST):
        if one.kind != ARRAY:
            break
        one = btf.resolve(one.target)
    if one.kind not in (INT, PTR, STRUCT, UNION, ENUM, ENUM64, FLOAT):
        raise BadBtf(f"type {number} ({one.name or 'without name'}) has no size")
    return btf.size(number)


class Matcher:
    """Compares types of `local` with types of `target`; answers are remembered.

    Raises
    ------
    BadBtf
        From every method: references outside the table, or nesting without end.
    """

    def __init__(self, local: Btf, target: Btf) -> None:
        self.local, self.target = local, target
        self._known: dict[tuple[int, int, bool], bool] = {}
        self._steps = 0

    def step(self) -> None:
        """Count work: damaged types can nest so that comparing them would never end."""
        self._steps += 1
        if self._steps > _STEPS:
            raise BadBtf("types nest too deeply to be compared")

    def names_match(self, local: str, target: str) -> bool:
        """Equal without flavours; an anonymous type matches anonymous ones only."""
        return not local if not target else essential_name(local) == essential_name(target)

    def compatible(self, local: int, target: int, level: int = _DEEPEST) -> bool:
        """Rule of bpf_core_type_exists, _size and _id: same shape of kinds, members are not looked at."""
        if not same_kind(self._local(local), self._target(target)):
            return False
        for _ in range(_DEEPEST):
            self.step()
            one, other = self.local.resolve(local), self.target.resolve(target)
            if not same_kind(one, other):
                return False
            if one.kind in (_VOID, FWD, *ENUMS, *COMPOSITES):
                return True
            if one.kind == INT:
                return one.count == 0 and other.count == 0
            if one.kind == FUNC_PROTO:
                if len(one.members) != len(other.members):
                    return False
                if one.members and level <= 0:
                    raise BadBtf("function types nest too deeply")
                pairs = zip(one.members, other.members, strict=True)
                for a, b in pairs:
                    mine, theirs = self.local.resolve(a.type), self.target.resolve(b.type)
                    if not self.compatible(mine.id, theirs.id, level - 1):
                        return False
            elif one.kind not in (PTR, ARRAY):
                return False
            local, target = one.target, other.target
        raise BadBtf(f"type {local} nests too deeply")

    def fields_compatible(self, local: int, target: int) -> bool:
        """Rule of field accesses: kinds only, sizes and signs of integers do not matter."""
        for _ in range(_DEEPEST):
            self.step()
            one, other = self.local.resolve(local), self.target.resolve(target)
            if one.kind in COMPOSITES and other.kind in COMPOSITES:
                return True
            if not same_kind(one, other):
                return False
            if one.kind in (PTR, FLOAT):
                return True
            if one.kind in (FWD, *ENUMS):
                a, b = essential_name(one.name), essential_name(other.name)
                return not a or not b or a == b
            if one.kind == INT:
                return one.count == 0 and other.count == 0
            if one.kind != ARRAY:
                return False
            local, target = one.target, other.target
        raise BadBtf(f"type {local} nests too deeply")

    def matches(self, local: int, target: int, behind: bool = False, level: int = _DEEPEST) -> bool:
        """Rule of bpf_core_type_matches: every local member exists in the target and matches in turn."""
        key = (local, target, behind)
        if key not in self._known:
            self._known[key] = self._matches(local, target, behind, level)
        return self._known[key]

    def _matches(self, local: int, target: int, behind: bool, level: int) -> bool:
        if level <= 0:
            raise BadBtf(f"type {local} nests too deeply")
        for _ in range(_DEEPEST):
            self.step()
            one, other = self.local.resolve(local), self.target.resolve(target)
            if not self.names_match(one.name, other.name):
                return False
            if one.kind == _VOID:
                return other.kind == _VOID
            if one.kind == FWD:
                return self._forward_matches(one, other, behind)
            if one.kind in ENUMS:
                return other.kind in ENUMS and self._enums_match(one, other)
            if one.kind in COMPOSITES:
                if not behind:
                    return one.kind == other.kind and self._members_match(one, other, level)
                if other.kind == FWD:
                    return (one.kind == UNION) == bool(other.count)
                return one.kind == other.kind
            if one.kind != other.kind:
                return False
            if one.kind == INT:
                return one.size == other.size and one.signed == other.signed
            if one.kind == PTR:
                behind = True
            elif one.kind == ARRAY:
                if one.count != other.count:
                    return False
            elif one.kind == FUNC_PROTO:
                if len(one.members) != len(other.members):
                    return False
                pairs = zip(one.members, other.members, strict=True)
                if not all(self.matches(a.type, b.type, behind, level - 1) for a, b in pairs):
                    return False
            else:
                return False
            local, target = one.target, other.target
        raise BadBtf(f"type {local} nests too deeply")

    def _forward_matches(self, one: Type, other: Type, behind: bool) -> bool:
        if other.kind == FWD:
            return one.count == other.count
        return behind and other.kind == (UNION if one.count else STRUCT)

    def _enums_match(self, one: Type, other: Type) -> bool:
        if one.size != other.size or len(one.members) > len(other.members):
            return False
        theirs = {essential_name(m.name) for m in other.members}
        return all(essential_name(m.name) in theirs for m in one.members)

    def _members_match(self, one: Type, other: Type, level: int) -> bool:
        if len(one.members) > len(other.members):
            return False
        for mine in one.members:
            for theirs in other.members:
                self.step()
                if self.names_match(mine.name, theirs.name) and self.matches(
                    mine.type, theirs.type, False, level - 1
                ):
                    break
            else:
                return False
        return True

    def _local(self, number: int) -> Type:
        return _type(self.local, number)

    def _target(self, number: int) -> Type:
        return _type(self.target, number)


def _type(btf: Btf, number: int) -> Type:
    if not 0 <= number < len(btf.types):
        raise BadBtf(f"there is no type {number}")
    return btf.types[number]
