"""BTF, the type information of BPF objects and kernels, read without libbpf.

Format: kernel Documentation/bpf/btf.rst. Only what layouts need is decoded; kinds are kept by their number.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.objects.elf import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("BadBtf", "Btf", "Member", "Type", "essential_name")

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC = range(1, 13)
FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(13, 20)
_HEADER = 24  # bytes
_MODIFIERS = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)


_FLAVOUR = re.compile(r"(.*[^_])___[^_]", re.DOTALL)


def essential_name(name: str) -> str:
    """`name` without its flavour, by which CO-RE compares: `task_struct___old` -> `task_struct`."""
    found = _FLAVOUR.match(name) if "___" in name else None
    return found[1] if found else name


class BadBtf(WorkbenchError):
    """BTF bytes that do not follow the format; without another hint, one for damaged files."""

    code = "bad-btf"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or DAMAGED)


@dataclass(frozen=True, slots=True)
class Member:
    """Member of a struct or union, parameter of a function, or variable of a data section (`offset` in bits)."""

    name: str
    type: int
    offset: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Type:
    """One BTF type. `size` is the byte size for sized kinds, `target` the referred type for the others.

    `count` is the length of an array, the linkage of a function or variable (0 static, 1 global, 2 extern), the
    offset in bits of an old bit-field integer, and 1 for the forward declaration of a union.
    """

    id: int
    kind: int
    name: str
    size: int = 0
    target: int = 0
    count: int = 0
    signed: bool = False
    members: tuple[Member, ...] = field(default=())


class Btf:
    """All types of one BTF blob.

    Parameters
    ----------
    data : bytes
        Content of a `.BTF` section or of /sys/kernel/btf/NAME.
    name : str
        Whose it is, for messages.

    Raises
    ------
    BadBtf
        Truncated or malformed.
    """

    def __init__(self, data: bytes, name: str = "") -> None:
        try:
            self._parse(data)
        except (IndexError, ValueError, OverflowError) as error:
            where = f" in section .BTF of {name}" if name else ""
            raise BadBtf(f"malformed BTF{where}: {error}") from None

    def _parse(self, data: bytes) -> None:
        if len(data) < _HEADER:
            raise ValueError(f"its header is cut short after {len(data)} bytes")
        magic, _version, _flags, header = struct.unpack_from("<HBBI", data)
        if magic != 0xEB9F:
            raise ValueError(f"magic is {magic:#x}, expected 0xeb9f")
        type_off, type_len, str_off, str_len = struct.unpack_from("<4I", data, 8)
        types = memoryview(data)[header + type_off : header + type_off + type_len]
        self._strings = bytes(data[header + str_off : header + str_off + str_len])
        if len(types) != type_len or len(self._strings) != str_len:
            raise ValueError(
                f"types ({type_len} bytes at offset {header + type_off}) or strings ({str_len} bytes at offset "
                f"{header + str_off}) reach past its end at {len(data)}"
            )
        self.types: list[Type] = [Type(0, 0, "void")]
        self._by_name: dict[tuple[int, str], int] = {}
        at = 0
        try:
            while at < type_len:
                at = self._parse_one(types, at)
        except struct.error:
            raise ValueError(
                f"type {len(self.types)} at offset {header + type_off + at} is cut short"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"type {len(self.types)} at offset {header + type_off + at}: {error}"
            ) from None

    def _parse_one(self, types: memoryview, at: int) -> int:
        name_off, info, size = struct.unpack_from("<3I", types, at)
        at += 12
        kind, count, flag = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        number, name = len(self.types), self.string(name_off)
        if kind == INT:
            (bits,) = struct.unpack_from("<I", types, at)
            at += 4
            made = Type(
                number, kind, name, size=size, signed=bool(bits >> 24 & 1), count=bits >> 16 & 0xFF
            )
        elif kind == ARRAY:
            element, _index, length = struct.unpack_from("<3I", types, at)
            at += 12
            made = Type(number, kind, name, target=element, count=length)
        elif kind in (STRUCT, UNION):
            members = []
            for i in range(count):
                member, member_type, offset = struct.unpack_from("<3I", types, at + 12 * i)
                bits = offset >> 24 if flag else 0
                members.append(
                    Member(
                        self.string(member),
                        member_type,
                        offset & 0xFFFFFF if flag else offset,
                        bits,
                    )
                )
            at += 12 * count
            made = Type(number, kind, name, size=size, members=tuple(members))
        elif kind in (ENUM, ENUM64):
            width = 12 if kind == ENUM64 else 8
            values = []
            for i in range(count):
                label, low = struct.unpack_from("<Ii", types, at + width * i)
                high = (
                    struct.unpack_from("<i", types, at + width * i + 8)[0] if kind == ENUM64 else 0
                )
                value = (high << 32) | (low & 0xFFFFFFFF) if kind == ENUM64 else low
                values.append(Member(self.string(label), 0, value))
            at += width * count
            made = Type(number, kind, name, size=size, signed=flag, members=tuple(values))
        elif kind == FUNC_PROTO:
            arguments = tuple(
                Member(self.string(n), t)
                for n, t in (struct.unpack_from("<2I", types, at + 8 * i) for i in range(count))
            )
            at += 8 * count
            made = Type(number, kind, name, target=size, members=arguments)
        elif kind == VAR:
            (linkage,) = struct.unpack_from("<I", types, at)
            at += 4
            made = Type(number, kind, name, target=size, count=linkage)
        elif kind == DATASEC:
            variables = tuple(
                Member("", t, offset * 8, length * 8)
                for t, offset, length in (
                    struct.unpack_from("<3I", types, at + 12 * i) for i in range(count)
                )
            )
            at += 12 * count
            made = Type(number, kind, name, size=size, members=variables)
        elif kind == DECL_TAG:
            at += 4
            made = Type(number, kind, name, target=size)
        elif kind == FLOAT:
            made = Type(number, kind, name, size=size)
        elif kind == FUNC:
            made = Type(number, kind, name, target=size, count=count)
        elif kind == FWD:
            made = Type(number, kind, name, count=int(flag))
        elif kind in (PTR, *_MODIFIERS):
            made = Type(number, kind, name, target=size)
        else:
            raise ValueError(f"unknown kind {kind}")
        self.types.append(made)
        self._by_name.setdefault((kind, name), number)
        return at

    def string(self, offset: int) -> str:
        """String at `offset` of the string section."""
        if offset >= len(self._strings):
            raise ValueError(
                f"offset {offset} is past the end of the strings at {len(self._strings)}"
            )
        end = self._strings.find(b"\0", offset)
        return self._strings[offset : end if end >= 0 else None].decode("utf-8", "replace")

    def find(self, kind: int, name: str) -> Type | None:
        """First type of that kind and name."""
        number = self._by_name.get((kind, name))
        return None if number is None else self.types[number]

    @cached_property
    def by_essential_name(self) -> dict[str, list[int]]:
        """Named types by their name without flavour (`task_struct___old` counts as `task_struct`)."""
        found: dict[str, list[int]] = {}
        for one in self.types:
            if one.name:
                found.setdefault(essential_name(one.name), []).append(one.id)
        return found

    def resolve(self, number: int) -> Type:
        """Follow typedefs and qualifiers.

        Raises
        ------
        BadBtf
            A reference outside the table, or a cycle.
        """
        for _ in range(64):
            if not 0 <= number < len(self.types):
                break
            one = self.types[number]
            if one.kind not in _MODIFIERS:
                return one
            number = one.target
        raise BadBtf(f"BTF: type {number} cannot be resolved")

    def size(self, number: int) -> int:
        """Byte size of a type (8 for pointers, 0 for void and functions)."""
        return self._size(number, 0)

    def _size(self, number: int, depth: int) -> int:
        one = self.resolve(number)
        if depth > 32:
            raise BadBtf(f"BTF: types nest too deeply, at type {number}")
        if one.kind == PTR:
            return 8
        if one.kind == ARRAY:
            return one.count * self._size(one.target, depth + 1)
        return one.size

    def dtype(self, number: int) -> np.dtype[Any]:
        """numpy dtype with the exact layout of a C type; `char[N]` becomes bytes (`SN`).

        Bit-fields and flexible arrays are left out: they have no numpy equivalent.
        """
        try:
            return np.dtype(self._dtype(number, 0))
        except (
            ValueError,
            OverflowError,
            TypeError,
        ) as error:  # sizes and offsets that no memory could hold
            raise BadBtf(f"BTF: type {number} has no layout: {error}") from None

    def _dtype(self, number: int, depth: int) -> np.dtype[Any]:
        if depth > 32:
            raise BadBtf(f"BTF: types nest too deeply, at type {number}")
        one = self.resolve(number)
        if one.kind == INT:
            if one.size not in (1, 2, 4, 8):
                return np.dtype(("u1", (one.size,)))
            if one.name == "_Bool":
                return np.dtype("?")
            return np.dtype(f"{'i' if one.signed else 'u'}{one.size}")
        if one.kind in (ENUM, ENUM64):
            if one.size not in (1, 2, 4, 8):
                raise BadBtf(f"enum {one.name or one.id} of {one.size} bytes")
            return np.dtype(f"{'i' if one.signed else 'u'}{one.size}")
        if one.kind == FLOAT:
            if one.size not in (2, 4, 8, 16):
                raise BadBtf(f"floating-point type {one.name or one.id} of {one.size} bytes")
            return np.dtype(f"f{one.size}")
        if one.kind == PTR:
            return np.dtype("u8")
        if one.kind == ARRAY:
            element = self.resolve(one.target)
            if element.kind == INT and element.name == "char":
                return np.dtype(f"S{one.count}")
            inner = self._dtype(one.target, depth + 1)
            base, shape = inner.subdtype or (inner, ())
            return np.dtype((base, (one.count, *shape)))
        if one.kind in (STRUCT, UNION):
            fields = [
                (m.name, self._dtype(m.type, depth + 1), m.offset // 8)
                for m in self._flat(one, 0, 0)
                if not m.bits and self.size(m.type)
            ]
            return np.dtype(
                {
                    "names": [f[0] for f in fields],
                    "formats": [f[1] for f in fields],
                    "offsets": [f[2] for f in fields],
                    "itemsize": one.size,
                }
            )
        raise BadBtf(f"type {one.name or one.id} (kind {one.kind}) has no layout")

    def _flat(self, one: Type, base: int, depth: int) -> Iterator[Member]:
        """Members with those of anonymous structs and unions pulled up, offsets in bits from the outermost."""
        for member in one.members:
            inner = self.resolve(member.type)
            if not member.name and inner.kind in (STRUCT, UNION) and depth < 32:
                yield from self._flat(inner, base + member.offset, depth + 1)
            elif member.name:
                yield Member(member.name, member.type, base + member.offset, member.bits)

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Variables of a data section: name -> (byte offset, type)."""
        data = self.find(DATASEC, section)
        if data is None:
            return {}
        found = {}
        for entry in data.members:
            variable = self.resolve(entry.type)
            found[variable.name] = (entry.offset // 8, variable.target)
        return found
