"""`workbench reproduce PAPER.yaml`: re-execute a paper's notebooks from its recordings and check its numbers."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

HELP = "re-execute a paper's notebooks from its recordings (no root needed) and check every number it claims"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paper", metavar="PAPER.yaml", help="a paper, or one experiment (see docs/experiments.md)")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the outputs (default: out/reproduced)")
    parser.add_argument("--workers", type=int, metavar="N", help="notebooks to run at a time (default: one per CPU)")
    parser.add_argument(
        "--resume", action="store_true", help="keep what an earlier call completed, if nothing changed since"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def execute(args: argparse.Namespace) -> int:
    """Reproduce; 0 if every notebook completed and every claim holds."""
    from workbench.runs.reproduce import reproduce
    from workbench.runs.result import Interrupted

    try:
        result = reproduce(args.paper, args.output, resume=args.resume, workers=args.workers)
    except Interrupted as stop:
        _show(stop.result, args.json)
        print("interrupted; add --resume to go on where this ended", file=sys.stderr)
        return stop.exit_status
    _show(result, args.json)
    return 0 if result.ok else 1


def _show(result: Any, as_json: bool) -> None:
    from workbench.runs.reproduce import table

    if as_json:
        print(json.dumps(result.as_json(), indent=1))
        return
    print(f"{result.title}\n")
    print(table(result.verdicts) if result.verdicts else "the paper claims no number")
    print()
    for point in result.points:
        if point.status != "completed":
            print(f"{point.title}: {point.status}: {point.error}\n  see {point.log}")
    for verdict in result.verdicts:
        if verdict.note:
            print(f"{verdict.experiment}, {verdict.claim.name}: {verdict.note}")
    held = sum(verdict.ok for verdict in result.verdicts)
    ran = sum(point.status == "completed" for point in result.points)
    print(
        f"{held} of {len(result.verdicts)} claims hold; {ran} of {len(result.points)} notebooks completed; "
        f"outputs in {result.folder}"
    )
