"""The states of every instruction as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from workbench.objects.linked import LinkedObject
from workbench.runtime.isa import text_of
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.code import Code
from workbench.runtime.verifier.names import with_names
from workbench.runtime.verifier.scalar import join
from workbench.runtime.verifier.state import Reg, State

if TYPE_CHECKING:
    import pandas as pd

__all__ = ("Recorder", "table")

_TEXTS: Final = 3  # distinct pointers shown for a register


class Recorder:
    """Joins, per instruction, what each register held on all visits."""

    def __init__(self, slots: int) -> None:
        self.visits = [0] * slots
        self.numbers: list[list[Any]] = [[None] * 11 for _ in range(slots)]
        self.pointers: list[list[dict[str, None]]] = [[{} for _ in range(11)] for _ in range(slots)]
        self.stacks: list[dict[int, dict[str, None]]] = [{} for _ in range(slots)]

    def __call__(self, slot: int, state: State) -> None:
        """One visit."""
        self.visits[slot] += 1
        numbers, pointers = self.numbers[slot], self.pointers[slot]
        for i, reg in enumerate(state.top.regs):
            self._register(i, reg, numbers, pointers)
        stacks = self.stacks[slot]
        for at, one in state.top.stack.items():
            texts = stacks.setdefault(at, {})
            if len(texts) <= _TEXTS:
                texts[str(one)] = None

    @staticmethod
    def _register(i: int, reg: Reg, numbers: list[Any], pointers: list[dict[str, None]]) -> None:
        if reg.kind == k.NUMBER:
            known = numbers[i]
            if known is not reg.s:
                numbers[i] = reg.s if known is None else join(known, reg.s)
        elif len(pointers[i]) <= _TEXTS:
            pointers[i][str(reg) or "-"] = None

    def text(self, slot: int, register: int) -> str:
        """What a register held, as text."""
        found = (
            [str(self.numbers[slot][register])] if self.numbers[slot][register] is not None else []
        )
        return " | ".join(found + _short(self.pointers[slot][register]))

    def stack(self, slot: int) -> str:
        """What the stack held, as text."""
        return "; ".join(
            f"-{8 * at + 8}: {' | '.join(_short(self.stacks[slot][at]))}"
            for at in sorted(self.stacks[slot])
        )


def _short(texts: dict[str, None]) -> list[str]:
    found = list(texts)
    return [*found[:_TEXTS], "..."] if len(found) > _TEXTS else found


def table(code: Code, obj: LinkedObject, run: Callable[[], Recorder]) -> pd.DataFrame:
    """One row per instruction: slot, function, text, line, source, visits, r0 ... r10, stack."""
    import pandas as pd

    recorder = run()
    maps = tuple(one.name for one in obj.maps)
    rows = []
    for slot, one in enumerate(code.slots):
        if one is None:
            continue
        line = code.line(slot)
        rows.append(
            {
                "slot": slot,
                "function": code.part(slot).name,
                "text": text_of(one, slot, maps),
                "line": line.line if line is not None else 0,
                "source": line.text.strip() if line is not None else "",
                "visits": recorder.visits[slot],
                **{f"r{i}": with_names(recorder.text(slot, i), maps) for i in range(11)},
                "stack": with_names(recorder.stack(slot), maps),
            }
        )
    return pd.DataFrame(rows)
