"""From a broken rule to a message: the instruction, the C line, the register that matters, the way there."""

from __future__ import annotations

from typing import Any, Final

from workbench.errors import VerifierRejected
from workbench.objects.linked import LinkedObject, LinkedProgram
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa import text_of
from workbench.runtime.verifier.code import Code
from workbench.runtime.verifier.names import with_names
from workbench.runtime.verifier.precision import Checkpoint
from workbench.runtime.verifier.reject import Reject
from workbench.runtime.verifier.state import State

__all__ = ("decisions", "rejection", "rejection_at", "way")

_SHOWN: Final = 12  # decisions in the message; the log has all


def way(state: State) -> list[int]:
    """Slots of the instructions from the start to this state."""
    found: list[int] = []
    node: Any = state.trace
    while node is not None:
        if node.__class__ is Checkpoint:
            node = node.trace
            continue
        node, slot, _event = node
        found.append(slot)
    found.reverse()
    return found


def _place(code: Code, slot: int) -> str:
    line = code.line(slot)
    if line is None or not line.file:
        return ""
    return f"{line.file.rpartition('/')[2]}:{line.line}: {line.text.strip()}"


def decisions(code: Code, slots: list[int], last: int, maps: tuple[str, ...] = ()) -> list[str]:
    """What every conditional jump on the way decided."""
    found = []
    for slot, after in zip(slots, [*slots, last][1:], strict=True):
        one = code.slots[slot]
        if one is None or not one.is_jump or one.opcode in (op.GOTO, op.GOTOL):
            continue
        taken = after == one.target(slot)
        condition = text_of(one, slot, maps).removeprefix("if ").partition(" goto ")[0]
        place = _place(code, slot)
        found.append(
            f"{slot}: {condition} is {str(taken).lower()}" + (f"   ({place})" if place else "")
        )
    return found


def rejection_at(program: LinkedProgram, reject: Reject) -> VerifierRejected:
    """A rule that needs no path."""
    line = next((one for one in reversed(program.lines) if one.instruction <= reject.slot), None)
    place = (
        f"{line.file.rpartition('/')[2]}:{line.line}: {line.text.strip()}"
        if line is not None
        else ""
    )
    message = f"the verifier refuses program {program.name}: {reject.reason}\n  at instruction {reject.slot}"
    if place:
        message += f"\n  {place}"
    return VerifierRejected(
        message,
        reject.hint,
        message,
        program=program.name,
        reason=reject.reason,
        instruction=reject.slot,
        line=place,
    )


def rejection(
    program: LinkedProgram, obj: LinkedObject, code: Code, reject: Reject, state: State, slot: int
) -> VerifierRejected:
    """A rule that was broken in `state`, before the instruction at `slot`."""
    maps = tuple(one.name for one in obj.maps)
    one = code.slots[slot]
    text = text_of(one, slot, maps) if one is not None else ""
    place = _place(code, slot)
    reason = with_names(reject.reason, maps)
    registers = {
        f"r{i}": with_names(str(reg), maps) for i, reg in enumerate(state.top.regs) if str(reg)
    }
    slots = way(state)
    path = decisions(code, slots, slot, maps)
    lines = [
        f"the verifier refuses program {program.name}: {reason}",
        f"  at instruction {slot}: {text}",
    ]
    if place:
        lines.append(f"  {place}")
    part = code.part(slot)
    if len(code.parts) > 1:
        lines.append(f"  in function {part.name}")
    shown = {f"r{reject.register}"} if reject.register >= 0 else set()
    if one is not None:
        shown |= {f"r{one.dst}"} if one.kind != op.LDX else set()
        shown |= {f"r{one.src}"} if one.from_register or one.kind in (op.LDX, op.STX) else set()
    matter = sorted(shown & set(registers), key=lambda name: int(name[1:]))
    lines += [f"  {name} = {registers[name]}" for name in matter]
    if path:
        lines.append(f"  the shortest way there that was found takes {len(slots)} instructions:")
        left_out = len(path) - _SHOWN
        if left_out > 0:
            lines.append(f"    ... {left_out} decisions before, all in .path")
        lines += [f"    {step}" for step in path[-_SHOWN:]]
    message = "\n".join(lines)
    log = [message, "", "every instruction on the way:"]
    log += [
        f"{at}: {text_of(found, at, maps)}" for at in slots if (found := code.slots[at]) is not None
    ]
    log += [
        f"{slot}: {text}",
        "",
        "registers:",
        *[f"  {name} = {value}" for name, value in registers.items()],
    ]
    for frame in state.frames:
        if frame.stack:
            log.append(f"stack of frame {frame.number}:")
            log += [
                f"  r10 - {8 * at + 8}: {with_names(str(frame.stack[at]), maps)}"
                for at in sorted(frame.stack)
            ]
    return VerifierRejected(
        message,
        reject.hint,
        "\n".join(log),
        program=program.name,
        reason=reason,
        instruction=slot,
        line=place,
        registers=registers,
        path=tuple(path),
    )
