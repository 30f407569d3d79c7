"""`workbench bpf SUBVERB`: programs of the userspace runtime, one module per sub-verb, in the shape of bpftool.

A sub-verb is a row of `SUBVERBS` and a module here with `configure(parser)` and `execute(arguments)`, which imports
what it needs when it is called. May be changed: everything but that shape.
"""

from __future__ import annotations

import argparse

from workbench.cli import subverbs

__all__ = ("SUBVERBS", "configure", "execute")

SUBVERBS = {
    "check": "verify an object's programs: accepted, or why not, with the failing path",
    "run": "run one program on given input in user space or in the kernel",
    "disasm": "instructions of an object's programs, with map and function names and C lines",
    "progs": "programs that this user's processes have loaded in user space",
    "links": "which of them are attached to which process, where, and how often they ran",
    "maps": "maps of this user's namespaces",
    "dump": "entries of a map that some process shares",
    "gc": "take out what dead workbenches left: hooks in processes, shared memory",
    "plugin": "run one program given in hexadecimal: the plugin protocol of bpf_conformance",
    "conformance": "run a checkout of the public suite bpf_conformance",
    "fuzz": "random programs in interpreter, JIT, verifier and kernel: every difference is reported",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs."""
    subverbs.add(parser, __name__, SUBVERBS)


def execute(arguments: argparse.Namespace) -> int:
    """Run the sub-verb."""
    return subverbs.execute(__name__, arguments)
