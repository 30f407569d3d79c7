"""The C side of helpers and execution by ctypes: runs outside any namespace, calling a helper, running a program."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from workbench.errors import MissingCapability
from workbench.native.library import load

__all__ = (
    "CProgram",
    "CRun",
    "StandaloneRun",
    "call",
    "core",
    "execute",
    "execute_many",
    "execute_repeat",
)

SCRATCH = 65536
_U32, _U64, _POINTER = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


class CProgram(ctypes.Structure):
    """struct wb_program."""

    _fields_ = (
        ("entry", _U64),
        ("maps", _U64),
        ("type", _U32),
        ("id", _U32),
        ("budget", _U64),
    )


class CRun(ctypes.Structure):
    """struct wb_run."""

    _fields_ = (
        ("maps", _U64),
        ("helpers", _U64),
        ("budget", _U64),
        ("self", _U64),
        ("ctx", _U64),
        ("link", _U64),
        ("owner", _U32),
        ("cpu", _U32),
        ("busy", _U32),
        ("tail_calls", _U32),
        ("stopped", _U32),
        ("flags", _U32),
        ("space", _U64),
        ("random", _U64 * 2),
        ("changed", _U64),
        ("overridden", _U32),
        ("mapped", _U32),
        ("registers", _U64 * 6),
        ("frame", _U64),
        ("scratch", _U64),
        ("reserved", _U64 * 3),
        ("program", _U64),
        ("stack", _U64),
        ("signals", _U64 * 2),
        ("checked", _U64),
        ("reserved2", _U64),
        ("next", _U64),
    )


_PROTOTYPES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "wb_execute": (_U64, (_POINTER, _POINTER, _POINTER)),
    "wb_execute_begin": (ctypes.c_bool, (_POINTER, _POINTER, _POINTER)),
    "wb_execute_end": (None, (_POINTER,)),
    "wb_execute_many": (_U64, (_POINTER, _POINTER, _U64, _U64, _POINTER, _POINTER)),
    "wb_execute_repeat": (_U64, (_POINTER, _POINTER, _POINTER, _U64, _POINTER)),
    "wb_process_start": (ctypes.c_int64, (_U32,)),
    "wb_process_stop": (ctypes.c_int64, ()),
    "wb_process_armed": (_U32, ()),
    "wb_clock": (_U64, (ctypes.c_int32,)),
    "wb_safe_copy": (ctypes.c_int64, (_POINTER, _POINTER, _POINTER, _U64)),
    "wb_safe_string": (ctypes.c_int64, (_POINTER, _POINTER, _POINTER, _U64)),
    "wb_safe_write": (ctypes.c_int64, (_POINTER, _POINTER, _POINTER, _U64)),
}


@cache
def core() -> ctypes.CDLL:
    """The native core with the prototypes of execution set."""
    library = load()
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def _helper(name: str) -> object:
    function = getattr(core(), f"wb_helper_{name}", None)
    if function is None:
        raise MissingCapability(
            f"helper bpf_{name} is missing in user space", 'load the program with backend="kernel"'
        )
    function.restype, function.argtypes = _U64, (_POINTER, *(_U64,) * 5)
    return function


def call(name: str, run: int, *arguments: int) -> int:
    """r0 of helper `name` (without ``bpf_``) on the `struct wb_run` at `run`, as a signed 64-bit number.

    Missing arguments are 0.
    """
    function = _helper(name)
    masked = [argument & (1 << 64) - 1 for argument in arguments]
    masked += [0] * (5 - len(masked))
    result: int = function(run, *masked)  # type: ignore[operator]
    return result - (1 << 64) if result >> 63 else result


class StandaloneRun:
    """A `struct wb_run` of the calling thread outside any namespace, with scratch memory of its own."""

    def __init__(self) -> None:
        self._scratch = ctypes.create_string_buffer(SCRATCH + 64)
        self.struct = CRun()
        self.struct.scratch = -(-ctypes.addressof(self._scratch) // 64) * 64
        self.struct.helpers = ctypes.addressof(ctypes.c_char.in_dll(core(), "wb_helpers"))
        self.struct.budget = 1 << 32
        self.address = ctypes.addressof(self.struct)

    def call(self, name: str, *arguments: int) -> int:
        """`call` on this run."""
        return call(name, self.address, *arguments)


def execute(program: int, ctx: int, run: int) -> int:
    """Run a `struct wb_program` once on the calling thread's run; its r0, 0 when it was missed."""
    return int(core().wb_execute(program, ctx, run))


def execute_many(program: int, contexts: bytes, stride: int, run: int) -> Sequence[int]:
    """Run a program over contexts of `stride` bytes each; r0 of every run."""
    count = len(contexts) // stride if stride else 0
    results = (_U64 * max(count, 1))()
    buffer = ctypes.create_string_buffer(contexts, max(len(contexts), 1))
    core().wb_execute_many(program, buffer, stride, count, results, run)
    return list(results)[:count]


def execute_repeat(program: int, ctx: int, run: int, repeat: int) -> tuple[int, int]:
    """Run a program `repeat` times like BPF_PROG_TEST_RUN; (r0 of the last run, ns of all runs together)."""
    result = _U64()
    nanoseconds = core().wb_execute_repeat(program, ctx, run, repeat, ctypes.byref(result))
    return int(result.value), int(nanoseconds)
