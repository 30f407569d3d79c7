"""What the verifier says of a program that it accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ("Verdict",)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted program.

    Attributes
    ----------
    program : str
        Its name.
    kinds : numpy.ndarray, uint8 [slots, 11]
        Kind of each register before each instruction, joined over all states; see `workbench.runtime.verifier.kinds`.
        The second slot of LD_IMM64 is all DEAD.
    offsets : numpy.ndarray, int32 [slots, 11]
        Fixed byte offset of a pointer from its base (r10, context, value, ...), where every state has the same and
        nothing variable was added; `kinds.UNKNOWN_OFFSET` elsewhere.
    unbounded : frozenset of int
        Slots of backward jumps whose number of rounds was not bounded statically: the run-time budget must count them.
    steps : int
        Instructions walked over all paths.
    states : int
        States kept for pruning.
    widened : bool
        The path walk ran out of its budget and loops were joined.
    stack_depth : int
        Largest number of stack bytes over a chain of calls.
    context_size : int
        Bytes of the context that the program may read: an attachment must give at least these.
    warnings : tuple of str
        What a user may want to know although it is no reason to refuse.
    """

    program: str
    kinds: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    unbounded: frozenset[int] = frozenset()
    steps: int = 0
    states: int = 0
    widened: bool = False
    stack_depth: int = 0
    context_size: int = 0
    warnings: tuple[str, ...] = ()
    _frame: Callable[[], pd.DataFrame] | None = field(default=None, repr=False, compare=False)

    @property
    def frame(self) -> pd.DataFrame:
        """States per instruction: columns slot, text, line, visits, r0 ... r10, stack; one row per instruction."""
        if self._frame is None:
            raise ValueError("this verdict was made without states")
        return self._frame()
