"""Run bare BPF code on a block of memory, as the public conformance tests do: r1 = its address, r2 = its length."""

from __future__ import annotations

import ctypes

from workbench.native.library import load as core
from workbench.runtime.jit.code import load
from workbench.runtime.jit.compile import compile_unit, prepare
from workbench.runtime.jit.layout import RUN, RUN_BYTES
from workbench.runtime.jit.llvm import host
from workbench.runtime.jit.unit import Options

__all__ = ("UnverifiedRun", "make_run", "run_raw")

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


class UnverifiedRun:
    """Code compiled for one run, as a context.

    Attributes
    ----------
    result : int
        r0.
    stopped : int
        Why the run was cut short (WB_STOP_*); 0 = it was not.
    """

    def __init__(self, code: bytes, tier: str = "quick", *, vectors: bool = False) -> None:
        options = Options(tier == "optimised", vectors, True, host())
        self._code = load(compile_unit(prepare(code, (), options)))
        self.result = self.stopped = 0

    def execute(self, memory: bytearray) -> None:
        """Run it on `memory`, in place."""
        run = make_run()
        block = (ctypes.c_char * len(memory)).from_buffer(memory) if memory else None
        context = ctypes.addressof(block) if block is not None else 0
        _put(run, "registers", len(memory))
        signature = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
        self.result = signature(self._code.address)(context, ctypes.addressof(run))
        self.stopped = ctypes.c_uint32.from_buffer(run, RUN["stopped"]).value

    def __enter__(self) -> UnverifiedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._code.close()


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
    with UnverifiedRun(code, tier, vectors=vectors) as run:
        run.execute(memory)
        return run.result
