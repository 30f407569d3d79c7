"""Calls of the program's own functions, callbacks, and what may leave a function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.runtime.helpers.prototypes import HELPERS, Helper
from workbench.runtime.isa import Instruction
from workbench.runtime.verifier import dynptr
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.arguments import Given
from workbench.runtime.verifier.code import MAX_FRAMES
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import mark
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.scalar import UNKNOWN
from workbench.runtime.verifier.state import NOTHING, STACK_BYTES, Frame, Reg, State, number

__all__ = ("Callback", "call", "enter_callback", "leave", "stack_use")


@dataclass(frozen=True, slots=True)
class Callback:
    """Why a frame runs: a helper calls it, as often as it likes.

    Attributes
    ----------
    helper : Helper
    before : State
        The caller before the helper first called back.
    refs : tuple
        References held then: those, and only those, are held when it returns.
    later : bool
        It runs after the program (a timer): nothing of the caller is seen.
    given : Given
    """

    helper: Helper
    before: State | None
    refs: tuple[tuple[int, int], ...]
    later: bool
    given: Given


def _depth(state: State) -> None:
    if len(state.frames) >= MAX_FRAMES:
        raise Reject(
            f"more than {MAX_FRAMES} functions deep", hint="inline some: static __always_inline"
        )


def call(env: Environment, state: State, one: Instruction) -> None:
    """Enter a function of the program; it is walked with what it is given."""
    _depth(state)
    target = one.target(state.slot)
    caller = state.top
    frame = Frame(target, len(state.frames), state.slot)
    frame.regs[1:6] = caller.regs[1:6]
    for i in range(6):
        caller.regs[i] = NOTHING
    state.push(frame)
    state.slot = target
    env.event = "call"


def enter_callback(env: Environment, state: State, helper: Helper, given: Given) -> State:
    """The state in which a helper calls back for the first, or a further, time; `state` stays the caller's."""
    _depth(state)
    caller = state.top
    later = helper.name == "bpf_timer_set_callback"
    inside = state.copy()
    regs: list[Reg] = [NOTHING] * 6
    context = caller.regs[3]
    if helper.name == "bpf_loop":
        regs[1], regs[2] = number(UNKNOWN), context
    elif helper.name == "bpf_for_each_map_elem":
        _element(env, regs, given.map)
        regs[4] = context
    elif helper.name == "bpf_user_ringbuf_drain":
        regs[1] = Reg(k.OPAQUE, x=(dynptr.USER_RING, 0), id=env.fresh(), readonly=True)
        regs[2] = context
    elif later:
        timer = given.timer
        assert timer is not None
        _element(env, regs, timer.x)
    else:
        raise Reject(f"callbacks of {helper.name} do not exist in user space")
    if later:
        inside.frames = []
        inside.refs, inside.lock = (), None
        inside.trace = inside.checkpoint = None
    frame = Frame(given.callback, len(inside.frames), -1 if later else state.slot)
    before = None if later else state.copy()
    frame.callback = Callback(helper, before, inside.refs, later, given)
    frame.regs[0:6] = regs
    inside.push(frame)
    inside.slot = given.callback
    return inside


def _element(env: Environment, regs: list[Reg], index: int) -> None:
    """A callback over the elements of a map gets the map, a key and a value."""
    one = env.maps[index]
    regs[1] = Reg(k.MAP, x=index)
    regs[2] = Reg(k.MEMORY, x="key", size=one.key_size, readonly=True, id=env.fresh())
    regs[3] = Reg(k.MAP_VALUE, x=index, id=env.fresh())


def _returned(env: Environment, state: State, low: int, high: int, who: str) -> None:
    r0 = state.top.regs[0]
    if r0.kind == k.DEAD:
        raise Reject(f"{who} returns without a value in r0", 0)
    if r0.is_pointer:
        if env.strict or low > -(1 << 63):
            raise Reject(f"an address leaks: {who} returns {r0}", 0, "return a number")
        return
    if (low, high) == _ANY:
        return
    mark(env, state, {state.top.number: 1})
    # Results are int: the low half counts.
    if not (
        (r0.s.smin >= low and r0.s.smax <= high) or (r0.s.s32min >= low and r0.s.s32max <= high)
    ):
        raise Reject(f"{who} may return {low} to {high}, this is {r0}", 0)


_ANY = (-(1 << 63), (1 << 63) - 1)


def leave(env: Environment, state: State) -> Any:
    """`exit`. None: the path ends here. Otherwise the state goes on (a list of states for a callback)."""
    frame = state.top
    callback: Callback | None = frame.callback
    if callback is not None:
        return _leave_callback(env, state, callback)
    if len(state.frames) == 1:
        if state.lock is not None:
            raise Reject("the program ends while a spin lock is held", hint="unlock on every path")
        if state.refs:
            where = " and ".join(_acquired(env, slot) for _, slot in state.refs)
            raise Reject(
                f"what was acquired at {where} is not released",
                hint="submit or discard it on every path",
            )
        low, high = env.rules.returns or _ANY
        _returned(env, state, low, high, f"a {env.rules.type} program")
        return None
    r0 = frame.regs[0]
    if r0.kind == k.STACK and r0.x == frame.number:
        raise Reject("the address of a variable leaves the function that it belongs to", 0)
    slot = frame.call_slot
    state.pop()
    state.top.regs[0] = r0
    state.slot = slot + 1
    env.event = "exit"
    return [state]


def _acquired(env: Environment, slot: int) -> str:
    """Where a reference comes from, for a message."""
    line = env.code.line(slot)
    one = env.code.slots[slot]
    assert one is not None
    name = HELPERS[one.imm].name
    return f"instruction {slot} by {name}" + (f" (line {line.line})" if line and line.line else "")


def _leave_callback(env: Environment, state: State, callback: Callback) -> list[State] | None:
    frame = state.top
    name = callback.helper.name
    _returned(env, state, 0, 0 if callback.later else 1, f"the callback of {name}")
    if state.lock is not None and (callback.later or state.lock[2] == len(state.frames)):
        raise Reject(f"the callback of {name} ends while a spin lock is held")
    if state.refs != callback.refs:
        held = [slot for ref, slot in state.refs if (ref, slot) not in callback.refs]
        what = (
            f"keeps what it acquired at {_acquired(env, held[0])}"
            if held
            else "released what it did not acquire"
        )
        raise Reject(f"the callback of {name} {what}", hint="acquire and release within one call")
    if callback.later:
        return None
    state.pop()
    state.slot = frame.call_slot
    env.event = "leave"
    return [state]


def stack_use(env: Environment, depths: dict[int, int], calls: set[tuple[int, int, int]]) -> int:
    """Largest number of stack bytes over a chain of calls; each frame counts in units of 16.

    Parameters
    ----------
    depths : dict
        Bytes that each function (by first slot) uses.
    calls : set of (caller, callee, slot)

    Raises
    ------
    Reject
        More than the stack has.
    """
    callees: dict[int, list[tuple[int, int]]] = {}
    for caller, callee, slot in calls:
        callees.setdefault(caller, []).append((callee, slot))
    best: dict[int, int] = {}

    def need(function: int) -> int:
        if function not in best:
            own = (depths.get(function, 0) + 15) // 16 * 16
            best[function] = own + max(
                (need(callee) for callee, _ in callees.get(function, ())), default=0
            )
        return best[function]

    roots = {part.start for part in env.code.parts}
    most = max((need(root) for root in roots), default=0)
    if most > STACK_BYTES and len(calls):
        deepest = max(roots, key=need)
        slot = callees[deepest][0][1] if callees.get(deepest) else deepest
        raise Reject(
            f"the functions from {env.code.part(deepest).name} on need {most} bytes of stack together, "
            f"there are {STACK_BYTES}",
            hint="move large variables into a per-CPU array map",
            slot=slot,
        )
    return most
