"""Compiled code run in tests with a run, helpers and maps of the test's own."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.objects.linked import LinkedMap
from workbench.runtime.isa.assembler import assemble
from workbench.runtime.jit.code import load
from workbench.runtime.jit.compile import compile_unit, prepare
from workbench.runtime.jit.layout import HELPERS, RUN
from workbench.runtime.jit.llvm import host
from workbench.runtime.jit.raw import make_run
from workbench.runtime.jit.unit import Options
from workbench.runtime.verifier.verdict import Verdict

ENTRY = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
HELPER = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_void_p], *[ctypes.c_uint64] * 5)
VARIANTS = (("quick", False), ("optimised", False), ("optimised", True))


@dataclass
class Ran:
    """What a run left."""

    r0: int
    stopped: int
    budget: int


def execute(
    code: bytes | str,
    *,
    tier: str = "quick",
    vectors: bool = False,
    budget: int = 1 << 20,
    helpers: Mapping[int, object] | None = None,
    shapes: Sequence[LinkedMap] = (),
    handles: Sequence[int] = (),
    verdict: Verdict | None = None,
    ctx: int = 0,
    second: int = 0,
) -> Ran:
    """Compile and run once; r1 = ctx, r2 = second."""
    code = assemble(code) if isinstance(code, str) else code
    options = Options(tier == "optimised", vectors, True, host())
    loaded = load(compile_unit(prepare(code, shapes, options, verdict)))
    table = (ctypes.c_void_p * HELPERS)()
    if helpers is not None:
        for number, function in helpers.items():
            table[number] = ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]
    maps = (ctypes.c_uint64 * max(1, len(handles)))(*handles)
    given = ctypes.addressof(table) if helpers is not None else 0
    run = make_run(budget=budget, helpers=given, maps=ctypes.addressof(maps))
    ctypes.c_uint64.from_buffer(run, RUN["registers"]).value = second
    try:
        r0 = ENTRY(loaded.address)(ctx, ctypes.addressof(run))
    finally:
        loaded.close()
    return Ran(
        r0,
        ctypes.c_uint32.from_buffer(run, RUN["stopped"]).value,
        ctypes.c_uint64.from_buffer(run, RUN["budget"]).value,
    )
