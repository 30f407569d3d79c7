"""Run bare BPF code on a block of memory, as the public conformance tests do: r1 = its address, r2 = its length."""

from __future__ import annotations

import ctypes

from workbench.native.library import load as core
from workbench.runtime.jit.code import load
from workbench.runtime.jit.compile import compile_unit, prepare
from workbench.runtime.jit.layout import RUN, RUN_BYTES
from workbench.runtime.jit.llvm import host
from workbench.runtime.jit.unit import Options

__all__ = ("make_run", "run_raw")

BUDGET = 1 << 23


def _helpers() -> int:
    """Address of the table of helpers."""
    return ctypes.addressof(ctypes.c_char.in_dll(core(), "wb_helpers"))


def make_run(
    *, budget: int = BUDGET, helpers: int = 0, maps: int = 0
) -> ctypes.Array[ctypes.c_char]:
    """A struct wb_run outside any namespace, for code that needs no maps of one."""
    run = ctypes.create_string_buffer(RUN_BYTES)
    _put(run, "maps", maps)
    _put(run, "helpers", helpers or _helpers())
    _put(run, "budget", budget)
    return run


def _put(run: ctypes.Array[ctypes.c_char], name: str, value: int) -> None:
    ctypes.c_uint64.from_buffer(run, RUN[name]).value = value


def run_raw(code: bytes, memory: bytearray, tier: str = "quick", *, vectors: bool = False) -> int:
    """r0 after running `code`; `memory` is read and written in place.

    Parameters
    ----------
    code : bytes
        BPF instructions, not verified: a program that accesses other memory than its own may end the process.
    memory : bytearray
        May be empty.
    tier : str
        `quick` or `optimised`.
    """
    options = Options(tier == "optimised", vectors, True, host())
    loaded = load(compile_unit(prepare(code, (), options)))
    try:
        run = make_run()
        block = (ctypes.c_char * len(memory)).from_buffer(memory) if memory else None
        context = ctypes.addressof(block) if block is not None else 0
        ctypes.c_uint64.from_buffer(run, RUN["registers"]).value = len(memory)
        entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(loaded.address)
        result: int = entry(context, ctypes.addressof(run))
        return result
    finally:
        loaded.close()
