"""Instructions of RFC 9669 and ISA v4: model, decoding with reasons, assembler and disassembler.

Everything that looks at BPF code (verifier, lowering, interpreter, JIT, tools) decodes it here. A new instruction is a
constant in `opcodes`, a rule in `codec`, a form in both syntaxes, a case in the interpreter and a line in the tests.
"""

from __future__ import annotations

from workbench.runtime.isa.codec import BadInstruction, check_targets, decode, decode_slots, encode
from workbench.runtime.isa.instruction import Instruction

__all__ = ("BadInstruction", "Instruction", "check_targets", "decode", "decode_slots", "encode")
