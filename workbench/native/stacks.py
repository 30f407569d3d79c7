"""Stack ids: every distinct (process, addresses) once. Typed wrapper of `stacks.c`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench.errors import BadSpec
from workbench.native.library import load

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

__all__ = ("NO_STACK", "OVERFLOWED", "NewStacks", "StackInterner")

NO_STACK = -1
OVERFLOWED = -2


class NewStacks(NamedTuple):
    """Stacks first seen since the last call; their ids count up from `first`.

    Attributes
    ----------
    first : int
        Id of the first of them.
    pids : int32, shape (n,)
    lengths : int32, shape (n,)
    addresses : uint64, shape (sum of lengths,)
    """

    first: int
    pids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    addresses: NDArray[np.uint64]


@cache
def _core() -> Any:
    core = load()
    handle, i64, u64, array = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
    for name, result, arguments in (
        ("wb_stacks_new", handle, (i64, u64)),
        ("wb_stacks_free", None, (handle,)),
        ("wb_stacks_intern", i64, (handle, i64, array, array, array, u64, array)),
        ("wb_stacks_count", i64, (handle,)),
        ("wb_stacks_overflowed", u64, (handle,)),
        ("wb_stacks_address_count", u64, (handle, i64)),
        ("wb_stacks_copy", i64, (handle, i64, array, array, array)),
    ):
        function = getattr(core, name)
        function.restype = result
        function.argtypes = arguments
    return core


class StackInterner:
    """A bounded set of call stacks.

    Parameters
    ----------
    max_stacks : int
        Distinct stacks kept, at most 2**31 - 2.
    max_bytes : int
        Bytes of addresses kept. Stacks over either limit get id `OVERFLOWED` and are counted in `overflowed`.
    """

    def __init__(self, max_stacks: int = 1 << 20, max_bytes: int = 256 << 20) -> None:
        self._handle: int | None = None
        self._core = _core()
        self._told = 0
        self._handle = self._core.wb_stacks_new(max_stacks, max_bytes // 8)
        if not self._handle:
            raise BadSpec(
                f"no room for a table of {max_stacks} stacks and {max_bytes} bytes",
                "at least 1 stack and 8 bytes, at most 2**31 - 2 stacks",
            )

    def __len__(self) -> int:
        return int(self._core.wb_stacks_count(self._open()))

    @property
    def overflowed(self) -> int:
        """Stacks that did not fit so far, each time they were seen."""
        return int(self._core.wb_stacks_overflowed(self._open()))

    def intern(
        self, pids: ArrayLike, addresses: ArrayLike, lengths: ArrayLike
    ) -> NDArray[np.int32]:
        """Ids of a batch of stacks.

        Parameters
        ----------
        pids, lengths : int32, shape (n,)
            Process and number of frames of each stack.
        addresses : uint64, shape (sum of lengths,)
            All stacks end to end.

        Returns
        -------
        int32, shape (n,)
            The id; -1 for an empty stack, -2 for one that did not fit.

        Raises
        ------
        BadSpec
            A negative length, or lengths that do not add up to the number of addresses.
        """
        pid_column = np.ascontiguousarray(pids, np.int32)
        length_column = np.ascontiguousarray(lengths, np.int32)
        address_column = np.ascontiguousarray(addresses, np.uint64)
        if not (pid_column.ndim == length_column.ndim == address_column.ndim == 1) or (
            pid_column.size != length_column.size
        ):
            raise BadSpec(
                f"{pid_column.shape} process ids for {length_column.shape} stack lengths",
                "give one pid and one length per stack, and all addresses end to end",
            )
        ids = np.empty(pid_column.size, np.int32)
        count = self._core.wb_stacks_intern(
            self._open(),
            ids.size,
            pid_column.ctypes.data,
            length_column.ctypes.data,
            address_column.ctypes.data,
            address_column.size,
            ids.ctypes.data,
        )
        if count < 0:
            raise BadSpec(
                f"stack lengths do not add up to the {address_column.size} addresses given",
                "each length is the number of addresses of its stack, 0 or more",
            )
        return ids

    def new(self) -> NewStacks:
        """The stacks first seen since the last call (all of them on the first)."""
        handle = self._open()
        first = self._told
        count = len(self) - first
        pids, lengths = np.empty(count, np.int32), np.empty(count, np.int32)
        addresses = np.empty(self._core.wb_stacks_address_count(handle, first), np.uint64)
        self._core.wb_stacks_copy(
            handle, first, pids.ctypes.data, lengths.ctypes.data, addresses.ctypes.data
        )
        self._told += count
        return NewStacks(first, pids, lengths, addresses)

    def close(self) -> None:
        """Free the table; ids given out stay valid numbers. Closing twice is allowed."""
        if self._handle:
            self._core.wb_stacks_free(self._handle)
            self._handle = None

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("this StackInterner is closed")
        return self._handle

    def __del__(self) -> None:
        self.close()
