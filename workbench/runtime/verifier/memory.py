"""Loads, stores and atomics through every kind of pointer."""

from __future__ import annotations

from typing import Final

from workbench.runtime import program_types as types
from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier import stack
from workbench.runtime.verifier.arithmetic import move_signed
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import mark
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.scalar import UNKNOWN, unsigned
from workbench.runtime.verifier.state import NOTHING, Reg, State, number

__all__ = ("atomic", "check_range", "load", "packet_load", "pointer", "store")

READ_ONLY_PROGRAM: Final = 1 << 7  # BPF_F_RDONLY_PROG
WRITE_ONLY_PROGRAM: Final = 1 << 8  # BPF_F_WRONLY_PROG
_CONTEXT_HINT: Final = (
    "read the fields of the context as they are declared: whole, aligned, at a constant offset"
)


def pointer(state: State, register: int) -> Reg:
    """The register as a base address.

    Raises
    ------
    Reject
        It is no address, or may be null.
    """
    reg = state.top.regs[register]
    if reg.kind == k.DEAD:
        raise Reject(f"r{register} was never written", register)
    if reg.kind == k.NUMBER and not reg.x:
        raise Reject(
            f"r{register} is a number, not an address",
            register,
            "read memory of the process with bpf_probe_read_user, the kernel's with bpf_probe_read_kernel",
        )
    if reg.null:
        raise Reject(
            f"r{register} may be null: {reg}",
            register,
            "compare it with 0 before: if (!pointer) return 0;",
        )
    return reg


def _aligned(reg: Reg, register: int, offset: int, size: int) -> None:
    if size > 1 and ((reg.s.value + reg.off + offset) | reg.s.mask) & (size - 1):
        raise Reject(
            f"{size} bytes at {reg}{offset:+d} are not aligned",
            register,
            f"align the offset to {size} bytes",
        )


def check_range(
    reg: Reg, register: int, offset: int, size: int, limit: int, what: str
) -> tuple[int, int]:
    """Lowest and highest (exclusive) byte that an access may touch, all of it within 0 .. limit."""
    low = reg.off + offset + reg.s.smin
    high = reg.off + offset + reg.s.smax + size
    if low < 0 or high > limit:
        where = (
            f"bytes {low} to {high - 1}"
            if abs(low) < 1 << 32 > abs(high)
            else "bytes without a bound"
        )
        if reg.s.mask:
            hint = "check the index against the size first, both ends if it is signed"
        else:
            hint = "the offset is a constant: look at the type that is accessed"
        raise Reject(f"{what} has {limit} bytes, {where} would be accessed", register, hint)
    return low, high


def check(
    env: Environment, state: State, reg: Reg, register: int, offset: int, size: int, write: bool
) -> types.Access | None:
    """Bounds and permissions of an access to anything but the stack; gives the context's rule where it is one."""
    kind = reg.kind
    if kind == k.MAP_VALUE:
        one = env.maps[reg.x]
        low, high = check_range(
            reg, register, offset, size, one.value_size, f"a value of map {one.name}"
        )
        if write and (one.read_only or one.flags & READ_ONLY_PROGRAM):
            raise Reject(f"map {one.name} is read-only for programs", register)
        if not write and one.flags & WRITE_ONLY_PROGRAM:
            raise Reject(f"map {one.name} is write-only for programs", register)
        if field := env.overlap(reg.x, low, high):
            raise Reject(
                f"{field.name} at byte {field.offset} of the value of {one.name} is touched directly",
                register,
                "only its helpers may",
            )
    elif kind == k.MEMORY:
        if write and reg.readonly:
            raise Reject("the memory is read-only", register)
        check_range(reg, register, offset, size, reg.size, "the memory")
    elif kind == k.CONTEXT:
        return _context(env, reg, register, offset, size, write)
    elif kind in (k.PACKET, k.PACKET_META):
        first = reg.off + offset
        if reg.s.smin < 0 or first < 0 or first + size > reg.size:
            raise Reject(
                f"{size} bytes at packet offset {first} are not known to be there ({max(reg.size, 0)} are)",
                register,
                "compare data + length with data_end first",
            )
        if write and not env.rules.packet_writes:
            raise Reject(f"{env.rules.type} programs may not write to the packet", register)
    elif kind == k.PROBED or (kind == k.NUMBER and reg.x):
        if write:
            raise Reject("a kernel structure is read-only", register)
    else:
        raise Reject(f"r{register} is {reg}: programs may not look into it", register)
    return None


def _context(
    env: Environment, reg: Reg, register: int, offset: int, size: int, write: bool
) -> types.Access:
    rules = env.rules
    if reg.s.mask or reg.s.value:
        raise Reject("the context is accessed at a variable offset", register, _CONTEXT_HINT)
    if reg.off:
        raise Reject(
            f"the context is accessed through a pointer that was moved by {reg.off} bytes",
            register,
            _CONTEXT_HINT,
        )
    _aligned(reg, register, offset, size)
    found = rules.access(offset, size, write)
    if found is None:
        what = "written" if write else "read"
        raise Reject(
            f"{size} bytes at offset {offset} of the context of a {rules.type} program may not be {what}",
            register,
            _CONTEXT_HINT,
        )
    env.context_size = max(env.context_size, offset + size)
    return found


def load(env: Environment, state: State, one: Instruction) -> None:
    """LDX: MEM and MEMSX."""
    regs = state.top.regs
    size = one.size
    reg = pointer(state, one.src)
    signed = one.mode == op.MEMSX
    found = read(env, state, reg, one.src, one.offset, size)
    if signed and size < 8:
        if found.is_pointer or found.x:
            found = number(UNKNOWN)
        found = number(move_signed(found.s, 8 * size, 64))
    regs[one.dst] = found


def read(env: Environment, state: State, reg: Reg, register: int, offset: int, size: int) -> Reg:
    """What a load gives."""
    if reg.kind == k.STACK:
        _aligned(reg, register, offset, size)
        return stack.load(env, state, reg, register, offset, size)
    access = check(env, state, reg, register, offset, size, False)
    if access is not None:
        if access.gives == types.PACKET:
            return Reg(k.PACKET, id=0)
        if access.gives == types.PACKET_END:
            return Reg(k.PACKET_END)
        if access.gives == types.PACKET_META:
            return Reg(k.PACKET_META)
        if access.gives == types.KERNEL:
            return Reg(k.NUMBER, UNKNOWN, x=True)
        return number(unsigned(8 * size))
    if reg.kind == k.MAP_VALUE and not reg.s.mask:
        one = env.maps[reg.x]
        at = reg.off + offset + reg.s.smin
        if one.read_only and one.initial:
            return number(int.from_bytes(one.initial[at : at + size].ljust(size, b"\0"), "little"))
    if size == 8 and (reg.kind == k.PROBED or reg.kind == k.NUMBER):
        return Reg(k.NUMBER, UNKNOWN, x=True)
    return number(unsigned(8 * size))


def store(env: Environment, state: State, one: Instruction) -> None:
    """ST and STX: MEM."""
    value = number(one.imm) if one.kind == op.ST else state.top.regs[one.src]
    if value.kind == k.DEAD:
        raise Reject(f"r{one.src} was never written", one.src)
    reg = pointer(state, one.dst)
    write(
        env, state, reg, one.dst, one.offset, one.size, value, -1 if one.kind == op.ST else one.src
    )


def write(
    env: Environment,
    state: State,
    reg: Reg,
    register: int,
    offset: int,
    size: int,
    value: Reg,
    source: int,
) -> None:
    """A store of `value`, which is in register `source` (-1: an immediate)."""
    if reg.kind == k.STACK:
        _aligned(reg, register, offset, size)
        stack.store(
            env, state, reg, register, offset, size, _linked(env, state, value, source, size)
        )
        if isinstance(env.event, tuple) and env.event[-1] == "zero" and source >= 0:
            mark(env, state, {state.top.number: 1 << source})
        return
    check(env, state, reg, register, offset, size, True)
    if value.is_pointer:
        if reg.kind == k.CONTEXT:
            raise Reject("an address is stored in the context", source)
        env.leak(state, source, f"it would be stored in {k.KINDS[reg.kind]}")


def _linked(env: Environment, state: State, value: Reg, source: int, size: int) -> Reg:
    """A number that is spilled whole stays equal to its register: what is learned of one is learned of the other."""
    if (
        source < 0
        or value.kind != k.NUMBER
        or value.id
        or not value.s.mask
        or value.s.umax >> (8 * size)
    ):
        return value
    value = value.but(id=env.fresh())
    state.top.regs[source] = value
    return value


def atomic(env: Environment, state: State, one: Instruction) -> None:
    """Atomic read-modify-write, load-acquire and store-release."""
    regs = state.top.regs
    size = one.size
    if one.imm == op.LOAD_ACQ:
        reg = pointer(state, one.src)
        _atomic_base(reg, one.src)
        _aligned(reg, one.src, one.offset, size)
        regs[one.dst] = read(env, state, reg, one.src, one.offset, size)
        return
    value = regs[one.src]
    if value.kind == k.DEAD:
        raise Reject(f"r{one.src} was never written", one.src)
    reg = pointer(state, one.dst)
    _atomic_base(reg, one.dst)
    _aligned(reg, one.dst, one.offset, size)
    if one.imm == op.STORE_REL:
        write(env, state, reg, one.dst, one.offset, size, value, one.src)
        return
    if value.is_pointer:
        env.leak(state, one.src, "an atomic operation would store it")
    if one.imm == op.CMPXCHG:
        if regs[0].kind == k.DEAD:
            raise Reject("r0, the value to compare with, was never written", 0)
        if regs[0].is_pointer:
            env.leak(state, 0, "an atomic operation would compare it")
    if reg.kind == k.STACK:
        old = stack.load(env, state, reg, one.dst, one.offset, size)
        if old.is_pointer:
            raise Reject("an atomic operation on a stored address", one.dst)
        low, high = stack.bounds(reg, one.dst, one.offset, size)
        stack.make_writable(env, state, reg, one.dst, low, high + size, sure=low == high)
        env.event = None
    else:
        check(env, state, reg, one.dst, one.offset, size, False)
        check(env, state, reg, one.dst, one.offset, size, True)
    if one.imm & op.FETCH:
        regs[0 if one.imm == op.CMPXCHG else one.src] = number(unsigned(8 * size))


def _atomic_base(reg: Reg, register: int) -> None:
    if reg.kind not in (k.STACK, k.MAP_VALUE, k.MEMORY):
        raise Reject(
            f"atomic operations work on the stack, map values and memory blocks, not on {k.KINDS[reg.kind]}",
            register,
        )


def packet_load(env: Environment, state: State, one: Instruction) -> None:
    """LD_ABS and LD_IND: r0 = bytes of the packet; ends the program with 0 where they are not there."""
    regs = state.top.regs
    if not env.rules.load_absolute:
        raise Reject(
            f"{env.rules.type} programs have no packet load", hint="read through data and data_end"
        )
    if regs[6].kind != k.CONTEXT or regs[6].off or regs[6].s.mask or regs[6].s.value:
        raise Reject("a packet load needs the context in r6", 6)
    if len(state.frames) > 1:
        raise Reject(
            "a packet load outside the main function",
            hint="it may end the function: use bpf_skb_load_bytes there",
        )
    if state.refs or state.lock:
        raise Reject(
            "a packet load may end the program while something is held", hint="release it first"
        )
    if one.mode == op.IND:
        index = regs[one.src]
        if index.kind == k.DEAD:
            raise Reject(f"r{one.src} was never written", one.src)
        if index.is_pointer:
            raise Reject("the offset of a packet load is an address", one.src)
    for i in range(1, 6):
        regs[i] = NOTHING
    regs[0] = number(unsigned(8 * one.size))
