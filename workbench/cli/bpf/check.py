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
    parser.epilog = (
        "Verifies for user space, and says which programs the kernel backend alone can attach and which maps "
        "are too large for this machine. Exit status: 0 = all programs can be loaded here; 1 = a program is refused "
        "or needs what user space lacks, or a map would not be made; 2 = no such file or program, not a BPF "
        "object, or C that clang refuses. Needs no privilege."
    )


def execute(arguments: argparse.Namespace) -> int:
    """Verify every program and print a row for each, and why one is refused; then maps that would not be made."""
    from workbench.cli.bpf.backends import attachable, kernel_only, map_rows
    from workbench.cli.bpf.objects import check_programs, no_object_is_bad_usage, opened
    from workbench.cli.bpf.text import under_way
    from workbench.runtime.verifier import verify
    from workbench.runtime.verify import linked_for_user_space, refuse_missing_helpers

    obj = opened(arguments.object)
    check_programs(obj, arguments.program)
    with no_object_is_bad_usage():
        linked = linked_for_user_space(obj, programs=arguments.program or None)
    rows: list[dict[str, Any]] = []
    for name, program in linked.programs.items():
        began = time.perf_counter()
        row: dict[str, Any] = {
            "name": name,
            "section": program.section,
            "type": program.type,
            "instructions": len(program.code) // 8,
            "attach": attachable(program),
        }
        try:
            with under_way(f"verifying {name}"):
                verdict = verify(program, linked)
            refuse_missing_helpers(program, verdict)
        except (VerifierRejected, MissingCapability) as error:
            row |= {"accepted": False, "reason": error.message, "hint": error.hint}
            if isinstance(error, MissingCapability):
                row["attach"] = kernel_only(error)
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
    maps = map_rows(linked.maps)
    _print(arguments.object, rows, maps, arguments.json)
    return 0 if all(row["accepted"] for row in rows) and not maps else 1


def _where(backends: list[str]) -> str:
    if len(backends) > 1:
        return "user space or kernel"
    return "user space only" if backends == ["userspace"] else "kernel only"


def _print(
    name: str, rows: list[dict[str, Any]], maps: list[dict[str, Any]], as_json: bool
) -> None:
    if as_json:
        for row in rows:
            if "frame" in row:
                row["frame"] = json.loads(row["frame"].to_json(orient="records"))
        print(json.dumps({"object": name, "programs": rows, "maps_refused": maps}))
        return
    from workbench.cli.bpf.text import columns

    heads = columns(
        [
            [
                row["name"],
                row["section"],
                f"{row['instructions']:,} instructions",
                _where(row["attach"]["backends"]),
                _result(row),
            ]
            for row in rows
        ],
        right="llrl",
    )
    for row, head in zip(rows, heads, strict=True):
        print(head)
        for warning in row.get("warnings", ()):
            print(f"  note: {warning}")
        if not row["accepted"]:
            print("  " + row["reason"].replace("\n", "\n  "))
            if row["hint"]:
                print(f"  hint: {row['hint']}")
        elif "reason" in row["attach"]:
            print(f"  kernel backend only: {row['attach']['reason']}")
            print(f"  hint: {row['attach']['hint']}")
        if "frame" in row:
            _print_states(row["frame"])
    refused = sum(not row["accepted"] for row in rows)
    if len(rows) > 1:
        print(f"{len(rows) - refused} of {len(rows)} programs accepted")
    for one in maps:
        print(f"loading is refused: {one['reason']}")
        if one["hint"]:
            print(f"  hint: {one['hint']}")


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
