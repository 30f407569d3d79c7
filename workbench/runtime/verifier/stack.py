"""Loads and stores of the stack: spilled registers, bytes known to be zero, bytes never written.

Stricter than the kernel with privilege: a byte that was never written is never read.
"""

from __future__ import annotations

from typing import Final

from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.arithmetic import truncate
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.scalar import unsigned
from workbench.runtime.verifier.state import (
    INVALID,
    MISC,
    MISC_SLOT,
    NOTHING,
    OBJECT,
    SPILLED,
    STACK_BYTES,
    ZERO,
    Frame,
    Reg,
    Slot,
    State,
    number,
)

__all__ = (
    "bounds",
    "check_readable",
    "destroy_object",
    "load",
    "make_writable",
    "read_mask",
    "store",
)

_FULL: Final = bytes([SPILLED]) * 8
_UNINITIALISED: Final = (
    "initialise the variable, all of it: padding counts too (= {} or __builtin_memset)"
)


def bounds(reg: Reg, register: int, offset: int, size: int) -> tuple[int, int]:
    """First and last possible byte offset from r10 of an access.

    Raises
    ------
    Reject
        It may leave the stack.
    """
    low = reg.off + offset + reg.s.smin
    high = reg.off + offset + reg.s.smax
    if low < -STACK_BYTES or high + size > 0 or size < 0:
        where = f"offset {low}" if low == high else f"offsets {low} to {high}"
        raise Reject(
            f"{size} bytes at {where} from r10 are outside the stack of {STACK_BYTES} bytes",
            register,
            "bound the index first" if low != high else "",
        )
    return low, high


def read_mask(low: int, high: int) -> int:
    """Slots of bytes low to high (exclusive), negative offsets."""
    first, last = (-high) >> 3, (-low - 1) >> 3
    return ((1 << (last - first + 1)) - 1) << first if high > low else 0


def note_read(env: Environment, state: State, frame: Frame, mask: int) -> None:
    """Tell liveness that slots of `frame` were read by the instruction at hand."""
    if frame is state.top:
        env.live.read(state.slot, mask)
    else:
        env.live.read(state.frames[frame.number + 1].call_slot, mask)


def _fresh_load(env: Environment, state: State, frame: Frame, at: int, register: int) -> Reg:
    """A whole slot that holds a register: the register, linked with the slot where it is a number."""
    slot = frame.stack[at]
    reg = slot.reg
    assert reg is not None
    env.event = (frame.number, at)
    return reg


def load(env: Environment, state: State, reg: Reg, register: int, offset: int, size: int) -> Reg:
    """What a load of `size` bytes gives."""
    frame: Frame = state.frames[reg.x]
    low, high = bounds(reg, register, offset, size)
    note_read(env, state, frame, read_mask(low, high + size))
    if low != high or (low & 7) + size > 8:
        check_readable(env, state, reg, register, low, high + size)
        return number(unsigned(8 * size))
    at = (-low - 1) >> 3
    slot = frame.stack.get(at)
    begin = low & 7
    types = slot.types[begin : begin + size] if slot is not None else b"\0"
    if slot is None or INVALID in types:
        raise Reject(
            f"{size} bytes at offset {low} from r10 were never written",
            register,
            _UNINITIALISED,
        )
    if OBJECT in types:
        raise Reject(f"offset {low} from r10 is part of an object that only helpers read", register)
    if slot.reg is not None and SPILLED in types:
        if size == 8 and slot.types == _FULL:
            return _fresh_load(env, state, frame, at, register)
        if slot.reg.is_pointer:
            raise Reject(
                f"{size} of the 8 bytes of an address at offset {low} from r10 are read", register
            )
        if begin == 0 and types == _FULL[:size]:
            env.event = (frame.number, at)
            kept = slot.reg
            return kept if kept.s.umax >> (8 * size) == 0 else number(truncate(kept.s, size))
        return number(unsigned(8 * size))
    if types == bytes([ZERO]) * size:
        return number(0)
    return number(unsigned(8 * size))


def check_readable(
    env: Environment,
    state: State,
    reg: Reg,
    register: int,
    low: int,
    high: int,
    texts: frozenset[int] = frozenset(),
) -> None:
    """Every byte from low to high (exclusive) is initialised and no address, but of a text at the offsets `texts`."""
    frame: Frame = state.frames[reg.x]
    note_read(env, state, frame, read_mask(low, high))
    at = low
    while at < high:
        index = (-at - 1) >> 3
        begin, end = at & 7, min(8, (at & 7) + high - at)
        slot = frame.stack.get(index)
        if slot is None or INVALID in slot.types[begin:end]:
            first = begin if slot is None else begin + slot.types[begin:end].index(INVALID)
            raise Reject(
                f"the byte at offset {at - begin + first} from r10 was never written",
                register,
                _UNINITIALISED,
            )
        part = slot.types[begin:end]
        if OBJECT in part:
            raise Reject(
                f"offset {at} from r10 is part of an object that only helpers read", register
            )
        pointer = slot.reg is not None and slot.reg.is_pointer and SPILLED in part
        if pointer and env.strict and (at not in texts or end - begin < 8):
            raise Reject(
                f"an address leaks: {slot.reg} is stored at offset {at} from r10",
                register,
                "keep addresses out of what helpers or numbers see; allow_pointer_leaks=True lifts the rule",
            )
        at += end - begin


def destroy_object(env: Environment, state: State, frame: Frame, index: int) -> None:
    """Overwriting part of a dynptr ends it; one that must be released may not be."""
    slot = frame.stack[index]
    assert slot.reg is not None
    if slot.reg.ref:
        raise Reject(
            "a dynptr that must be submitted or discarded is overwritten",
            hint="call bpf_ringbuf_submit_dynptr or bpf_ringbuf_discard_dynptr first",
        )
    identity = slot.reg.id
    for at, other in list(frame.stack.items()):
        if other.reg is not None and other.types[0] == OBJECT and other.reg.id == identity:
            frame.stack[at] = Slot(bytes(8))
    forget_slices(state, identity)


def forget_slices(state: State, identity: int) -> None:
    """Pointers into a dynptr's memory end with it."""
    state.map_regs(lambda r: NOTHING if r.kind == k.MEMORY and r.x == ("slice", identity) else None)


def store(
    env: Environment, state: State, reg: Reg, register: int, offset: int, size: int, value: Reg
) -> None:
    """Store the low `size` bytes of `value`."""
    frame: Frame = state.frames[reg.x]
    low, high = bounds(reg, register, offset, size)
    if value.is_pointer and size != 8:
        raise Reject(f"an address is stored in {size} bytes", register, "store all 8 bytes of it")
    if value.kind == k.STACK and value.x > frame.number:
        raise Reject(
            "the address of a variable is stored in the stack of a caller, which outlives it",
            register,
        )
    passing = value.kind == k.OPAQUE or (value.kind == k.MEMORY and not value.ref)
    if passing and frame.number < state.top.number:
        raise Reject(
            "an address that ends with this function is stored in the stack of a caller", register
        )
    if low != high or (low & 7) + size > 8:
        if value.is_pointer:
            raise Reject("an address is stored at a variable stack offset", register)
        make_writable(env, state, reg, register, low, high + size, sure=False)
        return
    at = (-low - 1) >> 3
    begin = low & 7
    old = frame.stack.get(at)
    if old is not None and OBJECT in old.types:
        destroy_object(env, state, frame, at)
        old = frame.stack.get(at)
    if size == 8:
        env.event = (frame.number, at)
        frame.stack[at] = Slot(_FULL, value)
        return
    types = bytearray(old.types if old is not None else bytes(8))
    if old is not None and old.reg is not None:
        rest = _rest(env, old.reg)
        for i in range(8):
            if types[i] == SPILLED:
                types[i] = rest
    zero = not value.s.mask and value.s.value & ((1 << 8 * size) - 1) == 0
    kept: Reg | None = None
    if begin == 0 and not zero:
        types[:size] = _FULL[:size]
        kept = value if value.s.umax >> (8 * size) == 0 else number(truncate(value.s, size))
        env.event = (frame.number, at, "part")
    else:
        types[begin : begin + size] = bytes([ZERO if zero else MISC]) * size
        if zero:
            env.event = (frame.number, at, "zero")
    frame.stack[at] = Slot(bytes(types), kept)


def _rest(env: Environment, reg: Reg) -> int:
    """Type of what is left of a spilled register that is overwritten in part: nobody may read half an address."""
    return INVALID if reg.is_pointer and env.strict else MISC


def make_writable(
    env: Environment,
    state: State,
    reg: Reg,
    register: int,
    low: int,
    high: int,
    sure: bool,
    initialised: bool = True,
) -> None:
    """Bytes low to high (exclusive) are, or (not `sure`) some of them may be, overwritten with anything."""
    frame: Frame = state.frames[reg.x]
    at = low
    while at < high:
        index = (-at - 1) >> 3
        begin, end = at & 7, min(8, (at & 7) + high - at)
        old = frame.stack.get(index)
        if old is not None and OBJECT in old.types[begin:end]:
            if not sure:
                raise Reject(
                    f"offset {at} from r10 is part of an object that only helpers touch", register
                )
            destroy_object(env, state, frame, index)
            old = frame.stack.get(index)
        if sure and begin == 0 and end == 8:
            frame.stack[index] = MISC_SLOT
        else:
            types = bytearray(old.types if old is not None else bytes(8))
            if old is not None and old.reg is not None:
                if old.reg.is_pointer and env.strict and not sure:
                    raise Reject(
                        f"part of an address stored at offset {index * -8 - 8} from r10 may be overwritten",
                        register,
                    )
                rest = _rest(env, old.reg)
                for i in range(8):
                    if types[i] == SPILLED:
                        types[i] = rest
            for i in range(begin, end):
                if sure or types[i] != INVALID:
                    types[i] = MISC
            frame.stack[index] = Slot(bytes(types))
        at += end - begin
