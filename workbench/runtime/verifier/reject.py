"""How a rule refuses: the reason, the register that matters, what to change."""

from __future__ import annotations

__all__ = ("OutOfBudget", "Reject")


class Reject(Exception):
    """A rule that the instruction at hand breaks.

    Parameters
    ----------
    reason : str
        What is wrong, as a sentence without a period.
    register : int
        The register whose content is the reason; -1 for none.
    hint : str
        What the author of the program can do.
    slot : int
        The instruction, where it is not the one at hand; -1 otherwise.
    """

    def __init__(self, reason: str, register: int = -1, hint: str = "", slot: int = -1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.register = register
        self.hint = hint
        self.slot = slot


class OutOfBudget(Exception):
    """The walk took more steps than it may."""
