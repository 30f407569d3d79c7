"""Turn the stack tail of records (bpf/stack.h) into interned stack ids, a batch at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from workbench.collectors.base import Sink
    from workbench.frames.unwind import Unwinder
    from workbench.kernel.ring import Records

__all__ = ("COPY_BYTES", "StackReader", "ranges", "tracepoint_iterators")

COPY_BYTES = 16384


def ranges(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..n-1 for every n in `lengths`, end to end."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths, lengths)


def tracepoint_iterators(*tracepoints: str) -> list[tuple[int, int]]:
    """Kernel code (begin, end) of the functions that call the programs of a tracepoint when it has several.

    With one program, of any tool, a tracepoint calls it without such a frame. Empty where the kernel hides addresses.
    """
    try:
        symbols = Path("/proc/kallsyms").read_bytes()
    except OSError:
        return []
    found = []
    for name in tracepoints:
        line = re.search(
            rb"^([0-9a-f]+) [tT] __traceiter_%b\n([0-9a-f]+) " % name.encode(), symbols, re.MULTILINE
        )
        if line and int(line[1], 16) < int(line[2], 16):
            found.append((int(line[1], 16), int(line[2], 16)))
    return found


class StackReader:
    """Stack ids of batches of records.

    Parameters
    ----------
    sink : Sink
        Where the stacks are interned.
    unwinder : Unwinder or None
        Unwinds copied stacks; without it the frame-pointer chain counts.
    left_out : sequence of (int, int)
        Kernel code, begin and end: a stack's innermost frame in it is left out.
    """

    def __init__(
        self,
        sink: Sink,
        unwinder: Unwinder | None,
        *,
        left_out: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._sink, self._unwinder = sink, unwinder
        self._left_out = left_out
        self.unwound = 0
        self.incomplete = 0

    def ids(
        self,
        records: Records,
        pids: NDArray[np.int32],
        head: NDArray[Any],
        head_bytes: int,
        *,
        leaf: NDArray[np.uint64] | None = None,
        times: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int32]:
        """Stack id of every record, shape (n,), int32; -1 where a record has no frame.

        Parameters
        ----------
        records : Records
        pids : int32, shape (n,)
        head : structured array, shape (n,)
            `struct stack_head` of every record.
        head_bytes : int
            Size of the fixed head, where the frames begin.
        leaf : uint64, shape (n,), optional
            The innermost frame of every stack, where it is known better than by the stopped instruction pointer.
        times : int64, shape (n,), optional
            As for `Sink.intern`.
        """
        kernel = head["kernel_frames"].astype(np.int64)
        user = head["user_frames"].astype(np.int64)
        at = records.starts.astype(np.int64) + head_bytes
        end = records.starts.astype(np.int64) + records.lengths
        kernel = np.clip(kernel, 0, (end - at) // 8)
        user = np.clip(user, 0, (end - at) // 8 - kernel)
        kernel_part = self._frames(records, at, kernel)
        if self._left_out and len(kernel_part):
            first = kernel_part[np.minimum(np.cumsum(kernel) - kernel, len(kernel_part) - 1)]
            inside = np.zeros(len(kernel), bool)
            for begin, over in self._left_out:
                inside |= (kernel > 0) & (first >= begin) & (first < over)
            at, kernel = at + 8 * inside, kernel - inside
            kernel_part = self._frames(records, at, kernel)
        user_part = self._frames(records, at + 8 * kernel, user)
        if self._unwinder is not None and len(pids):
            chosen_part, chosen = self._unwind(
                records, pids, head, at + 8 * (kernel + user), end, user_part, user
            )
            user_part, user = chosen_part, chosen
        lengths = kernel + user
        starts = np.cumsum(lengths) - lengths
        flat = np.empty(int(lengths.sum()), np.uint64)
        flat[np.repeat(starts, kernel) + ranges(kernel)] = kernel_part
        flat[np.repeat(starts + kernel, user) + ranges(user)] = user_part
        if leaf is not None:
            flat[starts[lengths > 0]] = leaf[lengths > 0]
        return self._sink.intern(pids, flat, lengths.astype(np.int32), times)

    @staticmethod
    def _frames(
        records: Records, at: NDArray[np.int64], count: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """Addresses of a run of frames: the innermost exact, callers minus one, so that they lie in the call."""
        part = records.join(at.astype(np.uint64), (8 * count).astype(np.uint64)).view(np.uint64)
        return part - (ranges(count) > 0).astype(np.uint64)

    def _unwind(
        self,
        records: Records,
        pids: NDArray[np.int32],
        head: NDArray[Any],
        at: NDArray[np.int64],
        end: NDArray[np.int64],
        by_pointer: NDArray[np.uint64],
        count: NDArray[np.int64],
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        from workbench.frames.unwind import FRAME_POINTER, Status

        assert self._unwinder is not None
        copied = np.clip(head["copied"].astype(np.int64), 0, end - at)
        registers = np.stack([head[name] for name in ("ip", "sp", "fp", "lr")], axis=1)
        returns = head["returns"] if head["returns"][:, 0].any() else None
        chains = self._unwinder.unwind(pids, registers, records.buffer, at, copied.astype(np.int32), returns)
        found = chains.lengths.astype(np.int64)
        complete = (chains.status & ~np.uint8(FRAME_POINTER)) == Status.COMPLETE
        better = (found > 0) & (complete | (found >= count))
        self.unwound += int((found > 0).sum())
        self.incomplete += int(((found > 0) & ~complete).sum())
        result = np.where(better, found, count)
        starts = np.cumsum(result) - result
        flat = np.empty(int(result.sum()), np.uint64)
        use, keep = np.where(better, found, 0), np.where(better, 0, count)
        flat[np.repeat(starts, use) + ranges(use)] = chains.addresses[np.repeat(better, found)]
        flat[np.repeat(starts, keep) + ranges(keep)] = by_pointer[np.repeat(~better, count)]
        return flat, result
