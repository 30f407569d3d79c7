"""What all rules of one verification share: the code, the maps, the program type, counters, and what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from workbench.objects.btf import STRUCT, TYPEDEF, Btf
from workbench.objects.linked import LinkedMap, LinkedObject, LinkedProgram
from workbench.runtime.helpers.prototypes import HELPERS, Argument
from workbench.runtime.isa.opcodes import CALL_IMM
from workbench.runtime.program_types import ContextRules
from workbench.runtime.verifier.code import Code
from workbench.runtime.verifier.liveness import StackLiveness
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.state import State

__all__ = ("GPL_LICENSES", "Environment", "Field", "Options")

#: include/linux/license.h.
GPL_LICENSES: Final = frozenset(
    {
        "GPL",
        "GPL v2",
        "GPL and additional rights",
        "Dual BSD/GPL",
        "Dual MIT/GPL",
        "Dual MPL/GPL",
    }
)
#: Structures in map values that only helpers may touch, by the name of their C type: (kind, bytes).
_OBJECTS: Final = {
    "bpf_spin_lock": 4,
    "bpf_res_spin_lock": 4,
    "bpf_timer": 16,
    "bpf_wq": 16,
    "bpf_list_head": 16,
    "bpf_list_node": 24,
    "bpf_rb_root": 16,
    "bpf_rb_node": 32,
    "bpf_refcount": 4,
    "bpf_task_work": 8,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller of `verify` chose."""

    budget: int = 1_000_000
    allow_unbounded: bool = True
    allow_pointer_leaks: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """An object within a map value that programs may not touch directly."""

    name: str
    offset: int
    size: int


class Environment:
    """Shared by everything that happens while one program is verified."""

    def __init__(
        self,
        program: LinkedProgram,
        obj: LinkedObject,
        code: Code,
        rules: ContextRules,
        options: Options,
    ) -> None:
        self.program = program
        self.obj = obj
        self.code = code
        self.rules = rules
        self.options = options
        self.strict = not options.allow_pointer_leaks
        self.gpl = obj.license in GPL_LICENSES
        self.maps: list[LinkedMap] = list(obj.maps)
        self._inner: dict[int, int] = {}
        self._fields: dict[int, tuple[Field, ...]] = {}
        self._next = 0
        self.event: object = None  # what precision must know of the instruction at hand
        self.context_size = 0
        self.precise_all = False  # joined walk: every number is compared
        self.warnings: dict[str, None] = {}
        self.live = StackLiveness(code)
        self.callbacks = _callbacks(code)  # slots of calls that call back
        self.open_loops: list[Any] = []  # unfinished kept states that closed a path

    def has_open_loop(self) -> bool:
        """Some state closed a path before all that follows it was walked: what is read later is not known yet."""
        while self.open_loops and not self.open_loops[-1].branches:
            self.open_loops.pop()
        return bool(self.open_loops)

    def fresh(self) -> int:
        """A number that no id had before."""
        self._next += 1
        return self._next

    def inner(self, index: int) -> int:
        """Index of the inner shape of a map of maps.

        Raises
        ------
        Reject
            The object does not say what the inner maps are.
        """
        found = self._inner.get(index)
        if found is None:
            shape = self.maps[index].inner
            if shape is None:
                raise Reject(
                    f"map {self.maps[index].name} holds maps, but not of what shape",
                    hint="declare __array(values, struct { ... }) in the map",
                )
            self.maps.append(shape)
            found = self._inner[index] = len(self.maps) - 1
        return found

    def fields(self, index: int) -> tuple[Field, ...]:
        """Objects within the values of a map, from its BTF."""
        found = self._fields.get(index)
        if found is None:
            one = self.maps[index]
            found = ()
            if self.obj.btf is not None and one.value_type:
                found = tuple(_find(self.obj.btf, one.value_type, 0, 0))
            self._fields[index] = found
        return found

    def overlap(self, index: int, low: int, high: int) -> Field | None:
        """The first protected object that bytes low to high (exclusive) of a map's value touch."""
        for field in self.fields(index):
            if low < field.offset + field.size and field.offset < high:
                return field
        return None

    def leak(self, state: State, register: int, where: str) -> None:
        """Refuse an address where it does not belong, unless leaks are allowed."""
        if self.strict:
            raise Reject(
                f"an address leaks: r{register} is {state.top.regs[register]}, and {where}",
                register,
                "keep addresses in registers and on the stack; allow_pointer_leaks=True lifts the rule",
            )


def _callbacks(code: Code) -> set[int]:
    """Calls of helpers that call back; paths are compared there, for each round comes back to the call."""
    found = set()
    for slot, one in enumerate(code.slots):
        if one is None or one.opcode != CALL_IMM or one.src:
            continue
        helper = HELPERS.get(one.imm)
        if helper is not None and Argument.CALLBACK in (helper.arguments or ()):
            found.add(slot)
    code.joins |= found
    return found


def _find(btf: Btf, number: int, base: int, depth: int) -> list[Field]:
    found: list[Field] = []
    if depth > 8:
        return found
    one = btf.resolve(number)
    if one.kind != STRUCT:
        return found
    for member in one.members:
        inner = btf.types[member.type]
        name = inner.name
        if inner.kind == TYPEDEF:
            name = btf.resolve(member.type).name
        at = base + member.offset // 8
        if name in _OBJECTS:
            found.append(Field(name, at, _OBJECTS[name]))
        else:
            found += _find(btf, member.type, at, depth + 1)
    return found
