"""`workbench bpf check FILE.o [PROGRAM ...]`."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from workbench.errors import MissingCapability, VerifierRejected

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("object", metavar="FILE", help="BPF object (.o), or C source (.bpf.c)")
    parser.add_argument("program", metavar="PROGRAM", nargs="*", help="these programs only")
    parser.add_argument(
        "--states", action="store_true", help="what the verifier knows at every instruction"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.epilog = "exits with 1 when a program is refused; needs no privilege"


def execute(arguments: argparse.Namespace) -> int:
    """Verify every program and print a row for each, and why one is refused."""
    from workbench.cli.bpf.objects import opened
    from workbench.runtime.verifier import verify
    from workbench.runtime.verify import linked_for_user_space

    linked = linked_for_user_space(
        opened(arguments.object), programs=arguments.program or None
    )
    rows: list[dict[str, Any]] = []
    for name, program in linked.programs.items():
        began = time.perf_counter()
        row: dict[str, Any] = {
            "name": name,
            "section": program.section,
            "type": program.type,
            "instructions": len(program.code) // 8,
        }
        try:
            verdict = verify(program, linked)
        except (VerifierRejected, MissingCapability) as error:
            row |= {"accepted": False, "reason": error.message, "hint": error.hint}
        else:
            row |= {
                "accepted": True,
                "steps": verdict.steps,
                "states": verdict.states,
                "stack": verdict.stack_depth,
                "unbounded_loops": sorted(verdict.unbounded),
                "warnings": list(verdict.warnings),
            }
            if arguments.states:
                row["frame"] = verdict.frame
        row["seconds"] = round(time.perf_counter() - began, 4)
        rows.append(row)
    _print(arguments.object, rows, arguments.json)
    return 0 if all(row["accepted"] for row in rows) else 1


def _print(name: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            if "frame" in row:
                row["frame"] = json.loads(row["frame"].to_json(orient="records"))
        print(json.dumps({"object": name, "programs": rows}))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        head = f"{row['name']:{width}}  {row['instructions']:6} instructions  "
        if row["accepted"]:
            print(
                f"{head}accepted  {row['steps']:,} steps, {row['states']:,} states, "
                f"{row['stack']} bytes of stack, {row['seconds']:.2f} s"
            )
            for warning in row["warnings"]:
                print(f"  note: {warning}")
        else:
            print(f"{head}REFUSED")
            print("  " + row["reason"].replace("\n", "\n  "))
            if row["hint"]:
                print(f"  hint: {row['hint']}")
        if "frame" in row:
            print(row["frame"].to_string(index=False))
