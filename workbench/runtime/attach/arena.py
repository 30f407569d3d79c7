"""Memory of ours in the target, near the code that is probed: trampolines (read, execute) and their data (read, write).

A jump reaches 2 GiB, so each group of modules that lie near each other has its own arena. Nothing in an arena is freed
or moved while the process is entered: a thread may be inside a trampoline, or return to one, long after its probe is
gone. Trampolines come from below and may outlive the workbench (`leaving`); all else comes from above and does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.errors import MissingCapability
from workbench.runtime.attach.agent import (
    ANONYMOUS,
    EXECUTE,
    FIXED_NOREPLACE,
    MMAP,
    MPROTECT,
    PRIVATE,
    READ,
    WRITE,
)
from workbench.runtime.attach.memory import PAGE, Mapping
from workbench.runtime.attach.remote import Calls, refused

__all__ = ("Arena", "find_gap", "map_arena")

_REACH = (1 << 31) - (1 << 26)
_LOWEST = 0x10000
_HIGHEST = 0x7FFFFFFFF000
_STACK_ROOM = 1 << 28
_HEAP_ROOM = 1 << 26


@dataclass(slots=True)
class Arena:
    """One mapping: code from `code` to `data`, data from `data` to `end`; both are handed out from both ends.

    Attributes
    ----------
    code_used, data_used : int
        Bytes from below, for trampolines.
    code_taken, data_taken : int
        Bytes from above, for programs and what belongs to them.
    """

    code: int
    data: int
    end: int
    code_used: int = 0
    data_used: int = 0
    code_taken: int = 0
    data_taken: int = 0

    def reaches(self, low: int, high: int) -> bool:
        """A jump from anywhere in [low, high) reaches anywhere in the arena."""
        return high - self.code < _REACH and self.end - low < _REACH

    def room(self, code: int, data: int) -> bool:
        """Whether that many bytes are left of both."""
        return (
            self.code + self.code_used + code <= self.data - self.code_taken
            and self.data + self.data_used + data <= self.end - self.data_taken
        )

    def take_code(self, size: int) -> int:
        """Address of `size` fresh bytes of code, on a cache line's half."""
        self.code_taken += (size + 31) & -32
        return self.data - self.code_taken

    def take_data(self, size: int) -> int:
        """Address of `size` fresh bytes of data, multiples of 64."""
        self.data_taken += (size + 63) & -64
        return self.end - self.data_taken

    def keep_code(self, size: int) -> int:
        """The same for a trampoline."""
        at = self.code + self.code_used
        self.code_used += (size + 31) & -32
        return at

    def keep_data(self, size: int) -> int:
        """The same for what a trampoline uses."""
        at = self.data + self.data_used
        self.data_used += (size + 63) & -64
        return at


def find_gap(maps: list[Mapping], low: int, high: int, size: int) -> int:
    """An unused address for `size` bytes within reach of [low, high); near it, but in nobody's way.

    Room is left below a stack and above a heap, which grow.

    Raises
    ------
    MissingCapability
    """
    first, last = max(_LOWEST, high - _REACH), min(_HIGHEST, low + _REACH)
    best = 0
    below, below_path = 0, ""
    ends = [*maps, Mapping(_HIGHEST, _HIGHEST, "", 0, "", 0, "")]
    for one in ends:
        start = below + PAGE + (_HEAP_ROOM if below_path == "[heap]" else 0)
        end = one.start - PAGE - (_STACK_ROOM if one.path == "[stack]" else 0)
        start, end = max(start, first), min(end, last)
        if end - start >= size:
            for candidate in ((end - size) & -PAGE, (start + PAGE - 1) & -PAGE):
                if candidate >= start and (not best or abs(candidate - low) < abs(best - low)):
                    best = candidate
        below, below_path = one.end, one.path
    if not best:
        raise MissingCapability(
            f"no {size:,} bytes are free within a jump's reach (2 GiB) of {low:#x}",
            "probe this library in a process with fewer mappings around it",
        )
    return best


def map_arena(
    calls: Calls, maps: list[Mapping], low: int, high: int, code: int, data: int
) -> Arena:
    """Map an arena with `code` and `data` bytes (rounded up) near [low, high) by system calls of the held process."""
    code, data = (code + PAGE - 1) & -PAGE, (data + PAGE - 1) & -PAGE
    at = find_gap(maps, low, high, code + data)
    try:
        got = calls.call(
            MMAP,
            at,
            code + data,
            READ | EXECUTE,
            PRIVATE | ANONYMOUS | FIXED_NOREPLACE,
            2**64 - 1,
            0,
        )
        calls.call(MPROTECT, got + code, data, READ | WRITE)
    except OSError as error:
        raise refused("map memory for trampolines", error) from error
    return Arena(got, got + code, got + code + data)
