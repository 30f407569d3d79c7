"""Verify an object for user space, as loading it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import MissingCapability
from workbench.objects.link import link
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from workbench.objects.linked import LinkedObject, LinkedProgram
    from workbench.objects.model import BpfObject
    from workbench.runtime.verifier import Verdict

__all__ = ("Verdicts", "linked_for_user_space", "refuse_missing_helpers", "verify")

_CALL, _HELPER = 0x85, 0


def linked_for_user_space(
    obj: BpfObject,
    *,
    constants: Mapping[str, int | bool] | None = None,
    map_sizes: Mapping[str, int] | None = None,
    programs: Iterable[str] | None = None,
) -> LinkedObject:
    """The object linked against the types of user space's platform (native/runtime/platform.h)."""
    return link(
        obj,
        btf=builtin("userspace").btf,
        constants=constants,
        map_sizes=map_sizes,
        programs=programs,
    )


class Verdicts(dict[str, "Verdict"]):
    """Verdicts of an object's programs, by name."""

    @property
    def frame(self) -> pd.DataFrame:
        """States per instruction of every program: column program, then those of `Verdict.frame`."""
        import pandas as pd

        frames = []
        for name, verdict in self.items():
            frame = verdict.frame
            frame.insert(0, "program", name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def verify(
    obj: BpfObject,
    *,
    constants: Mapping[str, int | bool] | None = None,
    programs: Iterable[str] | None = None,
    **options: Any,
) -> Verdicts:
    """Verify programs of an object as `load` does, without loading them.

    Parameters
    ----------
    obj : BpfObject
    constants, programs
        As for `load`.
    **options
        For `workbench.runtime.verifier.verify`.

    Returns
    -------
    Verdicts
        Verdict by program name; `.frame` shows the states at every instruction of all of them.

    Raises
    ------
    VerifierRejected
        The first that is refused: instruction, C line, registers, shortest failing path.
    """
    from workbench.runtime.verifier import verify as verify_program

    linked = linked_for_user_space(obj, constants=constants, programs=programs)
    found = Verdicts()
    for name, program in linked.programs.items():
        found[name] = verify_program(program, linked, **options)
        refuse_missing_helpers(program, found[name])
    return found


def refuse_missing_helpers(program: LinkedProgram, verdict: Verdict) -> None:
    """Name helpers that user space lacks, where the program can reach the call."""
    from workbench.runtime.helpers.prototypes import HELPERS
    from workbench.runtime.isa import decode

    slot = 0
    for instruction in decode(program.code):
        if instruction.opcode == _CALL and instruction.src == _HELPER:
            helper = HELPERS.get(instruction.imm)
            if helper is not None and not helper.userspace and verdict.kinds[slot].any():
                raise MissingCapability(
                    f"program {program.name} calls {helper.name}, which does not exist in user space",
                    "load the object with backend='kernel'",
                )
        slot += instruction.slots
