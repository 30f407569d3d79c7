"""Accepts a program or explains why not: abstract interpretation of every path over registers and stack.

One concern per module; the numbers in `kinds` are a contract with the JIT. Rules follow the kernel's verifier.
"""

from __future__ import annotations

from workbench.runtime.verifier.verdict import Verdict

__all__ = ("Verdict", "verify", "verify_object")

from workbench.runtime.verifier.check import verify, verify_object
