"""`workbench bpf conformance DIR`: a checkout of the public suite, in this process."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from workbench.errors import WorkbenchError

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("folder", metavar="DIR", help="checkout of Alan-Jowett/bpf_conformance")
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
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Run every test; 1 when one fails."""
    from workbench.runtime.isa.conformance import read_cases
    from workbench.runtime.once import run_interpreted, run_jit

    cases = read_cases(Path(arguments.folder))
    rows = []
    for done, case in enumerate(cases):
        if sys.stderr.isatty():
            print(f"\r{done} of {len(cases)} {case.name:40}", end="", file=sys.stderr)
        got, error = -1, ""
        try:
            if arguments.jit:
                got = run_jit(case.code, case.memory, arguments.tier)
            else:
                got = run_interpreted(case.code, case.memory)
        except WorkbenchError as problem:
            error = problem.message
        passed = error != "" if case.error else not error and got == case.result
        row = {"name": case.name, "passed": passed, "expected": case.error or f"{case.result:#x}"}
        rows.append(row | {"got": error or f"{got:#x}"})
    if sys.stderr.isatty():
        print(f"\r{'':60}\r", end="", file=sys.stderr)
    failed = [row for row in rows if not row["passed"]]
    engine = f"jit, {arguments.tier}" if arguments.jit else "interpreter"
    if arguments.json:
        document = {
            "engine": engine,
            "tests": len(rows),
            "passed": len(rows) - len(failed),
            "rows": rows,
        }
        print(json.dumps(document))
    else:
        for row in failed:
            print(f"FAIL  {row['name']}: {row['got']}, expected {row['expected']}")
        print(f"{len(rows) - len(failed)} of {len(rows)} tests passed ({engine})")
    return 1 if failed else 0
