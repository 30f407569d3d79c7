"""The two calls that everyone uses: `verify` a program, `verify_object` all of an object's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workbench.errors import MissingCapability
from workbench.objects.linked import LinkedObject, LinkedProgram
from workbench.runtime.isa import opcodes as op
from workbench.runtime.program_types import ContextRules, rules
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.code import Code, prepare
from workbench.runtime.verifier.environment import Environment, Options
from workbench.runtime.verifier.explain import rejection, rejection_at
from workbench.runtime.verifier.frame import Recorder, table
from workbench.runtime.verifier.functions import stack_use
from workbench.runtime.verifier.partitioned import PartitionedWalk
from workbench.runtime.verifier.reject import OutOfBudget, Reject
from workbench.runtime.verifier.verdict import Verdict
from workbench.runtime.verifier.walk import PARTITIONS, Failure, Walk

if TYPE_CHECKING:
    import numpy as np

__all__ = ("verify", "verify_object")

_SHORTEST: Final = 10_000  # steps that the search for a short failing path may take
_MAPS: Final = (op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE)
_JOINED: Final = 120_000  # steps of a joined walk
_ROUNDS: Final = 256  # of a callback or may_goto on one path, before rounds are joined


def verify(
    program: LinkedProgram,
    obj: LinkedObject,
    *,
    context: ContextRules | None = None,
    budget: int = 120_000,
    allow_unbounded: bool = True,
    allow_pointer_leaks: bool = False,
) -> Verdict:
    """Accept the program or raise VerifierRejected.

    Parameters
    ----------
    program : LinkedProgram
        From `workbench.objects.link.link`.
    obj : LinkedObject
        The object it belongs to (its maps).
    context : ContextRules or None
        Rules of the context; by default those of `program.type`.
    budget : int
        Instructions walked over all paths before loops are joined.
    allow_unbounded : bool
        Accept loops that only the run-time budget ends (listed in `Verdict.unbounded`).
    allow_pointer_leaks : bool
        Let addresses be stored in maps and rings, compared and returned.

    Raises
    ------
    VerifierRejected
        Names the instruction, the C line, the register state and the shortest failing path.
    MissingCapability
        Programs of this type do not run in user space.
    """
    if context is None:
        try:
            context = rules(program.type, program.section, program.attach_type)
        except KeyError:
            raise MissingCapability(
                f"program {program.name} is of type {program.type}, which user space does not have",
                "load it with the kernel backend",
            ) from None
    options = Options(budget, allow_unbounded, allow_pointer_leaks)
    try:
        code = prepare(program)
        _references(code, len(obj.maps))
    except Reject as reject:
        raise rejection_at(program, reject) from None

    def fresh() -> Environment:
        return Environment(program, obj, code, context, options)

    walk = _accept(program, obj, code, options, fresh)
    try:
        depth = stack_use(walk.env, walk.depths, walk.calls)
        kinds, offsets = _summary(code, walk)
    except Reject as reject:
        raise rejection_at(program, reject) from None

    def record() -> Recorder:
        recorder = Recorder(len(code.slots))
        _walk(walk.mode)(fresh(), walk.mode, budget=walk.steps + 1, record=recorder).run()
        return recorder

    return Verdict(
        program.name,
        kinds,
        offsets,
        frozenset(walk.unbounded),
        walk.steps,
        walk.kept,
        walk.mode != 0,
        depth,
        walk.env.context_size,
        tuple(walk.env.warnings),
        lambda: table(code, obj, record),
    )


def _references(code: Code, maps: int) -> None:
    """Maps that the code names exist, also where no path comes by: the JIT compiles it all."""
    for slot, one in enumerate(code.slots):
        named = one is not None and one.opcode == op.LD_IMM64 and one.src in _MAPS
        if named and one is not None and not 0 <= one.imm < maps:
            raise Reject(f"there is no map {one.imm}", slot=slot)


def _accept(
    program: LinkedProgram, obj: LinkedObject, code: Code, options: Options, fresh: Any
) -> Walk:
    """The first walk, of ever coarser ones, that ends within its budget and accepts."""
    failed: Failure | None = None
    joined = max(_JOINED, options.budget // 2)
    walk = Walk(fresh(), 0, budget=options.budget, rounds=_ROUNDS)
    walks = [walk, *(_walk(mode)(fresh(), mode, budget=joined) for mode in (PARTITIONS, 1, 2))]
    if not options.allow_unbounded:
        del walks[2:]
    while walks:
        walk = walks.pop(0)
        try:
            walk.run()
        except OutOfBudget:
            if walk.mode == 0 and walk.steps <= options.budget and walk.rounds:
                walks.append(Walk(fresh(), 0, budget=options.budget))  # when nothing else accepts
            continue
        except Failure as failure:
            if walk.mode == 0:
                failure = _shortest(failure, fresh)
                raise rejection(
                    program, obj, code, failure.reject, failure.state, failure.slot
                ) from None
            failed = failed or failure
            continue
        if walk.unbounded and not options.allow_unbounded:
            if walk.mode:
                continue
            reject = Reject(
                "nothing but the run-time budget ends a loop that jumps back here",
                hint="count its rounds",
                slot=min(walk.unbounded),
            )
            raise rejection_at(program, reject) from None
        return walk
    if not options.allow_unbounded:
        reject = Reject(
            f"the walk over all paths takes more than {options.budget:,} instructions",
            hint="bound the loops lower, use bpf_loop, or raise budget=",
            slot=0,
        )
        raise rejection_at(program, reject) from None
    if failed is not None:
        failed.reject.hint = failed.reject.hint or "bound the loops lower"
        failed.reject.reason += " (loops were joined: a walk over all paths took too long)"
        raise rejection(program, obj, code, failed.reject, failed.state, failed.slot) from None
    raise rejection_at(
        program, Reject("too complex: no walk ended within its budget", slot=0)
    ) from None


def _walk(mode: int) -> type[Walk]:
    return PartitionedWalk if mode == PARTITIONS else Walk


def _shortest(failure: Failure, fresh: Any) -> Failure:
    """The failure that the fewest instructions lead to; the given one where the search takes too long."""
    try:
        Walk(fresh(), 0, budget=_SHORTEST, shortest=True).run()
    except Failure as shorter:
        return shorter if shorter.state.steps <= failure.state.steps else failure
    except OutOfBudget:
        pass
    return failure


def _summary(code: Code, walk: Walk) -> tuple[np.ndarray, np.ndarray]:
    """Kinds and offsets of all registers, joined over the walk."""
    import numpy as np

    n = len(code.slots)
    kinds = np.zeros((n, 11), np.uint8)
    offsets = np.full((n, 11), k.UNKNOWN_OFFSET, np.int32)
    for slot, shapes in enumerate(walk.seen):
        if not shapes:
            continue
        row = [k.DEAD] * 11
        places: list[Any] = [None] * 11
        for frame, *sigs in shapes:
            for i, sig in enumerate(sigs):
                at = k.UNKNOWN_OFFSET
                if sig.__class__ is tuple:
                    kind, at = sig[0], sig[1]
                    if kind == k.STACK and sig[2] != frame:
                        kind = k.CALLER_STACK
                else:
                    kind = sig
                row[i] = k.join(row[i], kind)
                places[i] = at if places[i] in (None, at) else k.UNKNOWN_OFFSET
        _probed(code, slot, shapes, row)
        kinds[slot] = row
        for i in range(11):
            if row[i] not in (k.MIXED, k.NULLABLE) and -(1 << 31) <= (places[i] or 0) < 1 << 31:
                offsets[slot, i] = places[i] if places[i] is not None else k.UNKNOWN_OFFSET
    return kinds, offsets


def _probed(code: Code, slot: int, shapes: set[Any], row: list[int]) -> None:
    """A load through an address read from a kernel structure is fault-safe, and so on every path."""
    one = code.slots[slot]
    if one is None or one.kind not in (op.LDX, op.ST, op.STX):
        return
    load = one.kind == op.LDX or (one.mode == op.ATOMIC and one.imm == op.LOAD_ACQ)
    base = one.src if load else one.dst
    found = {
        sig[0] if sig.__class__ is tuple else sig for sig in (shape[1 + base] for shape in shapes)
    }
    if found <= {k.NUMBER, k.PROBED}:
        row[base] = k.PROBED
    elif len(found) > 1 and found & {k.NUMBER, k.PROBED, k.CONTEXT}:
        names = " and ".join(k.KINDS[kind] for kind in sorted(found))
        raise Reject(
            f"one instruction accesses different kinds of memory through r{base}: {names}",
            base,
            "access them in separate branches",
            slot,
        )


def verify_object(obj: LinkedObject, **options: Any) -> dict[str, Verdict]:
    """Verify every program of an object; raises at the first that is refused. Options as for `verify`."""
    return {name: verify(program, obj, **options) for name, program in obj.programs.items()}
