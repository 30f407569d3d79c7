"""From the lines of `apis.py` to what the BPF program reads: where each argument is, by the calling convention.

System V AMD64 psABI 3.2.3 and AAPCS64 6.8.2. A `dim3` is 12 bytes of integers: two registers on both. A struct of
more than 16 bytes lies on the stack on x86-64, and is passed as a pointer to a copy on aarch64.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from functools import lru_cache

from workbench.collectors.gpu.apis import DRIVER, LAYOUTS, OPENCL, RUNTIME, SUFFIXES
from workbench.collectors.uprobe.abi import register_offset
from workbench.errors import MissingCapability

__all__ = ("LAYERS", "MAX_FIELDS", "Api", "Field", "all_apis")

LAYERS = ("runtime", "driver", "opencl")
MAX_FIELDS = 10
_TABLES = {"runtime": RUNTIME, "driver": DRIVER, "opencl": OPENCL}
_REGISTER, _MEMORY = 1, 2
_FLAGS = {"bytes": 2, "pointer": 4, "code": 8, "text": 16}
_AT_RETURN = 1
_KINDS = {"alloc": 1, "free": 2, "retain": 3, "name": 4}
_RESULTS = {"code": 0, "handle": 1, "address": 2, "void": 3}
_PARAMETERS = {
    "x86_64": ("di", "si", "dx", "cx", "r8", "r9"),
    "aarch64": tuple(f"x{i}" for i in range(8)),
}
# At the first instruction the stack pointer is at the return address (x86-64) or at the first stack argument.
_STACK_START = {"x86_64": 8, "aarch64": 0}


@dataclass(frozen=True, slots=True)
class Field:
    """How the BPF program gets one value: `struct field` of bpf/gpu.bpf.c, and what it is (`role`)."""

    role: str
    source: int
    size: int
    base: int
    offset: int = 0
    shift: int = 0
    inner: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """The C struct."""
        return struct.pack(
            "<iHBBBBH", self.offset, self.base, self.source, self.shift, self.size, self.flags, self.inner
        )


@dataclass(frozen=True, slots=True)
class Api:
    """One API function: its name with the variant's suffix, what it does, and its fields."""

    name: str
    layer: str
    kind: str
    detail: str
    result: str
    fields: tuple[Field, ...]

    @property
    def scale(self) -> int:
        """Bytes per counted unit (cuMemsetD32 counts words)."""
        return int(self.detail) if self.kind == "fill" and self.detail else 1

    def pack(self) -> bytes:
        """`struct api` of bpf/gpu.bpf.c."""
        body = b"".join(field.pack() for field in self.fields).ljust(12 * MAX_FIELDS, b"\0")
        return body + struct.pack(
            "<IHBBB7x",
            len(self.fields),
            self.scale,
            _KINDS.get(self.kind, 0),
            _RESULTS[self.result],
            LAYERS.index(self.layer),
        )

    def position(self, role: str) -> int:
        """Which of the recorded values is `role`; -1 where the function has none."""
        return next((i for i, field in enumerate(self.fields) if field.role == role), -1)


class _Arguments:
    """Hands out registers and stack slots in the order of the parameters."""

    def __init__(self, machine: str) -> None:
        if machine not in _PARAMETERS:
            raise MissingCapability(f"the calling convention of {machine} is not described here")
        self.machine = machine
        self._registers = list(_PARAMETERS[machine])
        self._stack = _STACK_START[machine]

    def scalar(self) -> tuple[int, int, int]:
        """(source, base, offset) of the next argument of one word."""
        if self._registers:
            return _REGISTER, register_offset(self._registers.pop(0), self.machine), 0
        at, self._stack = self._stack, self._stack + 8
        return _MEMORY, register_offset("sp", self.machine), at

    def pair(self) -> list[tuple[int, int, int]]:
        """The same for two words that must be both in registers or both on the stack."""
        if len(self._registers) < 2:
            if self.machine == "aarch64":
                self._registers.clear()
            taken, self._registers = self._registers, []
            words = [self.scalar(), self.scalar()]
            self._registers = taken
            return words
        return [self.scalar(), self.scalar()]

    def block(self, size: int) -> tuple[int, int]:
        """(base, offset) of memory that holds a large struct passed by value."""
        if self.machine == "aarch64":
            source, base, offset = self.scalar()
            if source != _REGISTER:
                raise MissingCapability("a struct passed by value whose address is on the stack")
            return base, offset
        at, self._stack = self._stack, self._stack + (size + 7) // 8 * 8
        return register_offset("sp", self.machine), at


def _role(text: str) -> tuple[str, int]:
    role, _, bits = text.partition("/")
    return role, int(bits) if bits else 8


def _layout(name: str) -> tuple[int, list[tuple[str, int, int]]]:
    size, text = LAYOUTS[name]
    parts = (word.partition("@") for word in text.split())
    return size, [(*_role(role), int(offset)) for role, _, offset in parts]


def _parameter(word: str, arguments: _Arguments) -> list[Field]:
    if word.endswith(":dim3"):
        role = word.removesuffix(":dim3")
        (s0, b0, o0), (s1, b1, o1) = arguments.pair()
        high = {"shift": 32} if s0 == _REGISTER else {"offset": o0 + 4}
        return [
            Field(f"{role}_x", s0, 4, b0, o0),
            Field(f"{role}_y", s0, 4, b0, **high),
            Field(f"{role}_z", s1, 4, b1, o1),
        ]
    if word[0] == "=":
        size, members = _layout(word[1:])
        base, start = arguments.block(size)
        return [
            Field(role, _MEMORY, width, base, start + at, flags=_FLAGS.get(role, 0))
            for role, width, at in members
        ]
    source, base, offset = arguments.scalar()
    if word == "-":
        return []
    if word[0] == "&":
        late = word.endswith("!")
        if source != _REGISTER:
            raise MissingCapability(f"{word}: a struct whose address is on the stack")
        return [
            Field(role, _REGISTER, width, base, inner=at, flags=_FLAGS.get(role, 0) | _AT_RETURN)
            if late
            else Field(role, _MEMORY, width, base, at, flags=_FLAGS.get(role, 0))
            for role, width, at in _layout(word[1:].rstrip("!"))[1]
        ]
    role, width = _role(word.lstrip("*"))
    flags = _FLAGS.get(role, 0) | (_AT_RETURN if word[0] == "*" else 0)
    return [Field(role, source, width, base, offset, flags=flags)]


def _line(line: str, layer: str, machine: str) -> list[Api]:
    words, _, result = line.partition("->")
    what, name, *parameters = words.split()
    kind, _, detail = what.partition(":")
    arguments = _Arguments(machine)
    fields = tuple(field for word in parameters for field in _parameter(word, arguments))
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"{name} has {len(fields)} fields")
    result = result.strip() or "code"
    return [Api(name + suffix, layer, kind, detail, result, fields) for suffix in SUFFIXES[layer]]


@lru_cache(maxsize=4)
def all_apis(machine: str = "") -> tuple[Api, ...]:
    """Every function that is hooked, all variants, in the order of the table: the index is its number.

    Raises
    ------
    MissingCapability
        The calling convention of this processor is not described here.
    """
    machine = machine or platform.machine()
    return tuple(
        api
        for layer, table in _TABLES.items()
        for line in table.strip().splitlines()
        for api in _line(line, layer, machine)
    )
