"""Whether a state was seen before: everything it allows was allowed there (`states_equal` in kernel/bpf/verifier.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.precision import Checkpoint
from workbench.runtime.verifier.state import (
    INVALID,
    MISC,
    OBJECT,
    SPILLED,
    ZERO,
    Frame,
    Reg,
    Slot,
    State,
)

if TYPE_CHECKING:
    from workbench.runtime.verifier.functions import Callback

__all__ = ("covered", "identical")


class _Ids:
    """Ids of the old state and those of the new that stand for them, one to one."""

    __slots__ = ("back", "to")

    def __init__(self) -> None:
        self.to: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def match(self, old: int, new: int) -> bool:
        if not old and not new:
            return True
        if not old or not new:
            return False
        known = self.to.get(old)
        if known is None:
            if new in self.back:
                return False
            self.to[old] = new
            self.back[new] = old
            return True
        return known == new

    def match_number(self, old: int, new: int, unique: list[int]) -> bool:
        """Numbers: an old one that is equal to no other may be equal to any."""
        if not old:
            return True
        if not new:
            unique[0] -= 1
            new = unique[0]
        return self.match(old, new)


def _register(old: Reg, new: Reg, ids: _Ids, unique: list[int], precise: bool, same: bool) -> bool:
    if old is new and (old.kind != k.NUMBER or not old.id) and not old.id and not old.ref:
        return True
    if old.kind == k.DEAD:
        return True if not same else new.kind == k.DEAD
    if old.kind != new.kind or old.null != new.null:
        return False
    if old.kind == k.NUMBER:
        if old.x and not new.x:
            return False
        if same:
            return old.s.key == new.s.key and ids.match_number(old.id, new.id, unique)
        if not precise:
            return True
        return old.s.covers(new.s) and ids.match_number(old.id, new.id, unique)
    if (
        old.off != new.off
        or (
            old.x != new.x
            and not (
                isinstance(old.x, tuple) and isinstance(new.x, tuple) and _tuples(old.x, new.x, ids)
            )
        )
        or old.readonly != new.readonly
    ):
        return False
    if not ids.match(old.id, new.id) or not ids.match(old.ref, new.ref):
        return False
    if same:
        return old.s.key == new.s.key and old.size == new.size
    if old.kind in (k.PACKET, k.PACKET_META):
        return old.size <= new.size and old.s.covers(new.s)
    return old.size == new.size and old.s.covers(new.s)


def _tuples(old: tuple[object, ...], new: tuple[object, ...], ids: _Ids) -> bool:
    """('slice', id of a dynptr)."""
    if old[0] != new[0] or len(old) != len(new):
        return False
    a, b = old[1], new[1]
    return isinstance(a, int) and isinstance(b, int) and old[0] == "slice" and ids.match(a, b)


def _slot(
    old: Slot, new: Slot | None, ids: _Ids, unique: list[int], precise: bool, same: bool
) -> bool:
    if old is new and (old.reg is None or not (old.reg.id or old.reg.ref)):
        return True
    if new is None:
        return not any(old.types)
    for a, b in zip(old.types, new.types, strict=True):
        if a == b:
            continue
        if same:
            return False
        if a == INVALID:
            continue
        if a == MISC and b == ZERO:
            continue
        if a == MISC and b == SPILLED and new.reg is not None and new.reg.kind == k.NUMBER:
            continue
        if a == SPILLED and b in (MISC, ZERO) and old.reg is not None and old.reg.kind == k.NUMBER:
            # A spilled number that never mattered stands for any bytes.
            if precise or old.reg.x:
                return False
            continue
        return False
    if SPILLED in old.types or OBJECT in old.types:
        if old.reg is None:
            return True
        if new.reg is None:
            return old.reg.kind == k.NUMBER and not precise and not old.reg.x and not same
        return _register(old.reg, new.reg, ids, unique, precise, same)
    return True


def _callbacks(old: Callback | None, new: Callback | None, ids: _Ids) -> bool:
    """What a callback must still hold when it returns is the same."""
    if old is None or new is None:
        return old is new
    return len(old.refs) == len(new.refs) and all(
        ids.match(a[0], b[0]) for a, b in zip(old.refs, new.refs, strict=True)
    )


def _frame(
    env: Environment,
    kept: Checkpoint,
    old: Frame,
    new: Frame,
    slot: int,
    stack_slot: int,
    ids: _Ids,
    unique: list[int],
    exact: bool,
    same: bool,
) -> bool:
    if old.function != new.function or old.call_slot != new.call_slot:
        return False
    if not _callbacks(old.callback, new.callback, ids):
        return False
    live = 0x3FF if same else env.code.live[slot]
    marked = kept.regs.get(old.number, 0) | kept.closed_regs.get(old.number, 0)
    regs, others = old.regs, new.regs
    for i in range(10):
        if live >> i & 1 and not _register(
            regs[i], others[i], ids, unique, exact or bool(marked >> i & 1), same
        ):
            return False
    wanted = -1 if exact or same or env.has_open_loop() else env.live.live[stack_slot]
    marked = kept.slots.get(old.number, 0) | kept.closed_slots.get(old.number, 0)
    stack = new.stack
    for at, one in old.stack.items():
        if not wanted >> at & 1 and one.types[0] != OBJECT:
            continue
        if not _slot(one, stack.get(at), ids, unique, exact or bool(marked >> at & 1), same):
            return False
    # What the new state has more must not be a dynptr that somebody must release.
    return not any(
        at not in old.stack and (same or one.types[0] == OBJECT) for at, one in stack.items()
    )


def _compare(env: Environment, kept: Checkpoint, new: State, exact: bool, same: bool) -> bool:
    old = kept.state
    if (
        len(old.frames) != len(new.frames)
        or len(old.refs) != len(new.refs)
        or (old.lock is None) != (new.lock is None)
    ):
        return False
    ids = _Ids()
    unique = [0]
    for a, b in zip(old.refs, new.refs, strict=True):
        if not ids.match(a[0], b[0]):
            return False
    if (
        old.lock is not None
        and new.lock is not None
        and (
            old.lock[0] != new.lock[0]
            or old.lock[2:] != new.lock[2:]
            or not ids.match(old.lock[1], new.lock[1])
        )
    ):
        return False
    last = len(old.frames) - 1
    for i, (a_frame, b_frame) in enumerate(zip(old.frames, new.frames, strict=True)):
        if i == last:
            slot = call = new.slot
        else:
            call = new.frames[i + 1].call_slot
            # A callback returns to the call itself, everything else behind it.
            slot = call if new.frames[i + 1].callback is not None else call + 1
        if not _frame(env, kept, a_frame, b_frame, slot, call, ids, unique, exact, same):
            return False
    return True


def covered(env: Environment, kept: Checkpoint, new: State, exact: bool) -> bool:
    """Every run from `new` is one from `kept`. `exact`: numbers count even where they decided nothing so far."""
    return _compare(env, kept, new, exact, False)


def identical(env: Environment, kept: Checkpoint, new: State) -> bool:
    """Nothing changed since: going on would go round for ever."""
    return _compare(env, kept, new, True, True)
