"""Where the code of a file makes system calls, and which bytes a jump replaces there.

A `syscall` instruction has two bytes and a jump five, so neighbours are displaced with it. Functions are decoded from
their starts (symbols, .eh_frame), each on its own, and decoding goes on behind what is no instruction: data between
functions hides nothing. A file is read once; what is found holds for every process that maps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.elffile import BadElf, ElfFile
from workbench.frames.symbols.functions import function_ranges
from workbench.runtime.attach.relocate import JUMP, padding

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ("CallSite", "Refusal", "find_sites")

_SYSCALL = b"\x0f\x05"
_RETURN = bytes.fromhex("48c7c00f000000")
_INSTRUCTIONS = 4  # SHF_EXECINSTR
_BEYOND = 16
_LOOK_AHEAD = 8


@dataclass(frozen=True, slots=True)
class CallSite:
    """A `syscall` instruction that can be hooked; addresses as in the file.

    Attributes
    ----------
    start : int
        The first replaced byte; `JUMP` bytes from there are replaced, `end - start` are displaced.
    call : int
        The instruction.
    end : int
        Where the program goes on.
    keeps_flags : bool
        Code behind it may look at flags from before it.
    function : str
        The function that it lies in.
    """

    start: int
    call: int
    end: int
    keeps_flags: bool
    function: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A `syscall` instruction that no jump can be written over, and why."""

    call: int
    function: str
    reason: str


def find_sites(place: str | Path) -> tuple[tuple[CallSite, ...], tuple[Refusal, ...]]:
    """System call instructions of an ELF file that can be hooked, and those that cannot.

    Raises
    ------
    BadElf
    OSError
    """
    status = Path(place).stat()
    key = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    return _find(key, str(place))


@lru_cache(maxsize=64)
def _find(
    _identity: tuple[int, int, int, int], place: str
) -> tuple[tuple[CallSite, ...], tuple[Refusal, ...]]:
    with ElfFile(place) as elf:
        images = [
            (int(one["vaddr"]), elf.read(int(one["offset"]), int(one["filesz"]), "segment"))
            for one in elf.loads
            if one["flags"] & 1
        ]
        parts = [
            (one.address, one.address + one.size)
            for one in elf.sections
            if one.flags & _INSTRUCTIONS and not one.name.startswith(".plt")
        ]
        try:
            described = function_ranges(elf)
        except BadElf:
            described = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    found: list[CallSite] = []
    refused: list[Refusal] = []
    if not any(_SYSCALL in code for _, code in images):
        return (), ()
    symbols = ElfSymbols.open(place)
    for base, code in images:
        candidates = _occurrences(code) + base
        if not len(candidates):
            continue
        far = cache(
            partial(_far_targets, base, code)
        )  # most files have no call, but its bytes by chance
        functions: dict[tuple[int, int, str], list[int]] = {}
        for at, function in zip(candidates.tolist(), _functions(symbols, candidates), strict=True):
            if parts and not any(start <= at < end for start, end in parts):
                continue  # data, or jumps through a table, whose distances are any bytes
            if function is None or function[0] < base:
                refused.append(Refusal(at, "", "no function is known to hold it"))
            else:
                functions.setdefault(function, []).append(at)
        for (start, end, name), wanted in sorted(functions.items()):
            body = code[start - base : end - base + _BEYOND]
            one = _Function(start, end, name, body, far)
            for at in wanted:
                if _by_its_bytes(code, at - base) and not _within(described, at):
                    refused.append(Refusal(at, name, "unwinders know signal frames by its bytes"))
                    continue
                result = one.plan(at)
                if isinstance(result, CallSite):
                    found.append(result)
                elif result is not None:
                    refused.append(result)
    return tuple(found), tuple(refused)


def _by_its_bytes(code: bytes, at: int) -> bool:
    """mov $15 (rt_sigreturn), %rax before it: where no unwind table describes it, unwinders compare these bytes."""
    return code[at - len(_RETURN) : at] == _RETURN


def _within(ranges: tuple[NDArray[np.uint64], NDArray[np.uint64]], address: int) -> bool:
    starts, ends = ranges
    i = int(np.searchsorted(starts, np.uint64(address), "right")) - 1
    return i >= 0 and address < int(ends[i])


def _occurrences(code: bytes) -> NDArray[np.uint64]:
    data = np.frombuffer(code, np.uint8)
    return np.flatnonzero((data[:-1] == _SYSCALL[0]) & (data[1:] == _SYSCALL[1])).astype(np.uint64)


def _functions(
    symbols: ElfSymbols, addresses: NDArray[np.uint64]
) -> list[tuple[int, int, str] | None]:
    """(start, end, name) of what holds each address, by symbol, else by unwind table."""
    rows = symbols.find_address(addresses, "function")
    ranges = symbols.find_code(addresses)
    columns = symbols.columns
    found: list[tuple[int, int, str] | None] = []
    for row, code in zip(rows.tolist(), ranges.tolist(), strict=True):
        if row >= 0:
            one = symbols[row]
            found.append((one.address, one.address + one.size, one.name))
        elif code >= 0:
            start, end = int(columns["code_start"][code]), int(columns["code_end"][code])
            found.append((start, end, f"{start:#x}"))
        else:
            found.append(None)
    return found


def _far_targets(base: int, code: bytes) -> NDArray[np.int64]:
    """Sorted targets of everything that looks like a jump or call with a 32-bit distance: more than there are."""
    data = np.frombuffer(code, np.uint8)
    ends = []
    if len(data) > 6:
        short = np.flatnonzero((data[:-5] & 0xFE) == 0xE8) + 1
        long = np.flatnonzero((data[:-6] == 0x0F) & ((data[1:-5] & 0xF0) == 0x80)) + 2
        ends = [short, long]
    at = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    distance = np.zeros(len(at), np.uint32)
    for i in range(4):
        distance |= data[at + i].astype(np.uint32) << (8 * i)
    return np.sort(at + 4 + base + distance.view(np.int32))


class _Function:
    """One function, decoded."""

    def __init__(
        self, start: int, end: int, name: str, body: bytes, far: Callable[[], NDArray[np.int64]]
    ) -> None:
        from iced_x86 import Code, Decoder, FlowControl

        self.start, self.end, self.name = start, end, name
        self._body = body
        self._far = far
        self._instructions: list[Any] = []
        self._targets: set[int] = set()
        self._taken: list[tuple[int, int]] = []
        branches = (
            FlowControl.UNCONDITIONAL_BRANCH,
            FlowControl.CONDITIONAL_BRANCH,
            FlowControl.XBEGIN_XABORT_XEND,
        )
        decoder = Decoder(64, body[: end - start], ip=start)
        while decoder.can_decode:
            one = decoder.decode()
            if one.code == Code.INVALID:  # data in the code: go on at the next byte
                decoder.position = one.ip - start + 1
                decoder.ip = one.ip + 1
                continue
            self._instructions.append(one)
            if one.flow_control in branches and one.op_count:
                self._targets.add(one.near_branch_target)
        self._index = {one.ip: i for i, one in enumerate(self._instructions)}

    def _entered(self, after: int, until: int) -> bool:
        """A branch leads to a byte in (after, until]."""
        far = self._far()
        low = np.searchsorted(far, after + 1)
        if low < len(far) and far[low] <= until:
            return True
        return any(after < target <= until for target in self._targets)

    def plan(self, call: int) -> CallSite | Refusal | None:
        """What to displace; None = these two bytes are no system call."""
        from iced_x86 import Mnemonic

        index = self._index.get(call)
        if index is None or self._instructions[index].mnemonic != Mnemonic.SYSCALL:
            return None
        reason = ""
        for first in self._firsts(index):
            last, why = self._last(first, index)
            reason = reason or why
            if last is not None:
                start, end = self._instructions[first].ip, self._instructions[last].next_ip
                self._taken.append((start, max(end, start + JUMP)))
                return CallSite(start, call, end, self._keeps_flags(index), self.name)
        return Refusal(call, self.name, reason or "nothing beside it can be displaced")

    def _firsts(self, index: int) -> list[int]:
        """Where a patch may begin, the best first.

        Best is a patch that ends before the instruction: a thread that sleeps in a call is behind all its bytes. A
        function's entry is left to probes of the function.
        """
        call = self._instructions[index].ip
        before = []
        first = index
        while first and call - self._instructions[first].ip < JUMP:
            previous = self._instructions[first - 1]
            if previous.next_ip != self._instructions[first].ip or not _movable(previous):
                break
            first -= 1
            before.append(first)
        apart = [i for i in before if call - self._instructions[i].ip >= JUMP]
        inner = [i for i in apart if self._instructions[i].ip != self.start]
        rest = [i for i in before if i not in apart]
        return [*inner, index, *apart, *rest]

    def _last(self, first: int, index: int) -> tuple[int | None, str]:
        """The last instruction to displace, or why there is none."""
        from iced_x86 import FlowControl

        start, call = self._instructions[first].ip, self._instructions[index].ip
        last = index
        while self._instructions[last].next_ip - start < JUMP:
            flow = self._instructions[last].flow_control
            end = self._instructions[last].next_ip
            if flow in (FlowControl.RETURN, FlowControl.UNCONDITIONAL_BRANCH):
                behind = self._body[end - self.start :]
                need = start + JUMP - end
                if len(behind) < need or not padding(behind, need):
                    return None, "what follows it ends before a jump's length"
                break
            if last + 1 >= len(self._instructions) or self._instructions[last + 1].ip != end:
                return None, "the function ends behind it"
            last += 1
            following = self._instructions[last]
            if following.flow_control not in (
                FlowControl.NEXT,
                FlowControl.CONDITIONAL_BRANCH,
                FlowControl.RETURN,
                FlowControl.UNCONDITIONAL_BRANCH,
            ):
                return None, "a call or trap follows it too closely"
        if self._entered(start, max(start + JUMP - 1, call)):
            return None, "a branch leads between it and its neighbours"
        end = max(self._instructions[last].next_ip, start + JUMP)
        if any(start < other_end and other < end for other, other_end in self._taken):
            return None, "it lies too close to another system call"
        return last, ""

    def _keeps_flags(self, index: int) -> bool:
        """Not known to overwrite the flags before it looks at them."""
        from iced_x86 import FlowControl, RflagsBits

        alive = RflagsBits.CF | RflagsBits.PF | RflagsBits.ZF | RflagsBits.SF | RflagsBits.OF
        for one in self._instructions[index + 1 : index + 1 + _LOOK_AHEAD]:
            if one.rflags_read & alive:
                return True
            alive &= ~one.rflags_modified
            if not alive or one.flow_control in (FlowControl.RETURN, FlowControl.CALL):
                return False
            if one.flow_control != FlowControl.NEXT:
                return True
        return True


def _movable(one: Any) -> bool:
    """May run elsewhere, before a system call."""
    from iced_x86 import FlowControl

    return bool(one.flow_control == FlowControl.NEXT)
