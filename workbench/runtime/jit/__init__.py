"""Compile BPF programs with LLVM: position-independent code that runs in this process and in every target.

A new instruction or inlined helper is a case in one of `arithmetic`, `memory`, `calls`, `lookup`; offsets come from
`layout`. Nothing here may put an address into the code.
"""

from __future__ import annotations

from workbench.runtime.jit.blob import Blob, Symbol
from workbench.runtime.jit.code import Code, load
from workbench.runtime.jit.compile import compile_program
from workbench.runtime.jit.probe_code import ProbeCode
from workbench.runtime.jit.program import Program
from workbench.runtime.jit.raw import run_raw

__all__ = ("Blob", "Code", "ProbeCode", "Program", "Symbol", "compile_program", "load", "run_raw")
