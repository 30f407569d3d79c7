"""The reference interpreter: BPF programs on real memory, every access checked, written for reading.

It is the oracle of the JIT and of the verifier, so it takes no short cut: what it runs and how is what RFC 9669 says.
May be changed: everything but `Interpreter`, `Outcome`, `ProgramFault` and the face of `MapMemory`.
"""

from __future__ import annotations

from workbench.runtime.interpreter.fault import ProgramFault
from workbench.runtime.interpreter.machine import Interpreter, MapMemory, Outcome

__all__ = ("Interpreter", "MapMemory", "Outcome", "ProgramFault")
