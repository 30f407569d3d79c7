"""Walks every path of a program from its entry, keeping states on the way so that no path is walked twice."""

from __future__ import annotations

import heapq
from typing import Any, Final

from workbench.runtime.helpers.prototypes import HELPERS
from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op
from workbench.runtime.verifier import functions, jump, memory
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.alu import alu
from workbench.runtime.verifier.calls import call_helper, finish
from workbench.runtime.verifier.cycles import Cycles
from workbench.runtime.verifier.environment import Environment
from workbench.runtime.verifier.joined import Joined, widen_numbers
from workbench.runtime.verifier.map_rules import type_name
from workbench.runtime.verifier.precision import Checkpoint, mark_everything, mark_like
from workbench.runtime.verifier.prune import covered, identical
from workbench.runtime.verifier.reject import OutOfBudget, Reject
from workbench.runtime.verifier.state import Frame, Reg, State, number

__all__ = ("PARTITIONS", "Failure", "Walk")

_PATHS: Final = 0  # every path
_HEADS: Final = 1  # join at the heads of loops
_JOINS: Final = 2  # join wherever paths meet
PARTITIONS: Final = 3  # `partitioned`: join wherever paths meet, but not rounds of counted loops
_PATIENCE: Final = 64  # comparisons in vain before a state is dropped
_MANY: Final = 48  # distinct register shapes kept per instruction


class Failure(Exception):
    """A rule was broken on some path: the rule and the state before the instruction."""

    def __init__(self, reject: Reject, state: State, slot: int) -> None:
        super().__init__(reject.reason)
        self.reject = reject
        self.state = state
        self.slot = slot


class Walk:
    """One walk.

    Parameters
    ----------
    env : Environment
    mode : int
        0 every path, 1 joins at loop heads, 2 joins everywhere.
    budget : int
        Instructions walked.
    rounds : int
        Of callbacks and may_goto on one path; more are as if the budget was spent. 0 = any number.
    shortest : bool
        Take the path with the fewest instructions first, so that a failure comes by the shortest way.
    record : bool
        Keep the states per instruction for `Verdict.frame`.
    """

    def __init__(
        self,
        env: Environment,
        mode: int = _PATHS,
        *,
        budget: int,
        rounds: int = 0,
        shortest: bool = False,
        record: Any = None,
    ) -> None:
        self.env = env
        self.mode = mode
        self.budget = budget
        self.rounds = rounds
        self.shortest = shortest
        self.record = record
        self.steps = 0
        self.kept = 0
        self.jumps = 0
        self._kept_at = (0, 0)  # steps and jumps when a state was kept last
        n = len(env.code.slots)
        self.seen: list[set[Any]] = [set() for _ in range(n)]
        self.visits = [0] * n
        self.unbounded: set[int] = set()
        self.depths: dict[int, int] = {}
        self.calls: set[tuple[int, int, int]] = set()
        self._states: dict[int, list[Checkpoint]] = {}
        self._joined = Joined()
        faith = env.callbacks or any(one and one.opcode == op.MAY_GOTO for one in env.code.slots)
        self._cycles = Cycles(env.code, env.callbacks) if faith and mode == _PATHS else None
        self.counts = mode != _PATHS  # every backward jump that is taken counts as unbounded
        self._todo: list[Any] = []
        self._order = 0
        env.precise_all = mode != _PATHS

    # --- the order of the walk ---------------------------------------------------------------------------------------

    def _push(self, state: State) -> None:
        if self.shortest:
            self._order += 1
            heapq.heappush(self._todo, (state.steps, self._order, state))
        else:
            self._todo.append(state)

    def _pop(self) -> State:
        found: State = heapq.heappop(self._todo)[2] if self.shortest else self._todo.pop()
        return found

    def run(self) -> None:
        """Walk everything.

        Raises
        ------
        Failure
            The first path that breaks a rule.
        OutOfBudget
            More steps than the budget.
        """
        self._push(self._entry())
        while self._todo:
            state = self._pop()
            self._path(state)
        if self._cycles is not None:
            self.unbounded |= self._cycles.unbounded()

    def _entry(self) -> State:
        env = self.env
        state = State()
        frame = Frame(0, 0, -1)
        if env.rules.memory >= 0:
            if env.rules.memory:
                frame.regs[1] = Reg(k.MEMORY, size=env.rules.memory, x="argument")
            else:
                frame.regs[1] = number(0)
            frame.regs[2] = number(env.rules.memory)
        else:
            frame.regs[1] = Reg(k.CONTEXT)
        state.push(frame)
        return state

    def _path(self, state: State) -> None:
        """Walk on from `state` until its path ends; further paths are put aside."""
        env = self.env
        code = env.code
        slots, joins = code.slots, code.joins
        live = env.live
        visits = self.visits
        seen = self.seen
        while True:
            if self.shortest and self._todo and self._todo[0][0] < state.steps:
                self._push(state)
                return
            slot = state.slot
            if slot in joins and self._visited(state):
                self._end(state)
                return
            one = slots[slot]
            assert one is not None
            self.steps += 1
            if self.steps > self.budget:
                raise OutOfBudget
            state.steps += 1
            top = state.top
            shapes = seen[slot]
            shape = (top.number, *[reg.sig for reg in top.regs])
            if shape not in shapes:
                self._shape(shapes, shape)
            if self.record is not None:
                self.record(slot, state)
            visits[slot] += 1
            env.event = None
            before = state.trace
            kind = one.opcode & 7
            try:
                if kind == op.ALU64 or kind == op.ALU:
                    alu(env, state, one)
                    if visits[slot] == 1:
                        live.passed(slot, 0, 0)
                    state.trace = (before, slot, env.event)
                    state.slot = slot + 1
                    continue
                following = self._step(state, one, slot, kind)
            except Reject as reject:
                raise Failure(reject, state, slot if reject.slot < 0 else reject.slot) from reject
            if following is None:
                continue
            if kind in (op.JMP, op.JMP32):
                self.jumps += 1
            if not following:
                self._end(state)
                return
            state = following[0]
            for other in following[1:]:
                if other.checkpoint is not None:
                    other.checkpoint.branches += 1
                self._push(other)

    def _end(self, state: State) -> None:
        kept = state.checkpoint
        while kept is not None:
            kept.branches -= 1
            if kept.branches:
                return
            kept = kept.parent

    def _shape(self, shapes: set[Any], shape: tuple[Any, ...]) -> None:
        if len(shapes) >= _MANY:
            # Offsets that keep changing are unknown to the JIT anyhow.
            folded = {
                (
                    old[0],
                    *[
                        (sig[0], k.UNKNOWN_OFFSET, *sig[2:]) if sig.__class__ is tuple else sig
                        for sig in old[1:]
                    ],
                )
                for old in shapes
            }
            shapes.clear()
            shapes |= folded
        shapes.add(shape)

    # --- one instruction ---------------------------------------------------------------------------------------------

    def _step(self, state: State, one: Instruction, slot: int, kind: int) -> list[State] | None:
        """Everything but arithmetic. None: `state` goes on; else the states that do (empty: the path ends)."""
        env = self.env
        before = state.trace
        if kind == op.LDX:
            self._destination(one.dst)
            memory.load(env, state, one)
        elif kind in (op.STX, op.ST):
            base = (
                one.src
                if kind == op.STX and one.mode == op.ATOMIC and one.imm == op.LOAD_ACQ
                else one.dst
            )
            reg = state.top.regs[base]
            if kind == op.STX and one.mode == op.ATOMIC:
                if one.imm == op.LOAD_ACQ:
                    self._destination(one.dst)
                elif one.imm & op.FETCH and one.imm != op.STORE_REL and one.imm != op.CMPXCHG:
                    self._destination(one.src)
                memory.atomic(env, state, one)
                env.live.passed(slot, 0, 0)
            else:
                memory.store(env, state, one)
                event: Any = env.event
                whole = event is not None and len(event) == 2 and event[0] == state.top.number
                env.live.passed(slot, 0, 1 << event[1] if whole else 0)
            self._depth(state, reg, one.offset)
            state.trace = (before, slot, env.event)
            state.slot = slot + 1
            return None
        elif kind == op.LD:
            if one.opcode == op.LD_IMM64:
                self._destination(one.dst)
                self._wide(state, one, slot)
                state.trace = (before, slot, None)
                state.slot = slot + 2
                env.live.passed(slot, 0, 0)
                return None
            memory.packet_load(env, state, one)
        else:
            return self._jump(state, one, slot)
        env.live.passed(slot, 0, 0)
        state.trace = (before, slot, env.event)
        state.slot = slot + 1
        return None

    def _destination(self, register: int) -> None:
        if register == 10:
            raise Reject("r10, the frame pointer, is read-only", 10)

    def _depth(self, state: State, reg: Reg, offset: int) -> None:
        if reg.kind == k.STACK:
            self._deep(state, reg.x, reg.off + offset + reg.s.smin)

    def _deep(self, state: State, frame: int, low: int) -> None:
        function = state.frames[frame].function
        if 512 >= -low > self.depths.get(function, 0):
            self.depths[function] = -low

    def _wide(self, state: State, one: Instruction, slot: int) -> None:
        env, regs = self.env, state.top.regs
        if one.src == op.PSEUDO_NONE:
            regs[one.dst] = number(one.imm64)
        elif one.src in (op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE):
            if not 0 <= one.imm < len(env.obj.maps):
                raise Reject(f"there is no map {one.imm}")
            if one.src == op.PSEUDO_MAP_IDX:
                regs[one.dst] = Reg(k.MAP, x=one.imm)
                return
            target = env.maps[one.imm]
            offset = one.imm64 >> 32
            if type_name(target.type) != "array":
                raise Reject(
                    f"map {target.name} of type {type_name(target.type)} has no address of a value"
                )
            if offset >= target.value_size:
                raise Reject(
                    f"offset {offset} is outside the {target.value_size} bytes of {target.name}"
                )
            regs[one.dst] = Reg(k.MAP_VALUE, x=one.imm, off=offset)
        elif one.src == op.PSEUDO_FUNC:
            regs[one.dst] = Reg(k.FUNCTION, x=one.target(slot))
        else:
            raise Reject(
                "a reference that was not resolved",
                hint="link the object with workbench.objects.link",
            )

    def _jump(self, state: State, one: Instruction, slot: int) -> list[State] | None:
        env = self.env
        before = state.trace
        if one.opcode == op.EXIT_OP:
            env.live.passed(slot, 0, 0)
            found: list[State] | None = functions.leave(env, state)
            if found is None:
                return []
            for out in found:
                out.trace = (before, slot, env.event)
                if env.event == "leave":
                    self._again(out)
            return found
        if one.opcode in (op.CALL_IMM, op.CALLX):
            return self._call(state, one, slot)
        env.live.passed(slot, 0, 0)
        if one.opcode in (op.GOTO, op.GOTOL):
            target = one.target(slot)
            if self.counts and target <= slot:
                self.unbounded.add(slot)
            state.trace = (before, slot, None)
            state.slot = target
            return [state]
        if one.opcode == op.MAY_GOTO:
            if one.target(slot) <= slot:
                raise Reject(
                    "may_goto jumps back: nothing would end the loop when its budget is spent"
                )
            # Falls through while the budget lasts, jumps when it is spent.
            out = state.copy()
            out.slot = one.target(slot)
            out.trace = state.trace = (before, slot, None)
            state.slot = slot + 1
            state.may_goto += 1
            self._again(state, slot)
            return [state, out]
        falls, jumps = jump.branch(env, state, one)
        following = []
        event = env.event
        target = one.target(slot)
        if jumps is not None:
            jumps.slot = target
            jumps.trace = (before, slot, event)
            following.append(jumps)
            if self.counts and target <= slot:
                self.unbounded.add(slot)
        if falls is not None:
            falls.slot = slot + 1
            falls.trace = (before, slot, event)
            following.append(falls)
        following.reverse()
        return following

    def _again(self, state: State, slot: int = -1) -> None:
        """Before a further round of a callback or may_goto: forget numbers that changed and decided nothing."""
        if self.rounds and state.may_goto > self.rounds:
            raise OutOfBudget
        at = state.slot if slot < 0 else slot
        before = state.may_goto - (
            slot >= 0
        )  # this round's own state is not the one of the round before
        kept = state.checkpoint
        while kept is not None:
            old = kept.state
            if old.slot == at and old.may_goto < before and len(old.frames) == len(state.frames):
                widen_numbers(kept, state)
                return
            kept = kept.parent

    def _call(self, state: State, one: Instruction, slot: int) -> list[State] | None:
        env = self.env
        before = state.trace
        function = state.top.function
        if one.opcode == op.CALL_IMM and one.src == op.CALL_LOCAL:
            env.live.passed(slot, 0, 0)
            self.calls.add((function, one.target(slot), slot))
            functions.call(env, state, one)
            state.trace = (before, slot, env.event)
            return [state]
        lowest = self._lowest(state)
        given = call_helper(env, state, one)
        for frame, low in lowest:
            self._deep(state, frame, low)
        env.live.passed(slot, 0, 0)
        if given is None:
            state.trace = (before, slot, env.event)
            state.slot = slot + 1
            return None
        helper = HELPERS[one.imm]
        inside = functions.enter_callback(env, state, helper, given)
        self.calls.add((function, given.callback, slot))
        inside.may_goto += 1
        if not inside.top.callback.later:
            inside.trace = (before, slot, "enter")
        finish(env, state, helper, given)
        state.trace = (before, slot, None)
        state.slot = slot + 1
        # What follows the call comes first: it marks the numbers that matter, and rounds widen only the others.
        return [state, inside]

    def _lowest(self, state: State) -> list[tuple[int, int]]:
        return [(reg.x, reg.off + reg.s.smin) for reg in state.top.regs[1:6] if reg.kind == k.STACK]

    # --- states that are kept ----------------------------------------------------------------------------------------

    def _visited(self, state: State) -> bool:
        """True where everything from here on was, or is being, walked."""
        env = self.env
        slot = state.slot
        one = env.code.slots[slot]
        assert one is not None
        calls_back = slot in env.callbacks
        if self.mode != _PATHS:
            if self.mode == _JOINS or slot in env.code.heads or calls_back:
                return self._joined.visit(env, state)
            return False
        rounds = calls_back or one.opcode == op.MAY_GOTO
        states = self._states.get(slot)
        if states is None:
            states = self._states[slot] = []
        drop = None
        key = hash(
            tuple(
                [(reg.kind, reg.off, reg.s.value, reg.s.umax, reg.s.smin) for reg in state.top.regs]
            )
        )
        for kept in states:
            old = kept.state
            if len(old.frames) != len(state.frames) or old.top.call_slot != state.top.call_slot:
                continue
            if kept.branches:
                kept.misses += 1
                if kept.misses > 16:
                    drop = kept  # it closes a path no more, but stays what numbers are followed back to
                if self.shortest:
                    continue
                if rounds:
                    if old.may_goto != state.may_goto and covered(env, kept, state, True):
                        mark_everything(env, state)
                        env.open_loops.append(kept)
                        if self._cycles is not None:
                            self._cycles.arrive(state, kept, closes=True)
                        return True
                elif (
                    kept.key == key and old.may_goto == state.may_goto and self._loops(kept, state)
                ):
                    raise Failure(
                        Reject(
                            "the loop never ends: it comes back here with nothing changed",
                            hint="change what the condition reads in every round",
                        ),
                        state,
                        slot,
                    )
                continue
            if covered(env, kept, state, False):
                kept.hits += 1
                mark_like(env, state, kept)
                if self._cycles is not None:
                    self._cycles.arrive(state, kept)
                return True
            kept.misses += 1
            patience = _PATIENCE if rounds or slot in env.code.heads else 3
            if kept.misses > patience * (kept.hits + 1):
                drop = kept
        if drop is not None:
            states.remove(drop)
        since, jumps = self.steps - self._kept_at[0], self.jumps - self._kept_at[1]
        if rounds or state.checkpoint is None or (since >= 8 and jumps >= 2) or since >= 64:
            self._kept_at = (self.steps, self.jumps)
            kept = Checkpoint(state.copy(), state.checkpoint, state.trace)
            kept.key = key
            states.append(kept)
            self.kept += 1
            if self._cycles is not None:
                self._cycles.arrive(state, kept)
            state.trace = state.checkpoint = kept
        return False

    def _loops(self, kept: Checkpoint, state: State) -> bool:
        ancestor = state.checkpoint
        while ancestor is not None:
            if ancestor is kept:
                return identical(self.env, kept, state)
            ancestor = ancestor.parent
        return False
