"""Dynptrs: 16 bytes of stack that only helpers look into, over memory whose size is not known to the program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.runtime.helpers.prototypes import Argument as A
from workbench.runtime.helpers.prototypes import Helper
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier import stack
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.state import OBJECT, Reg, Slot, State

if TYPE_CHECKING:
    from workbench.runtime.verifier.arguments import Given

__all__ = ("argument", "release")

_TYPES: Final = bytes([OBJECT]) * 8
LOCAL: Final = "dynptr over memory"
RINGBUF: Final = "dynptr over a ring buffer record"
USER_RING: Final = "dynptr over a record of user space"


def _place(reg: Reg, register: int) -> int:
    """Index of the upper of the two slots."""
    if reg.kind != k.STACK or reg.s.mask:
        raise Reject(
            f"r{register} must be the address of a dynptr on the stack, this is {reg}", register
        )
    at = reg.off + reg.s.smin
    if at % 8 or not -512 <= at <= -16:
        raise Reject("a dynptr takes 16 aligned bytes of the stack", register)
    return (-at - 1) >> 3


def _existing(env: Environment, state: State, register: int, reg: Reg) -> Reg:
    if reg.kind == k.OPAQUE and reg.x[0] == USER_RING:
        return reg
    index = _place(reg, register)
    frame = state.frames[reg.x]
    stack.note_read(env, state, frame, 0b11 << (index - 1))
    first, second = frame.stack.get(index), frame.stack.get(index - 1)
    if (
        first is None
        or second is None
        or first.reg is None
        or second.reg is None
        or first.types != _TYPES
        or first.reg.x[1] != 0
        or second.reg.id != first.reg.id
        or second.types != _TYPES
    ):
        raise Reject(
            "no dynptr was initialised there",
            register,
            "call bpf_dynptr_from_mem or bpf_ringbuf_reserve_dynptr first",
        )
    found: Reg = first.reg
    return found


def argument(
    env: Environment, state: State, helper: Helper, kind: A, register: int, reg: Reg, given: Given
) -> None:
    """A dynptr that a helper uses, makes or ends."""
    if kind in (A.DYNPTR_UNINIT_LOCAL, A.DYNPTR_UNINIT_RINGBUF):
        _make(env, state, kind, register, reg, given)
        return
    found = _existing(env, state, register, reg)
    if kind == A.DYNPTR_RINGBUF:
        if found.x[0] != RINGBUF:
            raise Reject(f"{helper.name} takes {kind.value}, this is a {found.x[0]}", register)
        given.released = found.ref
    elif kind == A.DYNPTR_WRITABLE and found.readonly:
        raise Reject("the dynptr is read-only", register)
    given.dynptr = found


def _make(env: Environment, state: State, kind: A, register: int, reg: Reg, given: Given) -> None:
    index = _place(reg, register)
    frame = state.frames[reg.x]
    for at in (index, index - 1):
        old = frame.stack.get(at)
        if old is not None and old.reg is not None and old.types[0] == OBJECT:
            stack.destroy_object(env, state, frame, at)
    identity = env.fresh()
    ref = 0
    if kind == A.DYNPTR_UNINIT_RINGBUF:
        ref = identity
        state.refs = (*state.refs, (ref, state.slot))
        what = RINGBUF
    else:
        what = LOCAL
    for part, at in enumerate((index, index - 1)):
        frame.stack[at] = Slot(_TYPES, Reg(k.OPAQUE, x=(what, part), id=identity, ref=ref))


def release(state: State, ref: int) -> None:
    """The dynptr with that reference, and all memory got from it, is gone."""
    for frame in state.frames:
        for at, slot in list(frame.stack.items()):
            if slot.reg is not None and slot.types[0] == OBJECT and slot.reg.ref == ref:
                stack.forget_slices(state, slot.reg.id)
                frame.stack[at] = Slot(bytes(8))
