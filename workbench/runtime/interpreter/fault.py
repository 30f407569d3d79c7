"""What a program did that no accepted program does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.objects.linked import Line

__all__ = ("Misuse", "ProgramFault")


class Misuse(Exception):
    """The reason alone, raised where the slot is not known."""


class ProgramFault(WorkbenchError):
    """A program read or wrote where it may not, ran for too long or did what is not defined.

    Attributes
    ----------
    slot : int
        Instruction at which it happened.
    reason : str
        What it did.
    line : Line or None
        The C line, where the program has lines.
    registers : tuple of int or None
        r0 to r10 before the instruction; None = never set.
    """

    code = "program-fault"

    def __init__(
        self,
        program: str,
        slot: int,
        reason: str,
        line: Line | None,
        registers: Sequence[int | None],
    ) -> None:
        where = f" ({line.file}:{line.line}: {line.text.strip()})" if line else ""
        values = ", ".join(
            f"r{n}={value:#x}" for n, value in enumerate(registers) if value is not None
        )
        super().__init__(
            f"{program or 'program'}: slot {slot}{where}: {reason}",
            f"registers: {values}",
        )
        self.slot = slot
        self.reason = reason
        self.line = line
        self.registers = tuple(registers)
