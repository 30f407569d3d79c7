"""The two calls that everyone uses: `verify` a program, `verify_object` all of an object's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.objects.linked import LinkedObject, LinkedProgram
from workbench.runtime.verifier.verdict import Verdict

if TYPE_CHECKING:
    from workbench.runtime.program_types import ContextRules

__all__ = ("verify", "verify_object")


def verify(
    program: LinkedProgram,
    obj: LinkedObject,
    *,
    context: ContextRules | None = None,
    budget: int = 1_000_000,
    allow_unbounded: bool = True,
    allow_pointer_leaks: bool = False,
) -> Verdict:
    """Accept the program or raise VerifierRejected.

    Parameters
    ----------
    program : LinkedProgram
        From `workbench.objects.link.link`.
    obj : LinkedObject
        The object it belongs to (its maps).
    context : ContextRules or None
        Rules of the context; by default those of `program.type`.
    budget : int
        Instructions walked before loops are joined.
    allow_unbounded : bool
        Accept loops that only the run-time budget ends (listed in `Verdict.unbounded`).
    allow_pointer_leaks : bool
        Let addresses be stored in maps and rings, compared and returned.

    Raises
    ------
    VerifierRejected
        Names the instruction, the C line, the register state and the shortest failing path.
    """
    raise NotImplementedError


def verify_object(obj: LinkedObject, *, budget: int = 1_000_000) -> dict[str, Verdict]:
    """Verify every program of an object; raises at the first that is refused."""
    return {name: verify(program, obj, budget=budget) for name, program in obj.programs.items()}
