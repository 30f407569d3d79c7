"""The runtime's own maps and helpers under the interpreter: C does the work, every memory argument is checked first.

What a helper may read and write comes from its prototype (`workbench.runtime.helpers.prototypes`), so a program that
the verifier should have refused is a fault here and not a crash of this process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.errors import RunFailed
from workbench.runtime.helpers.model import Argument, Helper, Result
from workbench.runtime.helpers.native import CProgram, core
from workbench.runtime.helpers.prototypes import HELPERS
from workbench.runtime.interpreter.fault import Misuse
from workbench.runtime.interpreter.machine import HelperFunction, Interpreter, MapMemory
from workbench.runtime.maps import current_run

if TYPE_CHECKING:
    from workbench.objects.linked import LinkedMap
    from workbench.runtime.maps import Map, Space

__all__ = ("NativeMap", "NativeRun")

_TAIL_CALL, _DYNPTR_BYTES = 12, 16
_FREED = frozenset({"ringbuf_submit", "ringbuf_discard"})
_U64 = ctypes.c_uint64
_HELPER = ctypes.CFUNCTYPE(_U64, ctypes.c_void_p, *[_U64] * 5)

# Kinds that are memory of a fixed size: bytes, and whether the helper writes them.
_FIXED = {
    Argument.LONG_POINTER: (8, True),
    Argument.INT_POINTER: (4, True),
    Argument.SPIN_LOCK: (4, True),
    Argument.TIMER: (16, True),
    Argument.DYNPTR: (_DYNPTR_BYTES, False),
    Argument.DYNPTR_WRITABLE: (_DYNPTR_BYTES, False),
    Argument.DYNPTR_RINGBUF: (_DYNPTR_BYTES, True),
    Argument.DYNPTR_UNINIT_LOCAL: (_DYNPTR_BYTES, True),
    Argument.DYNPTR_UNINIT_RINGBUF: (_DYNPTR_BYTES, True),
}
# Kinds whose size is the next argument: whether the helper writes, whether NULL is allowed.
_SIZED = {
    Argument.MEMORY: (False, False),
    Argument.MEMORY_OR_NULL: (False, True),
    Argument.UNINIT_MEMORY: (True, False),
    Argument.UNINIT_MEMORY_OR_NULL: (True, True),
}


class NativeMap:
    """A map of a namespace as the interpreter sees it."""

    def __init__(self, used: Map, shape: LinkedMap) -> None:
        self.map = used
        self.name = shape.name
        self.key_size, self.value_size = shape.key_size, shape.value_size
        self.handle: int = used.handle
        self.writable = not shape.read_only

    def values(self) -> tuple[int, int]:
        """Address and length of the first element's value."""
        return int(self.map.struct.values or 0), self.value_size


class NativeRun:
    """Maps and helpers for an `Interpreter`, and the run of this thread while it is open.

    Parameters
    ----------
    space : Space
        The namespace of the maps.
    maps : sequence of Map
        By the index in the code.
    shapes : sequence of LinkedMap
        The same maps as the object declares them.

    Attributes
    ----------
    maps : list of NativeMap
        For `Interpreter(maps=...)`.
    helpers : Mapping of int to callable
        For `Interpreter(helpers=...)`; bpf_tail_call is not among them.
    """

    def __init__(self, space: Space, maps: Sequence[Map], shapes: Sequence[LinkedMap]) -> None:
        self.maps = [NativeMap(used, shape) for used, shape in zip(maps, shapes, strict=True)]
        self._handles = (_U64 * max(len(maps), 1))(*(used.handle for used in maps))
        self._program = CProgram(maps=ctypes.addressof(self._handles), budget=1 << 40)
        self._run = current_run(space)
        self.helpers: Mapping[int, HelperFunction] = _Helpers(self._run)

    def __enter__(self) -> NativeRun:
        if not core().wb_execute_begin(ctypes.addressof(self._program), None, self._run):
            raise RunFailed(
                "another program runs on this thread", "interpret it after that program's end"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        core().wb_execute_end(self._run)


class _Helpers(Mapping[int, HelperFunction]):
    """The native core's table of helpers, each behind the checks of its prototype."""

    def __init__(self, run: int) -> None:
        self._run = run
        self._table = (_U64 * 512).in_dll(core(), "wb_helpers")
        self._made: dict[int, HelperFunction] = {}

    def __iter__(self) -> Iterator[int]:
        return (n for n, one in HELPERS.items() if one.userspace and n != _TAIL_CALL)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, number: int) -> HelperFunction:
        if number not in self._made:
            helper = HELPERS[number]
            if not helper.userspace or helper.arguments is None or number == _TAIL_CALL:
                raise KeyError(number)
            self._made[number] = self._wrap(helper, helper.arguments)
        return self._made[number]

    def _wrap(self, helper: Helper, kinds: tuple[Argument, ...]) -> HelperFunction:
        function = _HELPER(self._table[helper.number])
        name = helper.name.removeprefix("bpf_")

        def call(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
            arguments = (r1, r2, r3, r4, r5)
            used = _check(machine, helper, kinds, arguments)
            result: int = function(self._run, *arguments)
            if name in _FREED:
                machine.memory.remove(r1)
            _allow(machine, helper, kinds, arguments, result, used)
            return result

        return call


def _check(
    machine: Interpreter, helper: Helper, kinds: tuple[Argument, ...], arguments: Sequence[int]
) -> MapMemory | None:
    """Refuse memory that the helper may not touch; the map argument, where there is one."""
    used: MapMemory | None = None
    for at, kind in enumerate(kinds):
        value = arguments[at]
        if kind is Argument.CONST_MAP:
            used = machine.map_at.get(value)
            if used is None:
                raise Misuse(f"gives {value:#x} to {helper.name} for a map")
        elif kind is Argument.MAP_KEY and used is not None:
            machine.memory.find(value, max(used.key_size, 1))
        elif kind in (Argument.MAP_VALUE, Argument.UNINIT_MAP_VALUE) and used is not None:
            writes = kind is Argument.UNINIT_MAP_VALUE
            machine.memory.find(value, max(used.value_size, 1), write=writes)
        elif kind in _SIZED:
            writes, nullable = _SIZED[kind]
            size = arguments[at + 1]
            if size and not (nullable and value == 0):
                machine.memory.find(value, size, write=writes)
        elif kind in _FIXED:
            size, writes = _FIXED[kind]
            machine.memory.find(value, size, write=writes)
        elif kind in (Argument.FIXED_MEMORY, Argument.FIXED_UNINIT_MEMORY):
            writes = kind is Argument.FIXED_UNINIT_MEMORY
            machine.memory.find(value, helper.fixed_size, write=writes)
        elif kind is Argument.RINGBUF_MEMORY:
            region, offset = machine.memory.find(value, 1)
            if offset or not region.name.startswith("record"):
                raise Misuse(f"gives offset {offset} of {region.name} to {helper.name}")
        elif kind is Argument.CONST_STRING:
            region, offset = machine.memory.find(value, 1)
            if 0 not in region.view[offset:]:
                raise Misuse(f"gives {helper.name} a text without end in {region.name}")
        elif kind is Argument.CONTEXT and value != machine.context:
            raise Misuse(f"gives {value:#x} to {helper.name} for its context")
    return used


def _allow(
    machine: Interpreter,
    helper: Helper,
    kinds: tuple[Argument, ...],
    arguments: Sequence[int],
    result: int,
    used: MapMemory | None,
) -> None:
    """Let the program use the memory that the helper gave it."""
    if not result:
        return
    if helper.result in (Result.MAP_VALUE_OR_NULL, Result.MAP_VALUE) and used is not None:
        machine.memory.add(result, used.value_size, f"value of {used.name}", writable=used.writable)
    elif helper.result is Result.ALLOC_MEMORY_OR_NULL:
        size = arguments[kinds.index(Argument.CONST_ALLOC_SIZE)]
        machine.memory.add(result, size, f"record of {used.name if used else 'a ring'}")
    elif helper.result is Result.MEMORY_OR_NULL and Argument.CONST_ALLOC_SIZE in kinds:
        size = arguments[kinds.index(Argument.CONST_ALLOC_SIZE)]
        machine.memory.add(result, size, f"memory of {helper.name}")
