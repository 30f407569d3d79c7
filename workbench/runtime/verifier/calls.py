"""Calls of helpers: who may, with what, and what comes back (`check_helper_call` in kernel/bpf/verifier.c)."""

from __future__ import annotations

from typing import Final

from workbench.runtime.helpers.prototypes import HELPERS, Helper, Result
from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import dynptr
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.arguments import Given, check_arguments
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.map_rules import check_map, is_map_of_maps
from workbench.runtime.verifier.printed import check_printed
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.scalar import UNKNOWN, signed_range
from workbench.runtime.verifier.state import NOTHING, Reg, State, number

__all__ = ("call_helper", "helper_of", "release")

_ERRNO: Final = 4095
_SPIN_LOCK, _SPIN_UNLOCK = 93, 94


def helper_of(env: Environment, state: State, one: Instruction) -> Helper:
    """The helper that is called, if this program may call it."""
    for missing in env.program.unresolved:
        if missing.instruction == state.slot:
            raise Reject(
                missing.message,
                hint="the program must check that it exists before it comes here; "
                "fields of the kernel are there with backend='kernel'",
            )
    if one.src == op.CALL_KFUNC:
        raise Reject(
            "kernel functions (kfuncs) do not exist in user space",
            hint="use a helper, or the kernel backend",
        )
    if one.opcode == op.CALLX:
        raise Reject("a call through a register", hint="call the helper or function by name")
    helper = HELPERS.get(one.imm)
    if helper is None or helper.arguments is None:
        name = helper.name if helper else f"number {one.imm}"
        raise Reject(f"helper {name} is not known here", hint="the kernel backend may have it")
    if not env.rules.allows(helper):
        raise Reject(f"{env.rules.type} programs may not call {helper.name}")
    if helper.gpl_only and not env.gpl:
        raise Reject(
            f"{helper.name} is for GPL-compatible programs, this object's licence is {env.obj.license!r}",
            hint='char LICENSE[] SEC("license") = "Dual MIT/GPL";',
        )
    if (
        helper.sleepable
        and not env.program.sleepable
        and env.rules.memory < 0
        and env.rules.type != "syscall"
    ):
        raise Reject(
            f"{helper.name} may sleep, {env.program.name} is not in a sleepable section",
            hint='SEC("uprobe.s")',
        )
    return helper


def call_helper(env: Environment, state: State, one: Instruction) -> Given | None:
    """One call. Returns what was given where the helper calls back; the registers are then still the call's."""
    helper = helper_of(env, state, one)
    if not helper.userspace:
        env.warnings[f"{helper.name} is missing in user space; the kernel backend has it"] = None
    if state.lock is not None and helper.number not in (_SPIN_LOCK, _SPIN_UNLOCK):
        raise Reject(f"{helper.name} is called while a spin lock is held", hint="unlock first")
    given = check_arguments(env, state, helper)
    if helper.registers > len(helper.arguments or ()):
        check_printed(env, state, helper)
    if given.map >= 0:
        check_map(helper, env.maps[given.map])
        if (
            helper.name == "bpf_timer_init"
            and given.timer is not None
            and given.timer.x != given.map
        ):
            raise Reject("bpf_timer_init is given another map than the one that holds the timer", 2)
    if helper.name == "bpf_tail_call" and (state.refs or state.lock):
        raise Reject("a tail call while something is held", hint="release it first")
    if helper.number == _SPIN_LOCK:
        _lock(state, state.top.regs[1])
    elif helper.number == _SPIN_UNLOCK:
        _unlock(state, state.top.regs[1])
    if helper.releases is not None:
        release(env, state, given.released, helper)
    if given.callback >= 0:
        return given
    finish(env, state, helper, given)
    return None


def finish(env: Environment, state: State, helper: Helper, given: Given) -> None:
    """Registers after the call."""
    regs = state.top.regs
    for i in range(1, 6):
        regs[i] = NOTHING
    if helper.changes_packet:
        state.map_regs(
            lambda r: NOTHING if r.kind in (k.PACKET, k.PACKET_END, k.PACKET_META) else None
        )
    regs[0] = _result(env, state, helper, given)


def _result(env: Environment, state: State, helper: Helper, given: Given) -> Reg:
    result = helper.result
    if result == Result.INTEGER:
        if helper.bounded_result:
            return number(signed_range(-_ERRNO, given.size))
        return number(UNKNOWN)
    if result == Result.VOID:
        return NOTHING
    null = result.name.endswith("_OR_NULL")
    if result in (Result.MAP_VALUE_OR_NULL, Result.MAP_VALUE):
        if given.map < 0:
            raise Reject(f"{helper.name} has no map")
        identity = env.fresh()
        if is_map_of_maps(env.maps[given.map]):
            return Reg(k.MAP, x=env.inner(given.map), id=identity, null=null)
        return Reg(k.MAP_VALUE, x=given.map, id=identity, null=null)
    if result == Result.ALLOC_MEMORY_OR_NULL:
        identity = env.fresh()
        state.refs = (*state.refs, (identity, state.slot))
        return Reg(k.MEMORY, x="record", id=identity, ref=identity, size=given.alloc, null=True)
    if result == Result.MEMORY_OR_NULL:
        holder = given.dynptr
        mark = ("slice", holder.id) if holder is not None else None
        readonly = holder is not None and holder.readonly
        return Reg(k.MEMORY, x=mark, id=env.fresh(), size=given.alloc, null=True, readonly=readonly)
    if result in (Result.TASK, Result.BTF_OBJECT, Result.BTF_OBJECT_OR_NULL):
        what = "task_struct" if result == Result.TASK else "kernel object"
        return Reg(k.PROBED, x=what, id=env.fresh() if null else 0, null=null)
    raise Reject(f"{helper.name} gives {result.value}, which user space does not have")


def release(env: Environment, state: State, ref: int, helper: Helper) -> None:
    """A reference is given up: every copy of it is gone."""
    if not ref or all(known != ref for known, _ in state.refs):
        raise Reject(
            f"{helper.name} is given something that is not held",
            1,
            "release what was acquired, once",
        )
    state.refs = tuple(held for held in state.refs if held[0] != ref)
    dynptr.release(state, ref)
    state.map_regs(lambda r: NOTHING if r.ref == ref else None)


def _lock(state: State, reg: Reg) -> None:
    if state.lock is not None:
        raise Reject("a second spin lock is taken", 1, "hold one at a time")
    state.lock = (reg.x, reg.id, len(state.frames), reg.off + reg.s.smin)


def _unlock(state: State, reg: Reg) -> None:
    if state.lock is None:
        raise Reject("no spin lock is held", 1)
    if state.lock[:2] != (reg.x, reg.id) or state.lock[3] != reg.off + reg.s.smin:
        raise Reject("another spin lock is held than the one that is unlocked", 1)
    state.lock = None
