"""What a helper may be given: one rule per kind of argument (`check_func_arg` in kernel/bpf/verifier.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from workbench.runtime.helpers.prototypes import Argument as A
from workbench.runtime.helpers.prototypes import Helper
from workbench.runtime.verifier import dynptr, memory, stack
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import mark
from workbench.runtime.verifier.printed import text_offsets
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.state import Reg, State

__all__ = ("Given", "check_arguments")

_SIZE_LIMIT: Final = 1 << 29  # BPF_MAX_VAR_SIZ
_MEMORY: Final = frozenset({A.MEMORY, A.MEMORY_OR_NULL, A.UNINIT_MEMORY, A.UNINIT_MEMORY_OR_NULL})
_NULLABLE: Final = frozenset(
    {
        A.MEMORY_OR_NULL,
        A.UNINIT_MEMORY_OR_NULL,
        A.CONTEXT_OR_NULL,
        A.STACK_OR_NULL,
        A.SOCKET_OR_NULL,
    }
)
_SIZES: Final = frozenset({A.CONST_SIZE, A.CONST_SIZE_OR_ZERO})
#: Any address may be read by these; the third argument is one.
_READERS: Final = frozenset(
    f"bpf_{name}"
    for name in (
        "probe_read",
        "probe_read_user",
        "probe_read_kernel",
        "probe_read_str",
        "probe_read_user_str",
        "probe_read_kernel_str",
        "copy_from_user",
    )
)


@dataclass(slots=True)
class Given:
    """What the arguments of one call were.

    Attributes
    ----------
    map : int
        Index of the map; -1 = none.
    size : int
        Largest value of the last size argument.
    alloc : int
        The constant size of the memory that is returned.
    released : int
        Reference that the call gives up.
    callback : int
        First slot of the function that is called back; -1 = none.
    dynptr : Reg or None
        The dynptr that is used.
    timer : Reg or None
        The map value that holds the timer.
    """

    map: int = -1
    size: int = 0
    alloc: int = 0
    released: int = 0
    callback: int = -1
    dynptr: Reg | None = None
    timer: Reg | None = None


def check_arguments(env: Environment, state: State, helper: Helper) -> Given:
    """Every argument of the call at hand.

    Raises
    ------
    Reject
        One is not what the helper takes.
    """
    given = Given()
    kinds = helper.arguments or ()
    for index, kind in enumerate(kinds):
        register = index + 1
        reg = state.top.regs[register]
        if reg.kind == k.DEAD:
            raise Reject(
                f"r{register} was never written, {helper.name} takes {kind.value} in it", register
            )
        if kind in _MEMORY:
            following = kinds[index + 1] if index + 1 < len(kinds) else None
            if following not in _SIZES:
                raise Reject(f"the prototype of {helper.name} has memory without a size", register)
            continue  # with its size
        if kind in _SIZES:
            given.size = _sized(
                env, state, helper, kinds[index - 1], register, kind == A.CONST_SIZE_OR_ZERO
            )
            continue
        _one(env, state, helper, kind, register, reg, given)
    return given


def _expected(helper: Helper, register: int, kind: A, reg: Reg) -> Reject:
    hint = "compare it with 0 before" if reg.null else ""
    return Reject(f"{helper.name} takes {kind.value} in r{register}, this is {reg}", register, hint)


def _is_null(reg: Reg) -> bool:
    return reg.kind == k.NUMBER and not reg.s.mask and not reg.s.value


def _sized(
    env: Environment, state: State, helper: Helper, kind: A, register: int, zero: bool
) -> int:
    """A pair of memory and size."""
    size = state.top.regs[register]
    reg = state.top.regs[register - 1]
    if size.kind != k.NUMBER:
        raise _expected(helper, register, A.CONST_SIZE, size)
    if size.s.smin < 0:
        raise Reject(
            f"the size may be negative: {size.s}",
            register,
            "make it unsigned or mask it: size &= MAXIMUM - 1",
        )
    if size.s.umax >= _SIZE_LIMIT:
        raise Reject(f"the size has no bound: {size.s}", register, "if (size > MAXIMUM) return 0;")
    if not size.s.umin and not zero:
        raise Reject(f"the size may be 0: {size.s}", register, "if (!size) return 0;")
    mark(env, state, {state.top.number: 1 << register})
    if kind in _NULLABLE and _is_null(reg):
        mark(env, state, {state.top.number: 1 << (register - 1)})
        if size.s.umax:
            raise Reject("memory is NULL, but its size may be above 0", register)
        return 0
    writes = kind in (A.UNINIT_MEMORY, A.UNINIT_MEMORY_OR_NULL)
    # What is written through a dynptr later is not looked at again.
    writes = writes or helper.name == "bpf_dynptr_from_mem"
    texts = text_offsets(env, state, helper, register - 1)
    access(env, state, helper, register - 1, size.s.umin, size.s.umax, writes, texts=texts)
    return size.s.umax


def access(
    env: Environment,
    state: State,
    helper: Helper,
    register: int,
    least: int,
    most: int,
    writes: bool,
    aligned: int = 1,
    texts: frozenset[int] = frozenset(),
) -> None:
    """The helper reads or writes `least` to `most` bytes at the address in a register; `texts` as `check_readable`."""
    reg = state.top.regs[register]
    if reg.null:
        raise Reject(
            f"{helper.name} would use an address that may be null: {reg}",
            register,
            "compare it with 0 before",
        )
    if reg.kind == k.STACK:
        low, high = stack.bounds(reg, register, 0, most)
        if aligned > 1 and (reg.s.mask or (reg.off + reg.s.value) & (aligned - 1)):
            raise Reject(f"{helper.name} takes memory aligned to {aligned} bytes", register)
        if not writes:
            if most:
                stack.check_readable(env, state, reg, register, low, high + most, texts)
            return
        if least and low == high:
            stack.make_writable(env, state, reg, register, low, low + least, sure=True)
            if most > least:
                stack.make_writable(env, state, reg, register, low + least, low + most, sure=False)
        elif most:
            stack.make_writable(env, state, reg, register, low, high + most, sure=False)
        return
    if reg.kind in (k.MAP_VALUE, k.MEMORY):
        memory.check(env, state, reg, register, 0, most, writes)
        return
    if reg.kind in (k.PACKET, k.PACKET_META):
        if not helper.packet:
            raise Reject(
                f"{helper.name} may not be given packet memory", register, "copy it to the stack"
            )
        memory.check(env, state, reg, register, 0, most, writes)
        return
    hint = (
        "copy it with bpf_probe_read_kernel first"
        if reg.x or reg.kind in (k.PROBED, k.CONTEXT)
        else ""
    )
    raise Reject(f"{helper.name} takes memory in r{register}, this is {reg}", register, hint)


def _one(
    env: Environment, state: State, helper: Helper, kind: A, register: int, reg: Reg, given: Given
) -> None:
    if kind == A.ANYTHING:
        if reg.is_pointer and not (helper.name in _READERS and register == 3):
            env.leak(state, register, f"{helper.name} would see it")
    elif kind == A.CONST_MAP:
        if reg.kind != k.MAP or reg.null:
            raise _expected(helper, register, kind, reg)
        given.map = reg.x
    elif kind in (A.MAP_KEY, A.MAP_VALUE, A.UNINIT_MAP_VALUE):
        if given.map < 0:
            raise Reject(f"{helper.name} has no map", register)
        one = env.maps[given.map]
        if helper.name == "bpf_task_storage_get" and _is_null(reg):
            mark(env, state, {state.top.number: 1 << register})
            return  # a new value is zeroed
        size = one.key_size if kind == A.MAP_KEY else one.value_size
        access(env, state, helper, register, size, size, kind == A.UNINIT_MAP_VALUE)
    elif kind == A.CONST_ALLOC_SIZE:
        if reg.kind != k.NUMBER or reg.s.mask:
            raise Reject(
                f"{helper.name} takes a constant size in r{register}, this is {reg}", register
            )
        if reg.s.value >= _SIZE_LIMIT:
            raise Reject(f"{reg.s.value} bytes are too many", register)
        mark(env, state, {state.top.number: 1 << register})
        given.alloc = reg.s.value
    elif kind in (A.CONTEXT, A.CONTEXT_OR_NULL):
        if kind == A.CONTEXT_OR_NULL and _is_null(reg):
            mark(env, state, {state.top.number: 1 << register})
        elif reg.kind != k.CONTEXT or reg.off or reg.s.mask or reg.s.value:
            raise _expected(helper, register, kind, reg)
    elif kind in (A.SPIN_LOCK, A.TIMER):
        _object(env, helper, kind, register, reg)
        if kind == A.TIMER:
            given.timer = reg
    elif kind.name.startswith("DYNPTR"):
        dynptr.argument(env, state, helper, kind, register, reg, given)
    elif kind == A.CONST_STRING:
        _string(env, helper, register, reg)
        mark(env, state, {})
    elif kind == A.CALLBACK:
        if reg.kind != k.FUNCTION:
            raise _expected(helper, register, kind, reg)
        given.callback = reg.x
    elif kind == A.STACK_OR_NULL:
        if _is_null(reg):
            mark(env, state, {state.top.number: 1 << register})
        elif reg.kind != k.STACK:
            raise _expected(helper, register, kind, reg)
    elif kind == A.LONG_POINTER:
        access(env, state, helper, register, 8, 8, True, 8)
    elif kind == A.INT_POINTER:
        access(env, state, helper, register, 4, 4, True, 4)
    elif kind in (A.FIXED_MEMORY, A.FIXED_UNINIT_MEMORY):
        size = helper.fixed_size
        access(env, state, helper, register, size, size, kind == A.FIXED_UNINIT_MEMORY)
    elif kind == A.RINGBUF_MEMORY:
        if (
            reg.kind != k.MEMORY
            or reg.x != "record"
            or not reg.ref
            or reg.null
            or reg.off
            or reg.s.value
            or reg.s.mask
        ):
            raise _expected(helper, register, kind, reg)
        given.released = reg.ref
    elif kind == A.MAP_VALUE_POINTER:
        if reg.kind != k.MAP_VALUE or reg.null:
            raise _expected(helper, register, kind, reg)
    elif kind in (A.TASK, A.BTF_OBJECT):
        kernel = (reg.kind == k.PROBED and not reg.null) or (reg.kind == k.NUMBER and bool(reg.x))
        moved = reg.kind == k.PROBED and (reg.off or reg.s.mask or reg.s.value)
        if (
            not kernel
            or moved
            or (reg.kind == k.PROBED and kind == A.TASK and reg.x != "task_struct")
        ):
            raise _expected(helper, register, kind, reg)
    else:
        raise Reject(f"{helper.name} takes {kind.value}, which user space does not have", register)


def _object(env: Environment, helper: Helper, kind: A, register: int, reg: Reg) -> None:
    name = "bpf_spin_lock" if kind == A.SPIN_LOCK else "bpf_timer"
    if reg.kind != k.MAP_VALUE or reg.null or reg.s.mask:
        raise _expected(helper, register, kind, reg)
    at = reg.off + reg.s.smin
    if not any(field.name == name and field.offset == at for field in env.fields(reg.x)):
        raise Reject(
            f"no struct {name} at byte {at} of the value of map {env.maps[reg.x].name}",
            register,
            "declare one in the value's type; the map needs BTF (clang -g)",
        )


def _string(env: Environment, helper: Helper, register: int, reg: Reg) -> None:
    if reg.kind != k.MAP_VALUE or reg.null or reg.s.mask:
        raise _expected(helper, register, A.CONST_STRING, reg)
    one = env.maps[reg.x]
    at = reg.off + reg.s.smin
    if not one.read_only or not 0 <= at < one.value_size:
        raise _expected(helper, register, A.CONST_STRING, reg)
    if b"\0" not in one.initial.ljust(one.value_size, b"\0")[at : one.value_size]:
        raise Reject(f"the string at byte {at} of {one.name} does not end", register)
