"""`workbench schema`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from workbench.frames.schema import SCHEMAS, schema

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("frame", nargs="*", help="frames to show, all by default")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Print the declared columns."""
    chosen = [schema(name) for name in arguments.frame or SCHEMAS]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in chosen], indent=1))
    else:
        print("\n\n".join(map(str, chosen)))
    return 0
