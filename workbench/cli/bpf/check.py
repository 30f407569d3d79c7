"""`workbench bpf check FILE.o [PROGRAM ...]`."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from workbench.errors import MissingCapability, VerifierRejected

if TYPE_CHECKING:
    import pandas as pd

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
    from workbench.cli.bpf.objects import check_programs, opened
    from workbench.runtime.verifier import verify
    from workbench.runtime.verify import linked_for_user_space

    obj = opened(arguments.object)
    check_programs(obj, arguments.program)
    linked = linked_for_user_space(obj, programs=arguments.program or None)
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
    from workbench.cli.bpf.text import columns

    heads = columns(
        [
            [row["name"], row["section"], f"{row['instructions']:,} instructions", _result(row)]
            for row in rows
        ],
        right="llr",
    )
    for row, head in zip(rows, heads, strict=True):
        print(head)
        for warning in row.get("warnings", ()):
            print(f"  note: {warning}")
        if not row["accepted"]:
            print("  " + row["reason"].replace("\n", "\n  "))
            if row["hint"]:
                print(f"  hint: {row['hint']}")
        if "frame" in row:
            _print_states(row["frame"])
    refused = sum(not row["accepted"] for row in rows)
    if len(rows) > 1:
        print(f"{len(rows) - refused} of {len(rows)} programs accepted")


def _result(row: dict[str, Any]) -> str:
    if not row["accepted"]:
        return "REFUSED"
    return (
        f"accepted: {row['steps']:,} steps, {row['states']:,} states, {row['stack']} bytes of stack, "
        f"{row['seconds']:.2f} s"
    )


def _print_states(frame: pd.DataFrame) -> None:
    """Each line of C once, below it its instructions with what is known before each."""
    line = ("", 0)
    registers = [f"r{n}" for n in range(10)]
    for row in frame.to_dict("records"):
        here = (row["source"], row["line"])
        if here != line and row["source"]:
            print(f"  ; {row['source']}  (line {row['line']})")
        line = here
        known = [f"{name}={row[name]}" for name in registers if row[name] not in ("-", "")]
        if row["stack"]:
            known.append(f"stack {row['stack']}")
        print(f"  {row['slot']:5}: {row['text']:32}  {', '.join(known)}".rstrip())
