"""`workbench doctor`: what this machine can do, each row proven by trying."""

from __future__ import annotations

import argparse

from workbench.host import NAMES, doctor

__all__ = ("HELP", "configure", "execute")

HELP = "show what this machine can do, why not, and what to do about it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"rows to try (all): {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON list of {name, ok, reason, remedy}"
    )


def execute(args: argparse.Namespace) -> int:
    """Print the table; a machine that lacks something is no failure of the command."""
    table = doctor(args.names)
    print(table.to_json() if args.json else table)
    return 0
