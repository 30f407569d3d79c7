"""Text to code: both syntaxes, line by line, with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workbench.errors import WorkbenchError
from workbench.runtime.isa.codec import check_targets, decode_slots, encode
from workbench.runtime.isa.expressions import parse_expression
from workbench.runtime.isa.instruction import Instruction
from workbench.runtime.isa.mnemonics import is_mnemonic, parse_mnemonic
from workbench.runtime.isa.opcodes import LD_IMM64
from workbench.runtime.isa.statement import Names, Statement, SyntaxProblem

__all__ = ("assemble",)

_COMMENT = re.compile(r"(#|;|//).*")
_SLOT = re.compile(r"\d+:\s*(?:\([0-9a-f]{2}\)\s*)?")
_LABEL = re.compile(r"([\w.$<>]+):\s*")
# Beginnings that both syntaxes have; the C-like one knows more forms of them.
_SHARED = ("call", "callx", "lock", "may_goto")


def assemble(text: str, *, maps: Sequence[str] = (), check: bool = True) -> bytes:
    """Code for assembly text, one instruction a line, in either syntax (they may be mixed).

    Comments begin with `#`, `;` or `//`. `name:` is a label; a slot number before an instruction (`12: r0 = 1`, as
    the disassembler prints it) is skipped. A first `exit` is the label `exit` as well, as in the conformance suite.

    Parameters
    ----------
    text : str
        The program.
    maps : sequence of str
        Names of the maps by their index, for `r1 = map[NAME] ll`.
    check : bool
        Refuse code that `decode` would refuse, and jumps out of the code.

    Raises
    ------
    SyntaxProblem
        A line is no instruction, or a label is missing or defined twice; the message begins with the line's number.
    BadInstruction
        The instructions are not RFC 9669 code.
    """
    names = Names(tuple(maps))
    labels: dict[str, int] = {}
    statements: list[tuple[int, int, Statement]] = []
    slot, first_exit = 0, -1
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        try:
            while found := _LABEL.match(line):
                if skipped := _SLOT.match(line):
                    line = line[skipped.end() :]
                    continue
                name = found[1].strip("<>")
                if name in labels:
                    raise SyntaxProblem(f"label {name!r} is defined twice", "give one another name")
                labels[name] = slot
                line = line[found.end() :]
            if not line:
                continue
            statement = _statement(line, names)
        except SyntaxProblem as problem:
            raise SyntaxProblem(f"line {number}: {problem.message}", problem.hint) from None
        if line == "exit" and first_exit < 0:
            first_exit = slot
        statements.append((number, slot, statement))
        slot += statement.instruction.slots
    if first_exit >= 0:
        labels.setdefault("exit", first_exit)
    code = encode([_resolve(number, at, one, labels) for number, at, one in statements])
    if check:
        check_targets(decode_slots(code))
    return code


def _statement(line: str, names: Names) -> Statement:
    word = line.split(None, 1)[0]
    if not is_mnemonic(word):
        return parse_expression(line, names)
    if word not in _SHARED:
        return parse_mnemonic(" ".join(line.split()))
    try:
        return parse_mnemonic(" ".join(line.split()))
    except WorkbenchError as problem:
        try:
            return parse_expression(line, names)
        except WorkbenchError:
            raise problem from None


def _resolve(number: int, slot: int, statement: Statement, labels: dict[str, int]) -> Instruction:
    one = statement.instruction
    if not statement.label:
        return one
    if statement.label not in labels:
        known = ", ".join(labels) or "none"
        raise SyntaxProblem(
            f"line {number}: there is no label {statement.label!r}", f"labels: {known}"
        )
    distance = labels[statement.label] - slot - 1
    if not statement.wide:
        if not -(1 << 15) <= distance < 1 << 15:
            raise SyntaxProblem(
                f"line {number}: {statement.label!r} is {distance} slots away", "use gotol"
            )
        return Instruction(one.opcode, one.dst, one.src, distance, one.imm)
    wide = distance & 0xFFFFFFFF if one.opcode == LD_IMM64 else 0
    return Instruction(one.opcode, one.dst, one.src, 0, distance, wide)
