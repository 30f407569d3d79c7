"""From what a hit reported to the instruction that made the access and whether it read or wrote.

On x86-64 the reported instruction pointer is that of the next instruction, so the accessing one is looked for
backwards: decoding from the start of the function gives the instruction that ends there, and the registers prove it:
its memory operand has to be the watched address. Where a jump, call or return led to the reported place the
instruction before it is not the one, its operand does not match, and the row keeps the reported instruction pointer
with `exact` false and access "unknown".
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.collectors.watch import arm64, x86
from workbench.collectors.watch.operands import READ, READ_WRITE, UNKNOWN, WRITE, Candidate
from workbench.errors import MissingCapability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.watch.code import Code

__all__ = ("Decoded", "Decoder", "architecture")


class _Reader(Protocol):
    def find(self, pid: int, ip: int, own: bytes = b"", own_ip: int = 0) -> Code | None: ...


def architecture() -> Any:
    """The module with what differs between processors.

    Raises
    ------
    MissingCapability
        Watchpoint hits cannot be decoded on this processor.
    """
    machine = platform.machine()
    if machine == "x86_64":
        return x86
    if machine == "aarch64":
        return arm64
    raise MissingCapability(
        f"watchpoint hits cannot be decoded on {machine}", "watch works on x86-64 and aarch64"
    )


class Decoded:
    """Columns of a batch: `ip` uint64, `access` uint8 (index into ACCESSES), `exact` bool; each of shape (n,)."""

    def __init__(self, ip: NDArray[np.uint64]) -> None:
        self.ip = ip.copy()
        self.access = np.full(len(ip), UNKNOWN, np.uint8)
        self.exact = np.zeros(len(ip), bool)

    def set(self, rows: NDArray[Any], back: int, access: NDArray[Any] | int, exact: bool) -> None:
        """Decide some rows."""
        self.ip[rows] -= np.uint64(back)
        self.access[rows] = access
        self.exact[rows] = exact


class Decoder:
    """Decodes batches of hits; every distinct stop is looked up once.

    Parameters
    ----------
    reader : CodeReader
    write_only : bool
        The watchpoints trap writes only, so an instruction that only reads cannot be the accessing one.
    arch : module, optional
        `x86` or `arm64`; this machine's by default.
    """

    def __init__(self, reader: _Reader, *, write_only: bool, arch: Any = None) -> None:
        self._reader, self._write_only = reader, write_only
        self._arch = arch or architecture()
        self._stops: dict[tuple[int, int], tuple[Candidate, ...]] = {}
        self._places: dict[tuple[str, int], tuple[Candidate, ...]] = {}

    def decode(
        self,
        pids: NDArray[np.int32],
        ips: NDArray[np.uint64],
        addresses: NDArray[np.uint64],
        sizes: NDArray[np.uint64],
        registers: NDArray[np.uint64],
        code: NDArray[np.uint8],
    ) -> Decoded:
        """Accessing instructions of a batch of n hits.

        Parameters
        ----------
        pids : int32, shape (n,)
        ips : uint64, shape (n,)
            Instruction pointers as the processor reported them.
        addresses, sizes : uint64, shape (n,)
            Watched bytes.
        registers : uint64, shape (n, registers of the architecture)
        code : uint8, shape (n, bytes)
            Code around each ip, half of it before; all zero where it could not be read.
        """
        result = Decoded(ips)
        keys = np.stack([pids.astype(np.uint64), ips], axis=1)
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        order = np.argsort(inverse, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(inverse, minlength=len(distinct)))[:-1])
        for (pid, ip), rows in zip(distinct.tolist(), groups, strict=True):
            own = code[rows[0]].tobytes()
            found = self._candidates(int(pid), int(ip), own if any(own) else b"")
            self._choose(result, rows, found, addresses[rows], sizes[rows], registers[rows])
        return result

    def _candidates(self, pid: int, ip: int, own: bytes) -> tuple[Candidate, ...]:
        if (pid, ip) in self._stops:
            return self._stops[pid, ip]
        code = self._reader.find(pid, ip, own, len(own) // 2)
        if code is None:
            return ()
        if code.key not in self._places or not code.lasting:
            self._places[code.key] = self._arch.candidates(code.data, code.ip, code.start)
        found = self._places[code.key]
        if code.lasting:
            self._stops[pid, ip] = found
        return found

    def _choose(
        self,
        result: Decoded,
        rows: NDArray[Any],
        found: tuple[Candidate, ...],
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        registers: NDArray[np.uint64],
    ) -> None:
        open_rows = np.ones(len(rows), bool)
        for candidate in found:
            access = self._proven(candidate, address, size, registers)
            take = open_rows & (access != UNKNOWN)
            if take.any():
                result.set(rows[take], candidate.back, access[take], True)
                open_rows &= ~take
            if not open_rows.any():
                return
        # An address that cannot be computed afterwards proves nothing; the function's own decoding still tells.
        for candidate in found:
            access_left = self._possible(candidate)
            if candidate.synced and access_left != UNKNOWN:
                left = rows[open_rows]
                result.set(left, candidate.back, access_left, True)
                return
        possible = [one for one in found if self._possible(one) != UNKNOWN]
        if len(possible) == 1:
            result.set(rows[open_rows], possible[0].back, self._possible(possible[0]), False)

    def _relevant(self, access: int) -> bool:
        return not self._write_only or access != READ

    def _proven(
        self,
        candidate: Candidate,
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        registers: NDArray[np.uint64],
    ) -> NDArray[np.uint8]:
        """What the candidate did to the watched bytes of each hit; UNKNOWN where nothing shows that it touched them."""
        reads = np.zeros(len(address), bool)
        writes = np.zeros(len(address), bool)
        for one in candidate.operands:
            if self._relevant(one.access):
                touched = one.touches(registers, address, size)
                reads |= touched & (one.access != WRITE)
                writes |= touched & (one.access != READ)
        if self._write_only:
            reads &= writes
        kind = np.where(writes, WRITE, UNKNOWN) + np.where(reads, READ, UNKNOWN)
        return kind.astype(np.uint8)

    def _possible(self, candidate: Candidate) -> int:
        """What the candidate may have done through an operand whose address is not known."""
        kinds = {
            one.access for one in candidate.operands if not one.known and self._relevant(one.access)
        }
        if len(kinds) > 1:
            return READ_WRITE
        return next(iter(kinds), UNKNOWN)
