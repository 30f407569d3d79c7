"""`compile_program`: from a linked program to a blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

from workbench.errors import BadSpec
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.isa import check_targets, decode_slots
from workbench.runtime.jit import cache as cache_files
from workbench.runtime.jit.bitcode import module
from workbench.runtime.jit.blob import Blob
from workbench.runtime.jit.flatten import Unresolved, flatten
from workbench.runtime.jit.flow import Graph, functions, graph
from workbench.runtime.jit.llvm import ENTRY, host, object_code
from workbench.runtime.jit.shape import known
from workbench.runtime.jit.translate import translate
from workbench.runtime.jit.unit import Options, Unit, unit

if TYPE_CHECKING:
    from workbench.runtime.verifier.verdict import Verdict

__all__ = ("TIERS", "compile_program", "compile_unit", "find", "prepare")

TIERS: Final = ("quick", "optimised")


@cache
def arguments() -> dict[int, int]:
    """Registers that each helper reads, by its number."""
    from workbench.runtime.helpers.prototypes import HELPERS

    return {
        number: helper.registers
        for number, helper in HELPERS.items()
        if helper.arguments is not None
    }


def compile_program(
    program: LinkedProgram,
    maps: Sequence[LinkedMap],
    *,
    verdict: Verdict | None = None,
    tier: str = "quick",
    vectors: bool = False,
    machine: str = "",
    cached: bool = True,
) -> Blob:
    """Compile a program.

    Parameters
    ----------
    program : LinkedProgram
        From `workbench.objects.link.link`, lowered where its context has the kernel's shape.
    maps : sequence of LinkedMap
        The object's maps, by the index in the code. Their shapes and the content of read-only sections become part
        of the code.
    verdict : Verdict, optional
        What the verifier found; without it, every backward jump counts down the run-time budget.
    tier : str
        `quick`: translated as it stands. `optimised`: LLVM's -O3, for this processor.
    vectors : bool
        Use vector registers. Off for code that probes call: then they need not be saved.
    machine : str
        `x86_64` or `aarch64`; by default this machine.
    cached : bool
        Look in the cache on disk first, and leave the result there.

    Raises
    ------
    BadInstruction
        Bytes that are not BPF code.
    BadSpec
        Code that runs past its end, recursion, a map that is not there.
    MissingCapability
        llvmlite is missing, or the program needs what only the kernel has.
    """
    if tier not in TIERS:
        raise BadSpec(f"there is no tier {tier!r}", f"tiers: {', '.join(TIERS)}")
    options = Options(tier == "optimised", vectors, False, machine or host())
    name = cache_files.key(program.code, maps, options, verdict) if cached else ""
    if cached and (found := cache_files.read(name)):
        return found
    try:
        blob = compile_unit(prepare(program.code, maps, options, verdict))
    except (
        Unresolved
    ):  # bitcode of another build or a newer clang: the run's table has the same functions
        if not options.optimised:
            raise
        plain = replace(options, bitcode=False)
        blob = compile_unit(prepare(program.code, maps, plain, verdict))
    if cached:
        cache_files.write(name, blob)
    return blob


def find(
    program: LinkedProgram,
    maps: Sequence[LinkedMap],
    *,
    verdict: Verdict | None = None,
    tier: str = "quick",
    vectors: bool = False,
    machine: str = "",
) -> Blob | None:
    """The blob that `compile_program` with these arguments would find in the cache, or None; compiles nothing."""
    options = Options(tier == "optimised", vectors, False, machine or host())
    return cache_files.read(cache_files.key(program.code, maps, options, verdict))


def prepare(
    code: bytes, maps: Sequence[LinkedMap], options: Options, verdict: Verdict | None = None
) -> Unit:
    """Decode, find functions, blocks and live registers."""
    slots = decode_slots(code)
    check_targets(slots)
    if not slots:
        raise BadSpec("the program is empty", "a program has at least `r0 = 0` and `exit`")
    order = functions(slots)
    graphs: dict[int, Graph] = {}
    entries: dict[int, int] = {}
    for start in reversed(order):
        graphs[start] = graph(slots, start, arguments(), entries)
        entries[start] = graphs[start].blocks[start].live
    graphs = {start: graphs[start] for start in order}
    probed: frozenset[tuple[int, int]] = frozenset()
    counted = None
    if verdict is not None:
        if len(verdict.kinds) != len(slots):
            raise BadSpec(
                f"the verdict is of {len(verdict.kinds)} slots, the program has {len(slots)}",
                "verify this program, or keep its length when lowering it",
            )
        probed = _probed(verdict)
        counted = verdict.unbounded
    shapes = known(None if verdict is None else verdict.kinds)
    return unit(slots, graphs, maps, options, shapes, probed, counted)


def _probed(verdict: Verdict) -> frozenset[tuple[int, int]]:
    import numpy as np

    from workbench.runtime.verifier.kinds import PROBED

    where, registers = np.nonzero(verdict.kinds == PROBED)
    return frozenset(zip(where.tolist(), registers.tolist(), strict=True))


def compile_unit(made: Unit) -> Blob:
    """Translate, compile and flatten."""
    options = made.options
    text = translate(made, arguments())
    flat = flatten(object_code(text, options, tuple(map(module, sorted(made.bitcode)))))
    tier = TIERS[options.optimised]
    return Blob(flat.code, flat.offset(ENTRY), options.machine, tier, options.vectors, flat.symbols)
