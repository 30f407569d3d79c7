"""`workbench bpf plugin [--interpret|--jit] [MEMORY]`: the plugin protocol of bpf_conformance.

The runner gives the memory in hexadecimal as an argument and the program in hexadecimal on standard input, and reads
r0 in hexadecimal; an error is a non-zero exit status with its text on standard error.
"""

from __future__ import annotations

import argparse
import sys

from workbench.errors import BadSpec

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--interpret", action="store_true", help="in the reference interpreter (default)"
    )
    how.add_argument("--jit", action="store_true", help="compiled")
    parser.add_argument(
        "--tier",
        choices=("quick", "optimised"),
        default="optimised",
        help="of --jit (default: %(default)s)",
    )
    parser.add_argument(
        "memory", metavar="MEMORY", nargs="?", default="", help="memory at r1, hexadecimal"
    )
    parser.add_argument(
        "--program", metavar="HEX", help="the program (default: read it from standard input)"
    )
    parser.add_argument(
        "--elf", action="store_true", help="the program is an ELF file in hexadecimal"
    )
    parser.add_argument(
        "--debug",
        dest="disassemble",
        action="store_true",
        help="print the instructions to standard error",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Run the program once and print r0."""
    from workbench.runtime.once import run_interpreted, run_jit

    text = sys.stdin.read() if arguments.program is None else arguments.program
    code, memory = _bytes(text, "program"), _bytes(arguments.memory, "memory")
    if arguments.elf:
        code = _section(code)
    if arguments.disassemble:
        from workbench.runtime.isa import disassemble

        print("\n".join(disassemble(code)), file=sys.stderr)
    result = (
        run_jit(code, memory, arguments.tier) if arguments.jit else run_interpreted(code, memory)
    )
    print(f"{result:x}")
    return 0


def _bytes(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise BadSpec(
            f"the {what} is not hexadecimal: {error}", "two digits a byte, as in `b7 00 00 00`"
        ) from None


def _section(data: bytes) -> bytes:
    """The first section with instructions of an ELF file."""
    from workbench.objects.elf import SectionFile

    for section in SectionFile(data, "the program").sections:
        if section.flags & 4 and section.data:
            return bytes(section.data)
    raise BadSpec("the ELF file has no instructions", "give a BPF object")
