"""Unwind tables and stack unwinding: typed wrapper of `eh_frame.c` and `unwind.c`."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench.errors import BadSpec, MissingCapability
from workbench.native.library import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

__all__ = (
    "AARCH64",
    "FRAME_POINTER",
    "LAZY",
    "MAPPING",
    "RETURN_PROBES",
    "ROW",
    "WANTED",
    "X86_64",
    "Built",
    "CfaKind",
    "RuleKind",
    "Status",
    "build_rows",
    "unwind_batch",
)

X86_64, AARCH64 = 62, 183
"""Machines with unwind rules, by ELF ``e_machine``."""

ROW = np.dtype(
    [
        ("start", "<u8"),
        ("cfa_offset", "<i4"),
        ("fp_offset", "<i4"),
        ("ra_offset", "<i4"),
        ("cfa_kind", "u1"),
        ("fp_rule", "u1"),
        ("ra_rule", "u1"),
        ("flags", "u1"),
    ]
)
"""One row of an unwind table: the rules from `start` (virtual address in the file) to the next row's start."""

MAPPING = np.dtype(
    [
        ("start", "<u8"),
        ("end", "<u8"),
        ("bias", "<u8"),
        ("rows", "<u8"),
        ("count", "<u8"),
        ("flags", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""One executable mapping; `rows` is the address of `count` rows (0: none), `bias` run-time minus file address."""

LAZY, WANTED, RETURN_PROBES = 1, 2, 4
"""Mapping flags: the table can be loaded; an unwind met this mapping and needs it; probed functions return to it."""

FRAME_POINTER = 0x10
"""Added to a `Status`: some step followed the frame pointer because no table covers the address."""

SIGNAL = 1
"""Row flag: the caller was interrupted by a signal."""


class CfaKind(IntEnum):
    """How a row finds the canonical frame address."""

    NONE = 0
    UNSUPPORTED = 1
    SP = 2
    FP = 3
    SP_DEREF = 4
    FP_DEREF = 5
    PLT = 6


class RuleKind(IntEnum):
    """How a row recovers a register."""

    SAME = 0
    UNDEFINED = 1
    UNSUPPORTED = 2
    AT_CFA = 3
    AT_SP = 4
    AT_FP = 5
    CFA = 6


class Status(IntEnum):
    """Why the unwinding of a sample ended (mask off `FRAME_POINTER` first)."""

    COMPLETE = 0
    TRUNCATED = 1
    UNSUPPORTED = 2
    NO_TABLE = 3
    BAD_MEMORY = 4
    DEPTH = 5
    NO_MAPPING = 6
    WANTS_TABLE = 7


class Built(NamedTuple):
    """Rows of one `.eh_frame` with what was met on the way.

    Attributes
    ----------
    rows : ndarray of `ROW`, sorted by start
    functions : int
        Frame description entries read.
    malformed : int
        Damaged records, skipped.
    unsupported : int
        Rows whose rule the unwinder cannot follow.
    """

    rows: NDArray[np.void]
    functions: int
    malformed: int
    unsupported: int


@cache
def _core() -> Any:
    core = load()
    array, i32, i64, u32, u64 = (
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_int64,
        ctypes.c_uint32,
        ctypes.c_uint64,
    )
    for name, result, arguments in (
        ("wb_eh_frame_build", i64, (array, u64, u64, u32, u64, array, array)),
        ("wb_eh_frame_free", None, (array,)),
        (
            "wb_unwind_batch",
            i64,
            (array, i64, i64, *[array] * 2, i64, array, u64, *[array] * 3, i64, u32, i32, *[array] * 3),
        ),
    ):
        function = getattr(core, name)
        function.restype = result
        function.argtypes = arguments
    return core


def build_rows(data: bytes, address: int, machine: int, limit: int = 0) -> Built:
    """Flatten `.eh_frame` into unwind rows.

    Parameters
    ----------
    data : bytes
        The section's bytes; may run on past its end when `limit` is given.
    address : int
        Virtual address of the first byte, as in the file.
    machine : int
        `X86_64` or `AARCH64`.
    limit : int
        Stop after this many functions; 0 for all.

    Raises
    ------
    MissingCapability
        Another machine.
    """
    rows = ctypes.c_void_p()
    stats = (ctypes.c_uint64 * 3)()
    count = _core().wb_eh_frame_build(
        data, len(data), address, machine, limit, ctypes.byref(rows), stats
    )
    if count == -2:
        raise MissingCapability(
            f"no unwind rules for ELF machine {machine}", "x86-64 and aarch64 programs can be unwound"
        )
    if count < 0:
        raise MemoryError("no memory for an unwind table")
    try:
        table = np.empty(count, ROW)
        if count:
            ctypes.memmove(table.ctypes.data, rows, table.nbytes)
    finally:
        _core().wb_eh_frame_free(rows)
    return Built(table, *map(int, stats))


def unwind_batch(
    spaces: Sequence[NDArray[np.void]],
    space_of: NDArray[np.int32],
    registers: NDArray[np.uint64],
    stacks: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int32],
    machine: int,
    max_depth: int,
    returns: NDArray[np.uint64] | None = None,
) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.uint8]]:
    """Call chains of a batch of samples.

    Parameters
    ----------
    spaces : sequence of ndarray of `MAPPING`
        Executable mappings of each process, sorted by start; the arrays whose addresses they hold must stay alive.
        `WANTED` is set in the flags of a `LAZY` mapping whose table was needed.
    space_of : int32, shape (n,)
        Index in `spaces` of each sample.
    registers : uint64, shape (n, 3) or (n, 4)
        Instruction pointer, stack pointer, frame pointer and, on aarch64, link register.
    stacks : uint8, shape (bytes,)
        Copied stack bytes of all samples.
    offsets : int64, shape (n,)
        Where in `stacks` the bytes of a sample begin; the first byte was at its stack pointer.
    lengths : int32, shape (n,)
        Bytes copied.
    machine : int
        `X86_64` or `AARCH64`.
    max_depth : int
        Most addresses per sample.
    returns : uint64, shape (n, k), optional
        Original return addresses of functions with a return probe, innermost first, ended by 0: the kernel has
        replaced them in the stack by an address in the mapping flagged `RETURN_PROBES`.

    Returns
    -------
    addresses : uint64
        All chains end to end, innermost first: the sampled ip, then return addresses minus one.
    lengths : int32, shape (n,)
        Addresses of each sample.
    status : uint8, shape (n,)
        A `Status`, plus `FRAME_POINTER`.

    Raises
    ------
    BadSpec
        Arrays of wrong shape, or stack bytes outside `stacks`.
    """
    n = len(registers)
    space_of = np.ascontiguousarray(space_of, np.int32)
    registers = np.ascontiguousarray(registers, np.uint64)
    stacks = np.ascontiguousarray(stacks, np.uint8)
    offsets = np.ascontiguousarray(offsets, np.int64)
    lengths = np.ascontiguousarray(lengths, np.int32)
    if registers.ndim != 2 or {space_of.shape, offsets.shape, lengths.shape} != {(n,)}:
        raise BadSpec(
            f"an unwind batch of {n} samples with {space_of.shape} spaces, {registers.shape} registers, "
            f"{offsets.shape} offsets and {lengths.shape} lengths",
            "one space, offset and length per row of registers",
        )
    if returns is not None:
        returns = np.ascontiguousarray(returns, np.uint64)
        if returns.ndim != 2 or len(returns) != n:
            raise BadSpec(f"original return addresses of shape {returns.shape}", f"pass {n} rows of them")
    if any(space.dtype != MAPPING or not space.flags.c_contiguous for space in spaces):
        raise BadSpec("mappings of another layout", "make them with dtype workbench.native.unwind.MAPPING")
    table = np.array([(space.ctypes.data, len(space)) for space in spaces], "<u8").reshape(-1, 2)
    addresses = np.empty(n * max_depth, np.uint64)
    found = np.zeros(n, np.int32)
    status = np.zeros(n, np.uint8)
    used = _core().wb_unwind_batch(
        table.ctypes.data,
        len(spaces),
        n,
        space_of.ctypes.data,
        registers.ctypes.data,
        registers.shape[1],
        stacks.ctypes.data,
        stacks.size,
        offsets.ctypes.data,
        lengths.ctypes.data,
        None if returns is None else returns.ctypes.data,
        0 if returns is None else returns.shape[1],
        machine,
        max_depth,
        addresses.ctypes.data,
        found.ctypes.data,
        status.ctypes.data,
    )
    if used == -1:
        raise MemoryError("no memory to unwind")
    if used < 0:
        raise BadSpec(
            "an unwind batch with a space or stack bytes that do not exist",
            "check offsets + lengths <= stacks.size, space_of < len(spaces), and at least 3 register columns",
        )
    return addresses[:used], found, status
