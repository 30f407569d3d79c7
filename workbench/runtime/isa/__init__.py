"""Instructions of RFC 9669 and ISA v4: model, decoding with reasons, assembler and disassembler.

Everything that looks at BPF code (verifier, lowering, interpreter, JIT, tools) decodes it here. A new instruction is a
constant in `opcodes`, a rule in `codec`, a form in both syntaxes, a case in the interpreter and a line in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.runtime.isa.codec import BadInstruction, check_targets, decode, decode_slots, encode
from workbench.runtime.isa.instruction import Instruction

if TYPE_CHECKING:
    from workbench.runtime.isa.assembler import assemble
    from workbench.runtime.isa.disassembler import disassemble, text_of

__all__ = (
    "BadInstruction",
    "Instruction",
    "assemble",
    "check_targets",
    "decode",
    "decode_slots",
    "disassemble",
    "encode",
    "text_of",
)

_LATER = {"assemble": "assembler", "disassemble": "disassembler", "text_of": "disassembler"}


def __getattr__(name: str) -> Any:
    """The assembler compiles its patterns on import; running code must not pay for that."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
