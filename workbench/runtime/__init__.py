"""Run a BPF object in user space: instruction set, interpreter, verifier, JIT, maps, helpers, attachment.

The C side is `workbench/native/runtime` (contract: runtime.h there); the design is docs/runtime.md. Imports nothing
from the kernel room; a new map type, helper or attach type is a new file and a row in its table.
"""
