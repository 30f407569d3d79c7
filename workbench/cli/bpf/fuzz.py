"""`workbench bpf fuzz`: a campaign of random programs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.bench.fuzz import Campaign

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument(
        "--programs", type=int, default=2000, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="same seed, same programs (default: 0)"
    )
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="pass over the seed's first N programs: go on with an interrupted campaign",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("verifier", "kernel", "quick", "optimised"),
        help="leave this out",
    )
    parser.add_argument(
        "--show", type=int, metavar="SEED", help="only print the program of a finding's seed"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Run; 1 when there is a bug."""
    from workbench.bench.fuzz import campaign

    if arguments.show is not None:
        return _show(arguments.show)
    if arguments.programs < 1:
        raise BadSpec(f"--programs {arguments.programs}", "at least 1")
    if arguments.first < 0:
        raise BadSpec(f"--first {arguments.first}", "programs to pass over: 0 or more")
    found = campaign(
        arguments.programs,
        arguments.seed,
        first=arguments.first,
        without=tuple(arguments.without),
        progress=_progress(arguments.programs) if sys.stderr.isatty() else None,
    )
    if sys.stderr.isatty():
        print(f"\r{'':78}\r", end="", file=sys.stderr)
    print(json.dumps(found.to_json()) if arguments.json else found)
    if found.interrupted:
        return 130
    return 1 if found.bugs else 0


def _progress(programs: int) -> Callable[[Campaign], None]:
    def show(found: Campaign) -> None:
        rate = found.programs / found.seconds
        text = f"{found.programs:,} of {programs:,} programs, {rate:.0f}/s, {sum(found.bugs.values())} bugs"
        print(f"\r{text:78}", end="", file=sys.stderr, flush=True)

    return show


def _show(seed: int) -> int:
    from workbench.bench.fuzz_programs import MAPS, generate
    from workbench.runtime.isa import decode, disassemble

    one = generate(seed)
    print(f"; seed {seed}, {one.risky or 'nothing risky'}, packet {one.packet.hex()}")
    names = {function.start: function.name for function in one.program.functions}
    slot = 0
    texts = disassemble(one.program.code, maps=[shape.name for shape in MAPS], functions=names)
    for instruction, text in zip(decode(one.program.code), texts, strict=True):
        if slot in names:
            print(f"{names[slot]}:")
        print(f"{slot:5}: {text}")
        slot += instruction.slots
    return 0
