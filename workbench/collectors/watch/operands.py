"""Memory operands of one decoded instruction, as arithmetic on the registers that a trap reported.

The arithmetic runs on whole columns: `Operand.span` gives, for many hits of one instruction at once, the bytes that
the operand touched, so that the instruction that is taken for the accessing one can be proven to be it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("ACCESSES", "Candidate", "Operand", "Step")

ACCESSES = ("unknown", "read", "write", "read-write")
UNKNOWN, READ, WRITE, READ_WRITE = range(4)


@dataclass(frozen=True, slots=True)
class Step:
    """A string instruction's pointer: it moved by `size` before the trap, up or down by bit `bit` of `flags`.

    `reach` is how many bytes a repeated one may have gone on since the watched byte was touched.
    """

    size: int
    flags: int
    bit: int
    reach: int = 0


@dataclass(frozen=True, slots=True)
class Operand:
    """One memory operand.

    Attributes
    ----------
    access : int
        Index into `ACCESSES`.
    size : int
        Bytes touched.
    base, index : int
        Columns of the register array, -1 for none. Registers are those after the instruction.
    scale, displacement, mask : int
        Address = (base + index * scale + displacement) & mask.
    known : bool
        False where the address cannot be computed afterwards: the instruction overwrote a register of it, it is
        relative to a segment base, or a vector of addresses.
    """

    access: int
    size: int
    base: int = -1
    index: int = -1
    scale: int = 1
    displacement: int = 0
    mask: int = 2**64 - 1
    known: bool = True
    step: Step | None = None

    def span(self, registers: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """First byte touched and the byte after the last, uint64, shape (n,).

        Parameters
        ----------
        registers : uint64, shape (n, columns)
        """
        low = np.full(len(registers), self.displacement % 2**64, np.uint64)
        if self.base >= 0:
            low += registers[:, self.base]
        if self.index >= 0:
            low += registers[:, self.index] * np.uint64(self.scale)
        low &= np.uint64(self.mask)
        high = low + np.uint64(self.size)
        if self.step is not None:
            down = (registers[:, self.step.flags] >> np.uint64(self.step.bit)) & np.uint64(1) == 1
            size, reach = np.uint64(self.step.size), np.uint64(self.step.reach)
            low = np.where(down, low + size, low - size - reach)
            high = np.where(down, high + size + reach, high - size)
        return low, high

    def touches(
        self, registers: NDArray[np.uint64], address: NDArray[np.uint64], size: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Which hits' watched bytes this operand overlaps; False everywhere where the address is not known."""
        if not self.known:
            return np.zeros(len(registers), bool)
        low, high = self.span(registers)
        return (address < high) & (low < address + size)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instruction that may have made the access.

    `back` is how many bytes before the reported instruction pointer it starts (0 for a repeated string instruction,
    at which the processor stops in the middle). `synced`: decoding from the start of the function leads to it.
    """

    back: int
    text: str
    operands: tuple[Operand, ...]
    synced: bool = False
